"""Formulas and the colours of code, in headless Chromium."""

# ruff: noqa: F401, F811, RUF001  (fixtures are imported by their names; formulas have such signs)

from __future__ import annotations

import re

import pytest
from amounts import seeds
from pages import ask, done, expect, final, in_browser, opened, says

pytestmark = [*in_browser, pytest.mark.slow]

MATHML = """([source, isBlock]) => {
    const made = mathOf(source, isBlock);
    if (made === null) return null;
    made.querySelector("annotation").remove();
    return made.querySelector("semantics").innerHTML;
}"""

# What each is in MathML, with the attributes of operators left out.
FORMULAS = {
    r"x^2": "<msup><mi>x</mi><mn>2</mn></msup>",
    r"x_{ij}^{2}": "<msubsup><mi>x</mi><mrow><mi>i</mi><mi>j</mi></mrow><mn>2</mn></msubsup>",
    r"x^23": "<mrow><msup><mi>x</mi><mn>2</mn></msup><mn>3</mn></mrow>",
    r"\frac12": "<mfrac><mn>1</mn><mn>2</mn></mfrac>",
    r"\frac{a+b}{c}": "<mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mi>c</mi></mfrac>",
    r"\sqrt[3]{x}": "<mroot><mi>x</mi><mn>3</mn></mroot>",
    r"\sqrt x": "<msqrt><mi>x</mi></msqrt>",
    r"\alpha - \beta": "<mrow><mi>α</mi><mo>−</mo><mi>β</mi></mrow>",
    r"\mathbb{R}^n": "<msup><mi>ℝ</mi><mi>n</mi></msup>",
    r"\mathbf{W}x": "<mrow><mi>𝐖</mi><mi>x</mi></mrow>",
    r"\mathcal{L}": "<mi>ℒ</mi>",
    r"f'(x)": "<mrow><msup><mi>f</mi><mo>′</mo></msup><mo>(</mo><mi>x</mi><mo>)</mo></mrow>",
    r"\sum_{i=1}^n i": "<mrow><munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow>"
    "<mi>n</mi></munderover><mi>i</mi></mrow>",
    r"\int_0^1": "<msubsup><mo>∫</mo><mn>0</mn><mn>1</mn></msubsup>",
    r"\lim_{x\to0}": "<munder><mo>lim</mo><mrow><mi>x</mi><mo>→</mo><mn>0</mn></mrow></munder>",
    r"\sin^2 x": "<mrow><msup><mi>sin</mi><mn>2</mn></msup><mi>x</mi></mrow>",
    r"\text{if } x": "<mrow><mtext>if\u00a0</mtext><mi>x</mi></mrow>",
    r"\left( x \right]": "<mrow><mo>(</mo><mrow><mi>x</mi></mrow><mo>]</mo></mrow>",
    r"\hat{y}": "<mover><mi>y</mi><mo>^</mo></mover>",
    r"\binom{n}{k}": "<mrow><mo>(</mo><mfrac><mi>n</mi><mi>k</mi></mfrac><mo>)</mo></mrow>",
    r"\operatorname{softmax}(z)": "<mrow><mi>softmax</mi><mo>(</mo><mi>z</mi><mo>)</mo></mrow>",
    r"\begin{pmatrix}a & b\\c & d\end{pmatrix}": "<mrow><mo>(</mo><mtable>"
    "<mtr><mtd><mi>a</mi></mtd><mtd><mi>b</mi></mtd></mtr>"
    "<mtr><mtd><mi>c</mi></mtd><mtd><mi>d</mi></mtd></mtr></mtable><mo>)</mo></mrow>",
    r"a \\ b": "<mtable><mtr><mtd><mi>a</mi></mtd></mtr><mtr><mtd><mi>b</mi></mtd></mtr></mtable>",
    r"3.14,2": "<mrow><mn>3.14</mn><mo>,</mo><mn>2</mn></mrow>",
    r"a \not= b": "<mrow><mi>a</mi><mo>=\u0338</mo><mi>b</mi></mrow>",
    r"\overset{!}{=}": "<mover><mo>=</mo><mo>!</mo></mover>",
    r"{\rm d}x": "<mrow><mi>d</mi><mi>x</mi></mrow>",
}
# What models write, which has to be understood; and what is shown as it was written.
UNDERSTOOD = [
    r"\text{Attention}(Q,K,V)=\text{softmax}\!\left(\frac{QK^\top}{\sqrt{d_k}}\right)V",
    r"\begin{aligned} a &= b + c \\ &= d \end{aligned}",
    r"\begin{align*} f(x) &= \int_{-\infty}^{\infty} e^{-x^2}\,dx"
    r"\\[4pt] &= \sqrt{\pi} \end{align*}",
    r"f(x)=\begin{cases} x^2, & \text{if } x \ge 0 \\ -x, & \text{otherwise} \end{cases}",
    r"\boxed{x = \frac{-b \pm \sqrt{b^2-4ac}}{2a}}",
    r"\mathbb{E}_{x \sim p}\big[\log D(x)\big]",
    r"\nabla \times \vec{E} = -\frac{\partial \vec{B}}{\partial t}",
    r"\left\lfloor \frac{n}{2} \right\rfloor + \left\| v \right\|_2^2",
    r"\hat{\theta} = \arg\max_\theta \prod_{i=1}^{n} p(x_i \mid \theta)",
    r"\underbrace{a+\cdots+a}_{n\text{ times}}",
    r"\overline{z_1 z_2} \in \mathbb{C} \setminus \{0\}",
    r"P(A \cap B) \neq P(A)\,P(B) \implies A \not\perp B",
    r"\left.\frac{dy}{dx}\right|_{x=0}",
    r"x \equiv 3 \pmod{7}",
    r"A \xrightarrow[\Delta]{H^+} B",
    r"\sum_{\substack{i<j \\ i \ne k}} a_{ij}",
    r"\begin{array}{c|c} 1 & 2 \\ \hline 3 & 4 \end{array}",
    r"\left\{ x \in \mathbb{N} \;\middle|\; x > 3 \right\}",
    r"10\,\% \approx \$5 \times 2",
    r"y = \color{red}{x} + \textcolor{blue}{z} \tag{1}",
    r"\bm{\Sigma} = \operatorname*{diag}(\sigma_1^{2}, \dots, \sigma_n^{2})^{\!\top}",
    r"\Pr[X > t] \leq e^{-\lambda t}\, \mathrm{E}\!\left[e^{\lambda X}\right]",
]
NOT_UNDERSTOOD = [
    r"\href{javascript:alert(1)}{x}",
    r"\includegraphics{x}",
    r"\frac{1",
    r"x}",
    r"x^a^b",
    r"x_",
    r"\left( x",
    r"\begin{pmatrix} 1",
    r"\begin{pmatrix} 1 \end{bmatrix}",
    r"\begin{tikzpicture}\end{tikzpicture}",
    r"\constructor",
    r"\__proto__ x",
    "{" * 5000,
    r"\sqrt" * 4000,
    "x" * 20000,
    "",
]


