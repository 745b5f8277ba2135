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
from ossia.turn.events import BuiltinCallItem

CHANNELS = ("analysis", "commentary")


@dataclass(frozen=True)
class Told:
    """`pages`: that the browser showed, by their cursors: URL and title. `is_whole`: nothing is
    missing.
    """

    messages: tuple[Message, ...] = ()
    pages: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    is_whole: bool = False


def told(item: BuiltinCallItem) -> str:
    """A text to be sealed."""
    call = item.message
    facts = {
        "recipient": call and call.recipient,
        "channel": call and call.channel,
        "content_type": call and call.content_type,
        "call": item.text,
        "result": item.result,
        "pages": [list(page) for page in _pages(item.outputs)],
    }
    return orjson.dumps(facts).decode()


def _pages(outputs: tuple[dict[str, Any], ...]) -> Iterator[tuple[int, str, str]]:
    for page in outputs:
        if isinstance(page.get("cursor"), int) and isinstance(page.get("url"), str):
            yield page["cursor"], page["url"], str(page.get("title") or "")


def read_told(text: str) -> Told:
    """What `told` wrote; nothing of any other text."""
    try:
        facts = orjson.loads(text)
        recipient = str(facts["recipient"])
        channel = facts["channel"] if facts["channel"] in CHANNELS else "commentary"
        kind = facts["content_type"]
        call = Message(Role.ASSISTANT, str(facts["call"]), None, channel, recipient, kind)
        result = Message(Role.TOOL, str(facts["result"]), recipient, channel, "assistant")
        pages = {int(cursor): (str(url), str(title)) for cursor, url, title in facts["pages"]}
    except (ValueError, TypeError, KeyError):
        return Told()
    return Told((call, result), pages, is_whole=True)
