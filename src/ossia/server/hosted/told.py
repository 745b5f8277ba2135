"""What our tools told the model, as clients keep it for us: a call and its result in a sealed text,
so that a turn of a client that keeps everything goes on exactly, on any server with the secret.

Knows calls and Harmony's messages; sealing is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from ossia.harmony import Message, Role
from ossia.tools import SessionKey, Tool
from ossia.tools.browser import Book, Browser, Page
from ossia.tools.kinds import BROWSER
from ossia.turn.events import BuiltinCallItem

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
    if pages and isinstance(browser, Browser):
        shown = {cursor: Page(url, title, None) for cursor, (url, title) in pages.items()}
        browser.seed(key, Book(dict(sorted(shown.items()))))
