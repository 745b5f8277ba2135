"""The citations of an answer: the model's marks become links with annotations, while it streams.

    citations = Citations(session.citable)
    shown, found = citations.feed("Rome is old【3†L5-L9】.")     # again and again
    shown, found = citations.end()

The model writes 【cursor†L5-L9】 or 【cursor†L5】. A mark becomes ` ([host](url)) `, as the
official code has it, and a `Cited` with its place in the text that is shown; a mark whose page is
unknown stays as it is. What may still become a mark is held back. The texts that are returned add
up to the whole, wherever the input was cut. Pure: knows neither pages nor any API.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ossia.tools.browser.html import host_of

OPENING = "【"
LONGEST_MARK = 200  # characters; what is longer was not meant as one
MARK = re.compile(r"【(\d{1,9})†([^【†】]+)(?:†[^【†】]+)?】")
# what may become a mark when more comes
BEGUN = re.compile(r"【(?:\d{1,9}(?:†(?:[^【†】]+(?:†[^【†】]*)?)?)?)?\Z")
LINES = re.compile(r"L(\d+)(?:\s*-\s*L?(\d+))?")
Citable = Callable[[int], Mapping[str, str] | None]


@dataclass(frozen=True)
class Cited:
    """`start`, `end`: of the link, in the text that is shown. `lines`: first and last, as the model
    wrote them; None if it wrote something else.
    """

    url: str
    title: str
    start: int
    end: int
    cursor: int
    lines: tuple[int, int] | None = None

    def annotation(self) -> dict[str, Any]:
        """As Responses has it, and two fields of ours."""
        return {
            "type": "url_citation",
            "url": self.url,
            "title": self.title,
            "start_index": self.start,
            "end_index": self.end,
            "cursor": self.cursor,
            "lines": list(self.lines) if self.lines else None,
        }


class Citations:
    """One message. `citable`: url and title of the page at a cursor, None if it is unknown.

    `keep_marks`: the text stays as the model wrote it, annotations stand at its marks.
    """

    def __init__(self, citable: Citable, *, keep_marks: bool = False) -> None:
        self.citable = citable
        self.keep_marks = keep_marks
        self._held = ""
        self._length = 0  # of the text that was shown

    def feed(self, text: str) -> tuple[str, list[Cited]]:
        """What can be shown now, and the citations in it."""
        text = self._held + text
        held = text.rfind(OPENING)
        is_begun = held >= 0 and len(text) - held <= LONGEST_MARK and BEGUN.match(text, held)
        if not is_begun:
            held = len(text)
        self._held = text[held:]
        return self._replaced(text[:held])

    def end(self) -> tuple[str, list[Cited]]:
        """The rest: a mark that was not finished is text."""
        rest = self._held
        self._held = ""
        return self._replaced(rest)

    def _replaced(self, text: str) -> tuple[str, list[Cited]]:
        parts: list[str] = []
        found: list[Cited] = []
        for part, cited in self._parts(text):
            if cited is not None:
                found.append(cited)
            parts.append(part)
        return "".join(parts), found

    def _parts(self, text: str) -> Iterator[tuple[str, Cited | None]]:
        at = 0
        for mark in MARK.finditer(text):
            page = self.citable(int(mark[1]))
            if page is None or len(mark[0]) > LONGEST_MARK:
                continue
            yield self._shown(text[at : mark.start()]), None
            url = page["url"]
            link = mark[0] if self.keep_marks else f" ([{_label(url)}]({_target(url)})) "
            start = self._length
            shown = self._shown(link)
            title = page.get("title") or url
            lines = _lines(mark[2])
            yield shown, Cited(url, title, start, self._length, int(mark[1]), lines)
            at = mark.end()
        yield self._shown(text[at:]), None

    def _shown(self, text: str) -> str:
        self._length += len(text)
        return text


def cite(text: str, citable: Citable, *, keep_marks: bool = False) -> tuple[str, list[Cited]]:
    """A whole text."""
    citations = Citations(citable, keep_marks=keep_marks)
    shown, found = citations.feed(text)
    rest, more = citations.end()
    return shown + rest, found + more


def _lines(text: str) -> tuple[int, int] | None:
    found = LINES.match(text.strip())
    if not found:
        return None
    first = int(found[1][:9])
    return first, int((found[2] or found[1])[:9])


def _label(url: str) -> str:
    """The host, without what would end a link's label."""
    return re.sub(r"[\[\]\\]", "", host_of(url)) or "source"


def _target(url: str) -> str:
    """The URL without what would end a link."""
    return re.sub(r"[()<>\s]", lambda found: f"%{ord(found[0]):02X}", url)
