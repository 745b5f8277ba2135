"""Items of calls that the server ran, read back: what the model was told, as far as they say it.

A kind whose items say more than their sealed text has a reader here. All of it comes from clients:
what makes no sense is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ossia.harmony import Message, Role
from ossia.server.hosted.citing import with_marks
from ossia.server.hosted.told import Told, read_told
from ossia.server.wire.content import part_text
from ossia.server.wire.fields import At
from ossia.tools.kinds import PYTHON

Item = Mapping[str, Any]
MOST_CURSORS = 10_000  # no conversation has more pages


def told_by(item: Item, open: Callable[[str], str]) -> Told:
    """`open`: sealed texts, empty if one cannot be opened."""
    sealed = item.get("encrypted_content")
    if isinstance(sealed, str) and sealed:
        found = read_told(open(sealed))
        if found.messages:
            return found
    kind = str(item.get("type"))
    read = READERS.get(kind)
    if read is None:
        return Told()
    messages = tuple(read(item))
    return Told(messages)


def _code(item: Item) -> Iterator[Message]:
    """Code with its outputs; nothing if these are missing."""
    code = item.get("code")
    outputs = _objects(item.get("outputs"))
    if not isinstance(code, str) or not outputs:
        return
    text = "\n".join(map(_output, outputs))
    yield Message(Role.ASSISTANT, code, None, "analysis", "python", "code")
    yield Message(Role.TOOL, text, "python", "analysis", "assistant")


def _output(output: Item) -> str:
    logs = output.get("logs")
    if isinstance(logs, str):
        return logs
    return "[image]" if output.get("type") == "image" else ""


# item's type -> its reader
READERS: dict[str, Callable[[Item], Iterator[Message]]] = {PYTHON.item: _code}


# ---- citations ----


def marked_part(part: At) -> str:
    """A part of an answer's text, with the marks that the model wrote."""
    text = part_text(part)
    return with_marks(text, part["annotations"].value)


def cited_pages(content: Any) -> dict[int, tuple[str, str]]:
    """The pages that an answer cites, by their cursors: URL and title."""
    pages: dict[int, tuple[str, str]] = {}
    for part in _objects(content):
        for each in _objects(part.get("annotations")):
            cursor = each.get("cursor")
            url = each.get("url")
            title = each.get("title")
            if not isinstance(cursor, int) or not isinstance(url, str):
                continue
            if 0 <= cursor < MOST_CURSORS:
                pages[cursor] = (url, str(title or ""))
    return pages


def _objects(given: Any) -> list[Item]:
    """Those in a list; nothing of what is none."""
    if not isinstance(given, list):
        return []
    return [each for each in given if isinstance(each, Mapping)]
