"""A model's text without its dress: one line of plain characters for every line that was written.

Markdown, LaTeX, HTML tags and the many Unicode forms of the same character go; what they said stays
as marks, single characters of a private range:

    The answer is $\\boxed{\\dfrac{50}{2}}$.   ->   The answer is [BOX]((50)/(2))[BOX_END].

Knows how answers are written, not what they mean. Every function takes linear time, whatever text
it is given.
"""

from __future__ import annotations

import re

from ossia.evals.reading.characters import MIXED, THIN, folded

BOX = "\ue000"
BOX_END = "\ue001"
BOLD = "\ue002"
BOLD_END = "\ue003"
BROKEN_BOX = "\ue004"  # a box that was opened, and then the text ended
_BOX_MARKS = BOX + BOX_END + BROKEN_BOX
_BOLD_MARKS = BOLD + BOLD_END
_WITHOUT_MARKS = str.maketrans("", "", _BOX_MARKS + _BOLD_MARKS)
DEEPEST = 40  # groups inside groups; what is deeper is left as it stands


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_REPEATING = re.compile(r"(?<![\d.])(\d{0,20})\.(\d{0,20})\\(?:overline|bar)\{(\d{1,20})\}")
_ARGUMENT_STAYS = words_of(
    "text mathrm mathit mathsf mathtt mathcal mathbb mathnormal textrm textit textsf texttt "
    "textup textnormal operatorname mbox hbox emph underline overline ensuremath mathop "
    "mathord uline hphantom smash displaylines"
)
_ARGUMENT_GOES = words_of(
    "begin end tag label color hspace vspace phantom vphantom ref href fontsize "
    "cancel bcancel xcancel sout st"
)
_BOLDS = words_of("textbf mathbf boldsymbol bm pmb bold mathbfit symbf")
_BOXES = words_of("boxed fbox framebox Boxed colorbox")
_FRACTIONS = words_of("frac dfrac tfrac cfrac nicefrac sfrac")
_NOTHING = words_of(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle scriptstyle "
    "limits nolimits bf it rm sf tt bfseries itshape centering hfill noindent large Large "
    "LARGE huge Huge normalsize small"
)
_WRITTEN = {
    "cdot": "*",
    "times": "*",
    "ast": "*",
    "div": "/",
    "circ": "°",
    "degree": "°",
    "pi": "π",
    "pm": "±",
    "approx": "≈",
    "simeq": "≈",
    "cong": "≈",
    "equiv": "≡",
    "to": " => ",
    "rightarrow": " => ",
    "longrightarrow": " => ",
    "Rightarrow": " => ",
    "implies": " => ",
    "therefore": " therefore ",
    "ldots": "...",
    "dots": "...",
    "cdots": "...",
    "le": "≤",
    "leq": "≤",
    "ge": "≥",
    "geq": "≥",
    "ne": "≠",
    "neq": "≠",
    "quad": " ",
    "qquad": " ",
    "space": " ",
    "thinspace": THIN,
    "newline": "\n",
    "colon": ":",
    "lbrace": "",
    "rbrace": "",
    "dollar": "",
    "percent": "%",
}
_SIGNS = {
    ",": THIN,
    ";": " ",
    ":": " ",
    "!": "",
    " ": " ",
    "\\": "\n",
    "(": " ",
    ")": " ",
    "[": " ",
    "]": " ",
    "{": "",
    "}": "",
    "$": "",
    "/": "",
    "\n": "\n",
}
_NAME = re.compile(r"[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z0-9.]+")
_TAG = re.compile(r"</?([A-Za-z_]{1,16})(?:\s[^<>\n]{0,80})?/?>")
_SPECIAL = re.compile(r"<\|[a-z_]{1,24}\|>")  # a token that some server leaves in the text
_BOLD_TAGS = ("b", "strong")
_ANSWER_TAGS = ("answer", "final_answer", "final")
_TAGS = words_of("i em u p br span div code pre sub sup center mark li ul ol h1 h2 h3 h4")
_LINE_START = re.compile(r"[ \t]*(?:(#{1,6})[ \t]|[>][ \t]?|[-*+•][ \t](?=\S))")
_GRADE_SCHOOL = "####"  # how GSM8K's solutions introduce their answer


# What is struck out was taken back.
_STRUCK = re.compile(r"~~[^~\n]{1,200}~~|<(s|del|strike)>[^<\n]{0,200}</\1>", re.IGNORECASE)
_OVER = re.compile(r"\{([^{}\\\n]{1,40})\\over(?![A-Za-z])([^{}\\\n]{1,40})\}")
_FACTORIAL = re.compile(r"(\d{1,3})!(?=[ \t]*(?:\$|\\[)\]]))")  # before formulas end