def test_formulas_are_mathml(says, opened):
    page = opened(says(final("ok")))
    for source, expected in FORMULAS.items():
        made = page.evaluate(MATHML, [source, True])
        shown = re.sub(r"<(\w+) [^<>]*>", r"<\1>", made or "none").replace("&nbsp;", "\u00a0")
        assert shown == expected, source


def test_what_models_write_is_understood(says, opened):
    page = opened(says(final("ok")))
    for source in UNDERSTOOD:
        assert page.evaluate(MATHML, [source, True]) is not None, source


def test_what_is_not_understood_is_shown_as_it_is(says, opened):
    page = opened(says(final("\n\n".join(rf"\[{source}\]" for source in NOT_UNDERSTOOD[:10]))))
    for source in NOT_UNDERSTOOD:
        assert page.evaluate(MATHML, [source, True]) is None, source[:40]
    ask(page, "Go")
    done(page)
    shown = page.locator(".md .source")
    expect(shown).to_have_text([rf"\[{source}\]" for source in NOT_UNDERSTOOD[:10]])
    expect(page.locator(".md math, .md a, .md img")).to_have_count(0)


def test_any_text_is_a_formula_or_none(says, opened):
    """Random pieces of TeX never fail in another way, and what is made has only MathML in it."""
    page = opened(says(final("ok")))
    wrong = page.evaluate(
        r"""count => {
            const pieces = ["{", "}", "\\frac", "\\sqrt", "[", "]", "^", "_", "&", "\\\\", "x",
                "12", "'", " ", "\\left", "\\right", "(", ")", ".", "\\begin{cases}",
                "\\end{cases}", "\\text{a b}", "\\sum", "\\limits", "\\mathbf", "\\alpha",
                "\\middle", "|", "\\big", "\\not", "<", "\\hat", "\\substack",
                "\\operatorname", "é", "😀"];
            let state = 1;
            const random = n => (state = (state * 48271) % 2147483647) % n;
            const wrong = [];
            for (let n = 0; n < count; n++) {
                const piece = () => pieces[random(pieces.length)];
                const source = Array.from({ length: 1 + random(14) }, piece).join("");
                try {
                    const made = mathOf(source, n % 2 === 0);
                    const names = made ? [made, ...made.querySelectorAll("*")] : [];
                    if (names.some(one => one.namespaceURI !== MATHML)) wrong.push(source);
                } catch (error) { wrong.push(`${source}: ${error}`); }
            }
            return wrong;
        }""",
        len(seeds(8000)),
    )
    assert wrong == []


