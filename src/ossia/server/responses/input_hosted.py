"""Items of calls that the server ran, read back: what the model was told, as far as they say it.

A kind whose items say more than their sealed text has a reader here. All of it comes from clients:
what makes no sense is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ossia.harmony import Message, Role
from ossia.server.hosted.citing import with_marks
from ossia.server.responses.told import Told, read_told
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
    read = READERS.get(str(item.get("type")))
    return Told() if read is None else Told(tuple(read(item)))


def _code(item: Item) -> Iterator[Message]:
    """Code with its outputs; nothing if these are missing."""
    code = item.get("code")
    outputs = item.get("outputs")
    if not isinstance(code, str) or not isinstance(outputs, list) or not outputs:
        return
    text = "\n".join(_output(each) for each in outputs if isinstance(each, Mapping))
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
    return {
        each["cursor"]: (each["url"], str(each.get("title") or ""))
        for part in _objects(content)
        for each in _objects(part.get("annotations"))
        if isinstance(each.get("url"), str)
        and isinstance(each.get("cursor"), int)
        and 0 <= each["cursor"] < MOST_CURSORS
    }


def _objects(given: Any) -> Sequence[Item]:
    return [each for each in given if isinstance(each, Mapping)] if isinstance(given, list) else []