def marked(text: str) -> str:
    """The text in plain characters, with marks where it was boxed or bold."""
    text = _STRUCK.sub(" ", folded(text))
    text = _OVER.sub(r"\\frac{\1}{\2}", text)
    text = _FACTORIAL.sub(r"(\1!)", text)
    return _Writer(_REPEATING.sub(_as_fraction, text)).run()


def _as_fraction(found: re.Match[str]) -> str:
    """0.1\\overline{6} is (16 - 1) / 90."""
    before = found[1] + found[2]
    top = int(before + found[3]) - int(before or "0")
    below = 10 ** len(found[2]) * (10 ** len(found[3]) - 1)
    return f"\\frac{{{top}}}{{{below}}}"


def without_marks(text: str) -> str:
    return text.translate(_WITHOUT_MARKS)


# ---- Markdown, LaTeX and tags --------------------------------------------------------------------


class _Writer:
    """Reads from left to right, and into each group once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.partner = _partners(text)
        self.bold = False

    def run(self) -> str:
        out = self.span(0, len(self.text), 0)
        if self.bold:
            out += BOLD_END
        return out.replace("^°", "°").replace("^(°)", "°").replace(f"+{MIXED}", "+")

    def span(self, at: int, end: int, depth: int) -> str:
        """What stands from `at` to `end`."""
        if depth > DEEPEST:
            return self.text[at:end].replace("\\", " ")
        out: list[str] = []
        while at < end:
            if at == 0 or self.text[at - 1] == "\n":
                at = self._line_start(at, end, out)
                if at >= end:
                    break
            at = self._piece(at, end, depth, out)
        return "".join(out)

    def _line_start(self, at: int, end: int, out: list[str]) -> int:
        found = _LINE_START.match(self.text, at, end)
        if found is None:
            return at
        if found[1] == _GRADE_SCHOOL:
            out.append("Answer: ")
        return found.end()

    def _piece(self, at: int, end: int, depth: int, out: list[str]) -> int:
        """Write what stands at `at`; where it ends."""
        text = self.text
        char = text[at]
        match char:
            case "\\":
                return self._command(at, end, depth, out)
            case "{":
                return self._group(at, end, depth, out)
            case "}" | "$" | "`":
                return at + 1
            case "*":
                return self._star(at, end, out)
            case "_":
                return self._underline(at, end, out)
            case "<":
                return self._tag(at, end, out)
            case "b" if text.startswith("boxed{", at, end) and not _is_letter(text, at - 1):
                return self._box(at + len("boxed"), end, depth, out)
            case "~":
                out.append(" ")
                return at + 1
            case "\n" if self.bold:  # it was never closed
                self._switch(out)
        out.append(char)
        return at + 1

    def _command(self, at: int, end: int, depth: int, out: list[str]) -> int:
        found = _NAME.match(self.text, at + 1, end)
        if found is None:
            sign = self.text[at + 1 : min(at + 2, end)]
            out.append(_SIGNS.get(sign, sign))
            return at + 2
        name = found[0]
        after = found.end()
        if name in _BOXES:
            if name == "colorbox":
                _, after = self._argument(after, end, depth)
            return self._box(after, end, depth, out)
        if name in _FRACTIONS:
            return self._fraction(after, end, depth, out)
        if name in _ARGUMENT_STAYS or name in _BOLDS:
            inside, after = self._argument(after, end, depth, needs_braces=True)
            out.append(f"{BOLD}{inside}{BOLD_END}" if name in _BOLDS else inside)
            return after
        if name in _ARGUMENT_GOES or name == "textcolor":
            argument, after = self._argument(after, end, depth, needs_braces=True)
            if name == "begin" and argument.rstrip("*") in ("array", "tabular"):
                return self._argument(after, end, depth, needs_braces=True)[1]
            return after
        if name == "sqrt":
            return self._root(after, end, depth, out)
        if name in _NOTHING:
            if name in ("left", "right") and self.text.startswith(".", after, end):
                after += 1
            return after
        out.append(_WRITTEN.get(name, f" \\{name}"))
        return after

    def _group(self, at: int, end: int, depth: int, out: list[str]) -> int:
        close = self.partner.get(at)
        if close is None or close >= end:
            return at + 1
        inside = self.span(at + 1, close, depth + 1)
        raised = bool(out) and out[-1] in ("^", "_")
        out.append(f"({inside})" if raised else inside)
        return close + 1

    def _box(self, at: int, end: int, depth: int, out: list[str]) -> int:
        """A box, whose argument begins at `at`."""
        at = self._past_blanks(at, end)
        if at < end and self.text[at] == "{" and self.partner.get(at, end) >= end:
            line_end = self.text.find("\n", at, end)
            line_end = end if line_end < 0 else line_end
            inside = self.span(at + 1, line_end, depth + 1)
            out.append(f"{BOX}{inside}{BOX_END}" if inside.strip() else BROKEN_BOX)
            return line_end
        inside, after = self._argument(at, end, depth)
        out.append(f"{BOX}{inside}{BOX_END}")
        return after

    def _fraction(self, at: int, end: int, depth: int, out: list[str]) -> int:
        top, at = self._argument(at, end, depth, one=True)
        below, at = self._argument(at, end, depth, one=True)
        if len(out) > 1 and out[-1] == THIN and out[-2][-1:].isdigit():
            out.pop()
        if out and out[-1] and out[-1][-1].isdigit():
            out.append(MIXED)
        out.append(f"(({top})/({below}))")
        return at

    def _root(self, at: int, end: int, depth: int, out: list[str]) -> int:
        order = "2"
        if self.text.startswith("[", at, end):
            close = self.text.find("]", at, min(end, at + 16))
            if close > 0:
                order = self.text[at + 1 : close]
                at = close + 1
        inside, at = self._argument(at, end, depth, one=True)
        out.append(f"√({inside})" if order == "2" else f"(({inside})^(1/({order})))")
        return at

    def _argument(
        self, at: int, end: int, depth: int, *, one: bool = False, needs_braces: bool = False
    ) -> tuple[str, int]:
        """A command's argument, and where it ends: a group, or what comes next: one character if
        `one`, else a word.
        """
        at = self._past_blanks(at, end)
        if at >= end:
            return "", at
        if self.text[at] == "{":
            close = self.partner.get(at, end)
            if close >= end:
                return "", at + 1
            return self.span(at + 1, close, depth + 1), close + 1
        if needs_braces:
            return "", at
        if self.text[at] == "\\":
            inner: list[str] = []
            after = self._command(at, end, depth + 1, inner) if depth < DEEPEST else at + 1
            return "".join(inner), after
        found = None if one else _WORD.match(self.text, at, end)
        after = found.end() if found else at + 1
        return self.text[at:after], after

    def _past_blanks(self, at: int, end: int) -> int:
        while at < end and self.text[at] in " \t":
            at += 1
        return at

    def _star(self, at: int, end: int, out: list[str]) -> int:
        """Bold, a product, or emphasis."""
        before = out[-1][-1:] if out else ""
        double = self.text.startswith("**", at, end)
        after = at + 2 if double else at + 1
        following = self.text[self._past_blanks(after, end) : end][:1]
        between = (before.isdigit() or before == ")") and (following.isdigit() or following == "(")
        if double and not (between and not self.bold):
            self._switch(out)
        elif double:
            out.append("^")
        elif between or (_last_solid(out).isdigit() and following.isdigit()):
            out.append("*")
        return after

    def _underline(self, at: int, end: int, out: list[str]) -> int:
        if self.text.startswith("__", at, end):
            self._switch(out)
            return at + 2
        inside = at > 0 and self.text[at - 1].isalnum() and at + 1 < end
        if inside and (self.text[at + 1].isalnum() or self.text[at + 1] in "{\\"):
            out.append("_")
        return at + 1

    def _switch(self, out: list[str]) -> None:
        out.append(BOLD_END if self.bold else BOLD)
        self.bold = not self.bold

    def _tag(self, at: int, end: int, out: list[str]) -> int:
        found = _TAG.match(self.text, at, end)
        name = found[1].lower() if found else ""
        if found and name in _ANSWER_TAGS:
            out.append("\n" if found[0].startswith("</") else "\nAnswer: ")
            return found.end()
        if found and name in _BOLD_TAGS:
            out.append(BOLD_END if found[0].startswith("</") else BOLD)
            return found.end()
        if found and name in _TAGS:
            out.append("\n" if name in ("p", "br", "li", "div") else "")
            return found.end()
        if found and (found[0].startswith("</") or name == "s"):
            return found.end()  # of a pair that says nothing to us
        if ends := _SPECIAL.match(self.text, at, end):
            return ends.end()
        out.append("<")
        return at + 1


def _partners(text: str) -> dict[int, int]:
    """Where each brace that is opened is closed."""
    found: dict[int, int] = {}
    open_braces: list[int] = []
    escaped = False
    for at, char in enumerate(text):
        if escaped:
            escaped = False
            continue
        if char == "\\":
            escaped = True
        elif char == "{":
            open_braces.append(at)
        elif char == "}" and open_braces:
            found[open_braces.pop()] = at
    return found


def _is_letter(text: str, at: int) -> bool:
    return at >= 0 and text[at].isalpha()


def _last_solid(out: list[str]) -> str:
    """The last character that is not a blank, of the last few pieces."""
    for piece in reversed(out[-3:]):
        if piece.strip():
            return piece.rstrip()[-1]
    return ""
