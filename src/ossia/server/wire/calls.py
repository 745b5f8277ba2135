"""The ids of calls in what clients send back, of any API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

PLACES = ("tool_calls", "content")  # of messages: Chat Completions' and Ollama's, Anthropic's


def call_ids(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Of messages or items. What is no call may be among them: nothing is remembered of it."""
    found: list[Any] = []
    for message in messages:
        found.append(message.get("call_id"))
        for place in PLACES:
            parts = message.get(place)
            for part in parts if isinstance(parts, list) else ():
                found.append(part.get("id") if isinstance(part, Mapping) else None)
    return [id for id in found if isinstance(id, str) and id]
