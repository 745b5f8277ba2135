"""The walk over a parsed HTML document that lays its text out: headings, lists, quotes, code.

    # A heading

    A paragraph with a 【0†link】.

      * an item
      * another

Knows elements and blanks; links and images are texts already (`html.py`). The layout is that of the
tool that gpt-oss was trained with. Deep documents are walked with a stack of our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
# what stands apart from the text around it
PARAGRAPHS = frozenset(
    {
        *("p", "div", "section", "article", "header", "footer", "main", "nav", "aside"),
        *("figure", "figcaption", "address", "fieldset", "legend", "form", "details"),
        *("summary", "center", "dialog", "search", "hgroup", "blockquote", "pre"),
        *HEADINGS,
    }
)
LINES = frozenset({"dt", "dd", "li"})  # each begins a line
CELLS = frozenset({"td", "th", "caption"})
UNSEEN = frozenset({"head", "style", "script", "template", "math"})
CODE = frozenset({"code", "tt", "kbd"})
MARKS = {"del": "~~", "s": "~~", "strike": "~~", "q": '"'}
INDENT = "    "
DEEPEST = 40  # of lists and quotes: those inside are shown no deeper
BLANKS = re.compile(r"\s+")
BLANK_LINES = re.compile(r"^\s+$", re.MULTILINE)
NEWLINES = re.compile(r"\n(?:\s*\n)+")
ESCAPED = re.compile(r"([&<>])")  # a blank that follows one and ends a paragraph is not written
SMALL = re.compile(r"[\w\-]+")  # what is marked as superscript or subscript
SCRIPTS = {"sup": "^{%s}", "sub": "_{%s}"}


@dataclass(slots=True)
class Event:
    """`kind`: "text", or the "start" or "end" of an element. Comments are nameless elements."""

    kind: Literal["text", "start", "end"]
    value: str
    attributes: Mapping[str, str] = field(default_factory=dict)


def layout(events: Iterator[Event]) -> str:
    """The text of a document."""
    writer = _Writer()
    for event in _joined(events):
        writer.take(event)
    text = "".join(writer.parts).strip()
    return NEWLINES.sub("\n\n", BLANK_LINES.sub("", text))


def _joined(events: Iterator[Event]) -> Iterator[Event]:
    """Words that only tags keep apart get a blank between them, except in code as it is typed."""
    last: Event | None = None  # the last text
    tags: list[Event] = []
    typed = 0  # how many elements `pre` are open
    was_typed = False  # at the last text
    for event in events:
        if event.kind != "text":
            tags.append(event)
            if event.value == "pre":
                typed += 1 if event.kind == "start" else -1
            continue
        if last is not None:
            apart = _is_word(last.value[-1]) and _is_word(event.value[0])
            in_code = typed and was_typed and not any(tag.value == "pre" for tag in tags)
            yield Event("text", last.value + " ") if apart and not in_code else last
        yield from tags
        tags.clear()
        last = event
        was_typed = bool(typed)
    if last is not None:
        yield last
    yield from tags


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


class _Writer:
    """`breaks`: line ends to write before the next text, `blank`: whether a blank comes before it.

    `fresh`: a marker was written, and the text belongs to it whatever breaks there are between.
    """

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.breaks = 0
        self.line_end = ""  # blanks at the end of a line that ends inside a paragraph
        self.blank = False
        self.fresh = True
        self.unseen = 0
        self.typed = 0
        self.quotes = 0
        self.lists: list[_List] = []

    def take(self, event: Event) -> None:
        tag = event.value
        if event.kind == "text":
            if not self.unseen:
                self.text(tag)
        elif tag in UNSEEN:
            self.unseen += 1 if event.kind == "start" else -1
        elif not self.unseen:
            self.element(event, tag)

    def element(self, event: Event, tag: str) -> None:
        starts = event.kind == "start"
        if tag in PARAGRAPHS:
            self.paragraph()
            self.block(tag, starts)
        elif tag == "dl" and starts:
            self.paragraph()
        elif tag in ("ul", "ol"):
            self.list(event, starts)
        elif tag in LINES:
            self.line(tag, starts)
        elif tag == "br" and starts:
            self.output("  \n" + self.prefix)
        elif tag == "hr" and starts:
            self.paragraph()
            self.output("* * *")
            self.paragraph()
        elif tag == "tr" and not starts:
            self.row()
        elif tag in CELLS and not starts:
            self.blank = self.blank or not (self.parts and self.parts[-1].endswith(" "))
        elif tag in CODE and not self.typed:
            self.output("`")
        elif tag in MARKS:
            self.output(MARKS[tag])

    def block(self, tag: str, starts: bool) -> None:
        """What there is to an element's beginning and end, besides that it is a paragraph."""
        step = 1 if starts else -1
        if tag == "pre":
            self.typed += step
            self.fresh = self.fresh and bool(self.lists)
        elif tag == "blockquote":
            if starts:
                self.output("> ", quotes=self.prefix.rstrip())
                self.fresh = True
            self.quotes += step
        elif starts and tag in HEADINGS:
            self.output(HEADINGS[tag] + " ")

    def list(self, event: Event, starts: bool) -> None:
        if starts:
            if not self.lists:
                self.paragraph()
            self.lists.append(_List.of(event))
        elif self.lists:
            self.lists.pop()
            if not self.lists:
                self.paragraph()

    def line(self, tag: str, starts: bool) -> None:
        self.soft()
        if not starts:
            return
        if tag == "dd":
            self.output(INDENT)
        elif tag == "li":
            indent = "".join(each.indent for each in self.lists[:-1][:DEEPEST])
            marker = self.lists[-1].marker() if self.lists else "* "
            self.output(f"{'  ' * bool(self.lists)}{indent}{marker}")
            self.fresh = True

    def row(self) -> None:
        if not self.breaks:
            self.line_end = "  "
        self.soft()

    def soft(self) -> None:
        """The next text begins a line."""
        self.breaks = max(self.breaks, 1)

    def paragraph(self) -> None:
        self.breaks = 2

    def text(self, text: str) -> None:
        if self.typed:
            self.output(text)
            return
        for piece in ESCAPED.split(BLANKS.sub(" ", text)):
            if piece.startswith(" "):
                self.blank = True
            if piece.strip():
                self.output(piece.lstrip(" "))

    @property
    def prefix(self) -> str:
        """What a line in a quote begins with."""
        return ">" * min(self.quotes, DEEPEST) + " " * bool(self.quotes)

    def output(self, text: str, quotes: str | None = None) -> None:
        prefix = self.prefix if quotes is None else quotes
        if self.typed:
            inside = (
                INDENT + "  " * bool(self.lists) + "".join(it.indent for it in self.lists[:DEEPEST])
            )
            continues = self.parts and (self.fresh or not self.breaks)
            text = text.replace("\n", f"\n{prefix}{inside}")
            text = text if continues else inside + text
        if self.fresh:
            self.breaks = 0
            self.blank = False
            self.fresh = False
        if self.breaks:
            self.parts.append(self.line_end)
            self.parts.append(f"\n{prefix}" * self.breaks)
            self.blank = False
        elif self.blank and self.parts and not self.parts[-1].endswith("\n"):
            self.parts.append(" ")
        self.breaks = 0
        self.blank = False
        self.line_end = ""
        self.parts.append(text)


@dataclass(slots=True)
class _List:
    """An open list. `number`: of the last item; None without numbers."""

    number: int | None

    @classmethod
    def of(cls, event: Event) -> _List:
        if event.value == "ul":
            return cls(None)
        try:
            return cls(int(event.attributes.get("start", "1")[:9]) - 1)
        except ValueError:
            return cls(0)

    @property
    def indent(self) -> str:
        """Of the lists inside."""
        return "  " if self.number is None else "   "

    def marker(self) -> str:
        if self.number is None:
            return "* "
        self.number += 1
        return f"{self.number}. "
