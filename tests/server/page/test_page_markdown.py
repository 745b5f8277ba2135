"""The page's Markdown, in headless Chromium: what it makes of a text, whole or growing, friendly or
not.
"""

# ruff: noqa: F401, F811  (fixtures are imported by their names)

from __future__ import annotations

import re
from random import Random

import pytest
from pages import (
    answers,
    ask,
    call,
    done,
    expect,
    final,
    in_browser,
    opened,
    playwright,
    says,
    thought,
)

pytestmark = in_browser


def markdown(page, text: str) -> str:
    """The HTML that a whole text becomes."""
    return page.evaluate(
        """text => { const root = document.createElement("div");
            new MarkdownView(root).update(text, true); return root.innerHTML; }""",
        text,
    )


SHOWN = {
    "a **b** *c* ***d*** ~~e~~ __f__ _g_ snake_case_name 2*3*4": (
        "<p>a <strong>b</strong> <em>c</em> <em><strong>d</strong></em> <s>e</s> "
        "<strong>f</strong> <em>g</em> "
        "snake_case_name 2<em>3</em>4</p>"
    ),
    "2 * 3 * 4 and **open and *nested **x** y*": (
        "<p>2 * 3 * 4 and **open and <em>nested <strong>x</strong> y</em></p>"
    ),
    "# One\n### Three ###\n####### seven": "<h1>One</h1><h3>Three</h3><p>####### seven</p>",
    "a\nb\n\nc": "<p>a<br>b</p><p>c</p>",
    "a\n\n---\n***\nb": "<p>a</p><hr><hr><p>b</p>",
    "`a*b*` ``c`d`` `open": "<p><code>a*b*</code> <code>c`d</code> `open</p>",
    "- a\n- b\n  - c\n    - d\n- e": "<ul><li>a</li><li>b<ul><li>c<ul><li>d</li></ul></li></ul></"
    "li><li>e</li></ul>",
    "3. a\n4. b\n\n   more\n5. c": '<ol start="3"><li>a</li><li><p>b</p><p>more</p></li><li>c</'
    "li></ol>",
    "1. a\n- b": "<ol><li>a</li></ol><ul><li>b</li></ul>",
    "text\n- a\n- b\ntext": "<p>text</p><ul><li>a</li><li>b<br>text</li></ul>",
    "- [x] a\n- [ ] b": "<ul><li>☑ a</li><li>☐ b</li></ul>",
    "In 1986. What\n2. b": "<p>In 1986. What<br>2. b</p>",
    "> a\n> > b\n\nc": "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>",
    r"\*a\* \_b\_ 1\. &lt;b&gt; &amp;amp;": "<p>*a* _b_ 1. &lt;b&gt; &amp;amp;</p>",
    r"\(\a_1 * b_2 * c\) and $\x_i * y_i$ cost $5 and $6": (
        r'<p><span class="math source">\(\a_1 * b_2 * c\)</span> and '
        r'<span class="math source">$\x_i * y_i$</span> cost $5 and $6</p>'
    ),
    "so\n\\[\n\\a * b\n- c * d\n\\]\nthen": (
        '<p>so</p><div class="math source">\\[\n\\a * b\n- c * d\n\\]</div><p>then</p>'
    ),
    "a<br>b <i>c</i>": "<p>a<br>b &lt;i&gt;c&lt;/i&gt;</p>",
    "1. do\n   ```sh\n   ls\n     -l\n   ```\n2. then": None,
}


def test_markdown(says, opened):
    page = opened(says(final("ok")))
    for text, html in SHOWN.items():
        if html is not None:
            assert markdown(page, text) == html, text
    nested = markdown(page, "1. do\n   ```sh\n   ls\n     -l\n   ```\n2. then")
    assert nested.startswith("<ol><li>do<div") and "<code>ls\n  -l</code>" in nested
    assert nested.endswith("<li>then</li></ol>")
    table = markdown(page, "| a | b \\| c |\n|:-:|--:|\n| `x` | **y** |\n| 1 |\nend")
    assert table == (
        '<div class="table"><table><thead><tr><th data-align="center" scope="col">a</th>'
        '<th data-align="right" scope="col">b | c</th></tr></thead><tbody><tr>'
        '<td data-align="center"><code>x</code></td><td '
        'data-align="right"><strong>y</strong></td></tr>'
        '<tr><td data-align="center">1</td></tr></tbody></table></div>'
        "<p>end</p>"
    )
    linked = markdown(
        page, "[a **b**](https://a.example/x_(y)) https://b.example/c_d_e. <mailto:a@b.example>"
    )
    hrefs = re.findall(
        r'<a href="([^"]*)" target="_blank" rel="noopener noreferrer nofollow"', linked
    )
    assert hrefs == ["https://a.example/x_(y)", "https://b.example/c_d_e", "mailto:a@b.example"]
    assert "a <strong>b</strong></a>" in linked and "c_d_e</a>." in linked


