"""An answer's events as Ollama's lines, and the object that they add up to. Plain dicts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from ossia.server.wire.output import logprobs
from ossia.turn.events import (
    ItemDelta,
    ItemEnd,
    ItemStart,
    MessageItem,
    ReasoningItem,
    ToolCallItem,
    TurnEnd,
    TurnEvent,
)

Line = dict[str, Any]
BREAK = "\n\n"  # between the texts of several items
INVALID = "INVALID_JSON"  # the key of arguments that are not a JSON object
GROWING = (
    "content",
    "thinking",
    "response",
    "tool_calls",
    "logprobs",
)
REASONS = {"stop": "stop", "length": "length", "calls": "stop"}


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Lines:
    """`kind`: whether a line has a message, or a response. `preambles_are_content`: false if the
    content has to keep to a format. `extra`: more fields of the last line.
    """

    def __init__(
        self,
        model: str,
        kind: Literal["chat", "generate"],
        *,
        preambles_are_content: bool,
    ) -> None:
        self.model = model
        self.kind = kind
        self.preambles_are_content = preambles_are_content
        self.extra: dict[str, Any] = {}
        self._fields: dict[int, str] = {}  # by the item: where its text goes
        self._ended_with: dict[str, int] = {}  # by field: the item whose text it has last

    def write(self, event: TurnEvent) -> Iterator[Line]:
        match event:
            case ItemStart(index=index, item=ReasoningItem()):
                self._fields[index] = "thinking"
            case ItemStart(index=index, item=MessageItem(phase=phase)):
                is_content = phase == "final_answer" or self.preambles_are_content
                self._fields[index] = "content" if is_content else "thinking"
            case ItemDelta(index=index, text=text) if text and index in self._fields:
                yield self._delta(event, self._fields[index])
            case ItemEnd(item=ToolCallItem() as call, complete=True):
                yield self._line(tool_calls=[_call(call)])
            case TurnEnd():
                yield self._last(event)

    def alive(self) -> Line:
        """A line that says nothing."""
        return self._line()

    def done(self, reason: str, **more: Any) -> Line:
        return {**self._line(), "done": True, "done_reason": reason, **more, **self.extra}

    def _delta(self, event: ItemDelta, field: str) -> Line:
        before = self._ended_with.get(field, event.index)
        self._ended_with[field] = event.index
        text = event.text if before == event.index else BREAK + event.text
        line = self._line(**{field: text})
        if event.logprobs:
            line["logprobs"] = logprobs(event.logprobs)
        return line

    def _line(self, *, content: str = "", **more: Any) -> Line:
        line: Line = {"model": self.model, "created_at": now()}
        if self.kind == "chat":
            line["message"] = {"role": "assistant", "content": content, **more}
        else:
            line |= {"response": content, **more}
        return {**line, "done": False}

    def _last(self, end: TurnEnd) -> Line:
        """With durations in nanoseconds. The model is there before anybody asks."""
        counts: dict[str, Any] = {
            "prompt_eval_count": end.usage.prompt,
            "eval_count": end.usage.completion,
        }
        if (timing := end.timing) is not None:
            first = timing.first_token or timing.ended
            counts |= {
                "total_duration": _nanoseconds(timing.ended - timing.arrived),
                "load_duration": 0,
                "prompt_eval_duration": _nanoseconds(first - timing.arrived),
                "eval_duration": _nanoseconds(timing.ended - first),
            }
        return self.done(REASONS[end.reason], **counts)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _call(call: ToolCallItem) -> dict[str, Any]:
    try:
        arguments = json.loads(call.text or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        arguments = {INVALID: call.text}
    return {"id": call.call_id, "function": {"name": call.name, "arguments": arguments}}


def fold(lines: Iterable[Line]) -> Line:
    """The object that a stream's lines add up to."""
    whole: Line = {}
    for line in lines:
        whole = _joined(whole, line) if whole else line
    return whole


def _joined(before: Any, more: Any) -> Any:
    """Texts and lists grow, objects are joined; anything else is as it was said last."""
    out = {**before, **more}
    for key in GROWING:
        if key in before and key in more:
            out[key] = before[key] + more[key]
    if "message" in before:
        out["message"] = _joined(before["message"], more["message"])
    return out