def test_a_formula_is_shown_when_it_is_whole(says, opened):
    page = opened(
        says(final(r"So \(a_1\) and $b^2$ cost $5: " + "\n\n$$\n\\sum_i x_i\n$$\n\nDone"))
    )
    ask(page, "Go")
    done(page)
    maths = page.locator(".md math")
    expect(maths).to_have_count(3)
    expect(maths.last).to_have_attribute("display", "block")
    expect(page.locator(".md annotation")).to_have_text(["a_1", "b^2", r"\sum_i x_i"])
    height = maths.last.evaluate("node => node.getBoundingClientRect().height")
    assert height > 20, "it is laid out as a formula"


def test_a_line_is_as_long_as_what_it_stands_over(says, opened):
    """Not every font has a line that can be stretched, so it is a border."""
    page = opened(says(final(r"\(\overline{ABCD}\) and \(\underline{ABCD}\)")))
    ask(page, "Go")
    done(page)
    drawn = page.locator(".md math mrow[class]").evaluate_all(
        """nodes => nodes.map(node => [node.className,
            getComputedStyle(node).borderTopStyle, getComputedStyle(node).borderBottomStyle])"""
    )
    assert drawn == [["overline", "solid", "none"], ["underline", "none", "solid"]]


def test_equations_need_no_marks_around_them(says, opened):
    """Models write environments as LaTeX has them; one that does not end stays as it is."""
    align = r"\begin{align*} a &= b \\ a + b + c &= d \end{align*}"
    numbered = "\\begin{equation}\nx = 1\n\\end{equation}"
    within = rf"so {align} and"
    unfinished = r"\begin{gather} x"
    page = opened(says(final("\n\n".join([align, numbered, within, unfinished]))))
    ask(page, "Go")
    done(page)
    blocks = page.locator(".md math[display=block]")
    expect(blocks.locator("annotation")).to_have_text([align, numbered, align])
    expect(blocks.locator("mtable.aligned")).to_have_count(2)
    expect(page.locator(".md .source")).to_have_text(unfinished)
    ends = blocks.first.locator("mtd:first-child > *").evaluate_all(
        "nodes => nodes.map(node => node.getBoundingClientRect().right)"
    )
    assert len(ends) == 2 and abs(ends[0] - ends[1]) < 1, "they end at the sign"


CODE = {
    "python": (
        "def f(x):  # a \"note\"\n    return f\"{x}\" + '''a\nb''' + 0x1F",
        {"c-word": ["def", "return"], "c-note": ['# a "note"'], "c-number": ["0x1F"]},
    ),
    "js": (
        "const a = `x\n${1}`; // no\n/* yes */ a1.for",
        {"c-word": ["const"], "c-note": ["// no", "/* yes */"], "c-text": ["`x\n${1}`"]},
    ),
    "bash": (
        'echo "$HOME"#x # note\nfor f in *; do done',
        {"c-note": ["# note"], "c-word": ["echo", "for", "in", "do", "done"]},
    ),
    "sql": ("SELECT 'a' FROM t -- all", {"c-word": ["SELECT", "FROM"], "c-note": ["-- all"]}),
    "json": ('{"a": [1.5, true]}', {"c-text": ['"a"'], "c-number": ["1.5"], "c-word": ["true"]}),
    "html": ('<a href="x">&amp;</a>', {"c-text": ['"x"'], "c-number": ["&amp;"]}),
    "diff": ("--- a\n+++ b\n-x\n+y\n z", {"c-gone": ["-x\n"], "c-added": ["+y\n"]}),
    "nothing": ("for x in y", {}),
    "constructor": ("for x in y", {}),
}
COLOURED = """([code, language]) => {
    const root = document.createElement("code");
    root.append(...coloured(code, language));
    const classes = {};
    for (const one of root.children) (classes[one.className] ??= []).push(one.textContent);
    return [root.textContent, classes];
}"""


def test_code_has_colours_and_stays_whole(says, opened):
    page = opened(says(final("ok")))
    for language, (code, expected) in CODE.items():
        text, classes = page.evaluate(COLOURED, [code, language])
        assert text == code
        for name, words in expected.items():
            assert classes.get(name) == words, (language, name, classes)
        if not expected:
            assert classes == {}


HOSTILE = [
    '"' * 30000,
    "'''" * 10000,
    "/*" * 15000,
    "\\" * 30000,
    "a" * 39000,
    "1_" * 15000,
    "<" * 30000,
]
HOSTILE += ["<!--" * 9000, '="' * 15000, "b'" * 15000, "-" * 30000, "\n" * 30000, "x.1" * 10000]


def test_colouring_takes_time_in_proportion(says, opened):
    """Every language, on text that makes careless expressions quadratic."""
    page = opened(says(final("ok")))
    slow = page.evaluate(
        """texts => {
            const slow = [];
            for (const language of [...Object.keys(LANGUAGES), "html", "diff"])
                for (const text of texts) {
                    const began = performance.now();
                    const shown = coloured(text, language).map(one => one.textContent ?? one);
                    if (shown.join("") !== text) slow.push([language, "lost"]);
                    const took = performance.now() - began;
                    if (took > 3000) slow.push([language, text.slice(0, 9), took]);
                }
            return slow;
        }""",
        HOSTILE,
    )
    assert slow == []