PIECES = [
    "# A *head*", "Some **bold *and* `code`** text", "with a second line", "", "- one", "- two",
    "  more", "  - deep",
    "", "1. a", "2. b", "", "   c", "```py", "x = 1", "", "- no list", "```", "| a | b |",
    "|---|---|", "| 1 | *2* |",
    "> quoted", "lazy", "---", "\\[ x_1", "\\]", "[link](https://a.example)", "\ttabbed", "   ```",
    "10. ten",
    "* star", "***", "~~gone~~", "$$", "$x$",
]  # fmt: skip
GROWN = """([text, cuts]) => {
  const make = (...ends) => {
    const root = document.createElement("div"), view = new MarkdownView(root);
    for (const end of ends) view.update(text.slice(0, end), false);
    view.update(text, true); return root.innerHTML; };
  return [make(...cuts), make()];
}"""


def test_what_grows_ends_as_what_comes_at_once(says, opened):
    """Any text, cut anywhere: what has been settled early is what the whole text would have made of
    it.
    """
    page = opened(says(final("ok")))
    random = Random(7)
    for _ in range(400):
        text = "\n".join(random.choice(PIECES) for _ in range(random.randint(1, 25)))
        cuts = sorted(random.sample(range(len(text) + 1), min(len(text), random.randint(1, 60))))
        grown, whole = page.evaluate(GROWN, [text, cuts])
        assert grown == whole, text


HOSTILE = [
    "*" * 20000,
    "*a " * 8000,
    "**a _b " * 5000,
    "[" * 20000,
    "](" * 10000,
    "`" * 20001,
    "` `` ``` " * 3000,
    "> " * 3000,
    "- " * 5000,
    "a | " * 8000 + "\n" + "-|" * 8000,
    "$a " * 8000,
    "\\(" * 10000,
    "http://" * 4000,
    "http:// " * 4000,
    "<" * 20000,
    "_" * 3 + "a_" * 8000,
    "\n".join(" " * n + "- a" for n in range(300)),
    " " * 50000 + "x",
    "# " + " " * 50000 + "x",
    "```" + " " * 50000 + "`",
    "\t" * 20000 + "- x",
    "1. " * 3000,
    "![" * 8000,
    "&" * 20000,
    "~~a" * 6000,
    "***a" * 6000,
]


@pytest.mark.slow  # measures time
def test_hostile_markdown_takes_no_time(says, opened):
    page = opened(says(final("ok")))
    timed = """text => {
      const began = performance.now(), root = document.createElement("div");
      new MarkdownView(root).update(text, true);
      document.body.append(root);
      root.offsetHeight;
      root.remove();
      return performance.now() - began;
    }"""
    for text in HOSTILE:
        took = page.evaluate(timed, text)
        assert took < 1500, (text[:30], took)


@pytest.mark.slow  # measures time
def test_a_very_long_answer_stays_fluid(says, opened):
    """A hundred thousand words as they come: the cost of a step must not grow with what is already
    there, and no single step may hold the page up.
    """
    page = opened(says(final("ok")))
    timed = """([piece, count]) => {
      const root = document.createElement("div"), view = new MarkdownView(root), took = [];
      document.querySelector("#scroll").append(root);
      let text = "";
      for (let n = 0; n < count; n++) {
        text += piece.replaceAll("@", n);
        const began = performance.now(); view.update(text, false);
        took.push(performance.now() - began);
      }
      // other programs take time, too
      const median = list => list.sort((a, b) => a - b)[list.length >> 1];
      const shown = root.childElementCount; root.remove();
      const most = Math.max(...took);
      return [median(took.slice(0, count / 4)), median(took.slice(-count / 4)), most, shown];
    }"""
    words = (
        "Some words of **paragraph @**, and `code` with [a link](https://a.example/@) " * 4 + "\n\n"
    )
    for piece in (
        words,
        "- item @ with *emphasis*\n",
        "| a @ | b |\n|---|---|\n| 1 | 2 |\n\n",
        "```py\nx = @\n```\n",
    ):
        first, last, most, shown = page.evaluate(timed, [piece, 2000])
        assert last < 4 * first + 1 and most < 500, (piece, first, last, most)
        assert shown == (1 if piece.startswith("-") else 2000)


