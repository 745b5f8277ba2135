"""Citations in an answer's events, before any API writes them.

The model's marks become links, or stay (`--citations marks`); either way the message's deltas carry
the citations that are complete with them, add up to its text, and the item that ends has all. Links
to files in /mnt/data are cited, too. What the model wrote is not changed: the turn's messages keep
its own marks. Knows events and sessions of tools; no API.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any
from urllib.parse import unquote

from ossia.tools import Sessions, Tool
from ossia.tools.browser.citations import Citations, Cited
from ossia.tools.kinds import BROWSER, PYTHON
from ossia.tools.protocol import Citable, Filing
from ossia.turn.events import Citation, ItemDelta, ItemEnd, ItemStart, MessageItem, TurnEvent

FOLDER = "sandbox:/mnt/data/"
FILE = re.compile(rf"{FOLDER}[^\s()<>\[\]\"'`]+")
LINK = re.compile(r" \(\[[^\]]*\]\([^)]*\)\) |【[^【】]*】")  # what stands for a mark
LONGEST_LINK = 8192  # characters
MOST_FILES = 100  # links of one message that are looked at


class Citing:
    """Of one answer. `tools`: those that it may call."""

    def __init__(self, sessions: Sessions, tools: Iterable[Tool], *, keep_marks: bool) -> None:
        self.sessions = sessions
        self.keep_marks = keep_marks
        by_kind = {tool.kind.name: tool for tool in tools}
        self.browser = by_kind.get(BROWSER.name)
        self.python = by_kind.get(PYTHON.name)
        self._open: dict[int, _Message] = {}  # by the item's index

    def events(self, given: Iterable[TurnEvent]) -> Iterable[TurnEvent]:
        """The same events, with citations."""
        if self.browser is None and self.python is None:
            return given
        return [event for each in given for event in self._of(each)]

    def _of(self, event: TurnEvent) -> Iterator[TurnEvent]:
        match event:
            case ItemStart(item=MessageItem()):
                self._open[event.index] = _Message(
                    Citations(self._page, keep_marks=self.keep_marks)
                )
                yield event
            case ItemDelta(index=index) if index in self._open:
                yield from self._open[index].grown(event)
            case ItemEnd(index=index, item=MessageItem()) if index in self._open:
                yield from self._ended(event, self._open.pop(index))
            case _:
                yield event

    def _ended(self, event: ItemEnd, message: _Message) -> Iterator[TurnEvent]:
        yield from message.rest(event.index)
        files = tuple(self._files(message.text))
        if files:
            yield ItemDelta(event.index, "", (), files)
        assert isinstance(event.item, MessageItem)
        cited = (*message.citations, *files)
        item = replace(event.item, text=message.text, citations=cited)
        yield replace(event, item=item)

    def _page(self, cursor: int) -> Mapping[str, str] | None:
        if self.browser is None:
            return None
        session = self.sessions.of(self.browser)
        if not isinstance(session, Citable):
            return None
        return session.citable(cursor)

    def _files(self, text: str) -> Iterator[Citation]:
        """The links of a message to files that there are."""
        if self.python is None or FOLDER not in text:
            return
        session = self.sessions.of(self.python)
        if not isinstance(session, Filing):
            return
        for found in islice(FILE.finditer(text), MOST_FILES):
            link = found[0].rstrip(".,;:!?")
            name = link.removeprefix(FOLDER)
            file = session.filed(unquote(name))
            if file is None:
                continue
            start = found.start()
            facts = {"type": "container_file_citation", **file}
            yield Citation(start, start + len(link), facts)


class _Message:
    """A message that is growing. `text`: what was shown of it."""

    def __init__(self, marks: Citations) -> None:
        self.marks = marks
        self.citations: list[Citation] = []
        self._shown: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._shown)

    def grown(self, event: ItemDelta) -> Iterator[TurnEvent]:
        """Log-probabilities come with their token, even if its text is held back."""
        text, found = self.marks.feed(event.text)
        cited = self._noted(text, found)
        if text or event.logprobs:
            yield replace(event, text=text, citations=cited)

    def rest(self, index: int) -> Iterator[TurnEvent]:
        text, found = self.marks.end()
        cited = self._noted(text, found)
        if text:
            yield ItemDelta(index, text, (), cited)

    def _noted(self, text: str, found: Iterable[Cited]) -> tuple[Citation, ...]:
        self._shown.append(text)
        made = tuple(_of_page(each) for each in found)
        self.citations += made
        return made


def _of_page(found: Cited) -> Citation:
    facts = found.annotation()
    del facts["start_index"], facts["end_index"]
    return Citation(found.start, found.end, facts)


# ---- and back ----


def with_marks(text: str, annotations: object) -> str:
    """An earlier answer's text as the model wrote it: links that stand for marks are marks again.

    `annotations` come from clients; those that make no sense change nothing.
    """
    if not isinstance(annotations, list):
        return text
    before = len(text)
    parts: list[str] = []  # from the end; there may be very many
    for each in reversed(annotations):
        mark = _mark(each)
        start, end = _span(each, len(text))
        if not mark or start < 0 or end > before or end - start > LONGEST_LINK:
            continue
        if LINK.fullmatch(text, start, end):
            parts += (text[end:before], mark)
            before = start
    parts.append(text[:before])
    return "".join(reversed(parts))


def flat_annotations(given: object) -> object:
    """Those of Chat Completions as those of Responses: what is told stands beside the type."""
    if not isinstance(given, list):
        return given
    flat = []
    for each in given:
        facts = each.get("url_citation") if isinstance(each, Mapping) else None
        if isinstance(facts, Mapping):
            flat.append({**each, **facts})
    return flat


def _mark(annotation: object) -> str:
    """Empty for an annotation that stands for none."""
    if not isinstance(annotation, Mapping) or annotation.get("type") != "url_citation":
        return ""
    cursor = annotation.get("cursor")
    lines = annotation.get("lines")
    if not isinstance(cursor, int) or not 0 <= cursor < 10**9:
        return ""
    return f"【{cursor}†{_written(lines)}】"


def _written(lines: object) -> str:
    """First and last, as a mark has them."""
    match lines:
        case [int(first), int(last)] if not 0 <= first <= last < 10**9:
            return "source"
        case [int(first), int(last)] if first == last:
            return f"L{first}"
        case [int(first), int(last)]:
            return f"L{first}-L{last}"
    return "source"


def _span(annotation: Any, length: int) -> tuple[int, int]:
    """(-1, -1) for one outside of a text of so many characters."""
    if not isinstance(annotation, Mapping):
        return -1, -1
    start = annotation.get("start_index")
    end = annotation.get("end_index")
    if not isinstance(start, int) or not isinstance(end, int):
        return -1, -1
    is_inside = 0 <= start <= end <= length
    return (start, end) if is_inside else (-1, -1)
