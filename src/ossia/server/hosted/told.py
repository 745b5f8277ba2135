"""What our tools told the model, as clients keep it for us: a call and its result in a sealed text,
so that a turn of a client that keeps everything goes on exactly, on any server with the secret; or
as far as the item itself says it.

Knows calls and Harmony's messages; sealing is the caller's. All that is read comes from clients:
what makes no sense is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from ossia.harmony import Message, Role
from ossia.server.hosted.citing import with_marks
from ossia.server.wire.content import part_text
from ossia.server.wire.fields import At
from ossia.tools import SessionKey, Tool
from ossia.tools.browser import Book, Browser, Page
from ossia.tools.kinds import BROWSER, PYTHON
from ossia.turn.events import BuiltinCallItem

Item = Mapping[str, Any]
MOST_CURSORS = 10_000  # no conversation has more pages
CHANNELS = ("analysis", "commentary")
Pages = Mapping[int, tuple[str, str]]  # that the browser showed, by their cursors: URL and title


@dataclass(frozen=True)
class Told:
    """`is_whole`: nothing is missing."""

    messages: tuple[Message, ...] = ()
    pages: Pages = field(default_factory=dict)
    is_whole: bool = False


def told(item: BuiltinCallItem) -> str:
    """A text to be sealed."""
    call = item.message
    assert call is not None, "the call is complete"
    pages = list(_pages(item.outputs))
    facts = {
        "recipient": call.recipient,
        "channel": call.channel,
        "content_type": call.content_type,
        "call": item.text,
        "result": item.result,
        "pages": pages,
    }
    return orjson.dumps(facts).decode()


def _pages(outputs: tuple[dict[str, Any], ...]) -> Iterator[tuple[int, str, str]]:
    for page in outputs:
        cursor = page.get("cursor")
        url = page.get("url")
        title = page.get("title")
        if isinstance(cursor, int) and isinstance(url, str):
            yield cursor, url, str(title or "")


def read_told(text: str) -> Told:
    """What `told` wrote; nothing of any other text."""
    try:
        facts = orjson.loads(text)
        return _read(facts)
    except (ValueError, TypeError, KeyError):
        return Told()


def _read(facts: Any) -> Told:
    """Raises what Python does for something else."""
    recipient = str(facts["recipient"])
    channel = facts["channel"]
    if channel not in CHANNELS:
        channel = "commentary"
    kind = facts["content_type"]
    said = str(facts["call"])
    result = str(facts["result"])
    pages = {}
    for cursor, url, title in facts["pages"]:
        pages[int(cursor)] = (str(url), str(title))
    messages = (
        Message(Role.ASSISTANT, said, None, channel, recipient, kind),
        Message(Role.TOOL, result, recipient, channel, "assistant"),
    )
    return Told(messages, pages, is_whole=True)


def show_again(tools: Mapping[str, Tool], key: SessionKey, pages: Pages) -> None:
    """The pages of earlier turns, for a conversation whose browser has seen none here."""
    browser = tools.get(BROWSER.name)
    if not pages or not isinstance(browser, Browser):
        return
    shown = {}
    for cursor in sorted(pages):
        url, title = pages[cursor]
        shown[cursor] = Page(url, title, None)
    browser.seed(key, Book(shown))


# ---- items read back ----


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
    if output.get("type") == "image":
        return "[image]"
    return ""


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