ATTACKS = [
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "<svg onload=window.hit=1>",
    "[a](javascript:window.hit=1)",
    "[a](JaVaScRiPt:window.hit=1)",
    "[a](java\tscript:window.hit=1)",
    "[a](&#106;avascript:window.hit=1)",
    "[a](data:text/html,<script>window.hit=1</script>)",
    "[a](vbscript:x)",
    "<javascript:window.hit=1>",
    "[a](<javascript:window.hit=1>)",
    "![x](javascript:window.hit=1)",
    "![x](https://evil.example/p.png)",
    '[a](https://a.example" onclick="window.hit=1)',
    "```<img src=x onerror=window.hit=1>\n<script>window.hit=1</script>\n```",
    "|<img src=x onerror=window.hit=1>|b|\n|-|-|\n|<script>window.hit=1</script>|",
    "[a]: javascript:window.hit=1\n[a]",
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    "<a href=javascript:window.hit=1>a</a>",
    "<style>body{display:none}</style>",
    "<base href=https://evil.example/>",
    "<form action=https://evil.example><input>",
    "**<b onmouseover=window.hit=1>x</b>**",
    "`<script>window.hit=1</script>`",
    "$<img src=x onerror=window.hit=1>$",
    "[<img src=x onerror=window.hit=1>](https://a.example)",
]


def test_nothing_that_a_model_says_is_run_or_loaded(says, opened):
    text = "\n\n".join(ATTACKS)
    page = opened(
        says(thought(text) + call("calculator", expression=text), thought(text) + final(text))
    )
    ask(page, text)
    done(page)
    for link in page.locator(".md a").all():
        assert re.match(r"https://(a|evil)\.example/", link.get_attribute("href"))
    page.mouse.move(500, 400)
    assert page.evaluate("() => window.hit") is None
    allowed = "p br hr h1 h2 h3 h4 h5 h6 em strong s code pre a span div button ul ol li blockquote"
    allowed += " table thead tbody tr th td math semantics annotation mrow mi mn mo"
    names = page.evaluate(
        "() => [...new Set([...document.querySelectorAll('.md *')].map(e => e.localName))]"
    )
    assert set(names) <= set(allowed.split())
    assert (
        page.evaluate(
            "() => document.querySelectorAll('#log img, #log script, #log iframe, #log "
            "form').length"
        )
        == 0
    )
    assert page.evaluate(
        """() => [...document.querySelectorAll(".md *")].flatMap(e => e.getAttributeNames())
            .every(name => !name.startsWith("on") && name !== "style")"""
    )
    for said in (".said", ".thought-text"):
        expect(page.locator(said).first).to_contain_text(
            "<img src=x onerror='window.hit = 1'>", use_inner_text=False
        )


HOLES = [
    "document.body.innerHTML = '<img src=x onerror=window.hit=1>'",
    "document.body.setAttribute('onclick', 'window.hit=1')",
    "document.body.append(Object.assign(document.createElement('script'), { textContent: "
    "'window.hit=1' }))",
    "setTimeout('window.hit=1')",
]


def test_its_own_policy_holds(says, opened):
    """Were there a hole after all, the browser would not run what comes through it."""
    page = opened(says(final("ok")))
    for hole in HOLES:
        with pytest.raises(playwright.Error, match="requires 'Trusted"):
            page.evaluate(f"() => {{ {hole}; }}")
    page.evaluate(
        "() => document.body.append(Object.assign(new Image(), { src: 'https://a.example/p.png' }))"
    )
    page.wait_for_timeout(100)
    assert page.evaluate("() => window.hit") is None
    assert any(
        "https://a.example/p.png" in line and "Content Security Policy" in line
        for line in opened.wrong
    )
    opened.wrong.clear()
