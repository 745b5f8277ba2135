"""An answer's events -> the events of Anthropic's stream, and the message that they add up to.

Plain dicts. Knows the wire; nothing of HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic_core import from_json

from ossia.server.messages.server_tools import ServerCalls
from ossia.server.sealing import Sealer
from ossia.server.wire.output import messages_usage
from ossia.turn.events import (
    BuiltinCallItem,
    ItemDelta,
    ItemEnd,
    ItemStart,
    MessageItem,
    Progress,
    ReasoningItem,
    ToolCallItem,
    TurnEnd,
    TurnEvent,
    Usage,
    new_id,
)

# the key under which the client gets an input that is not a JSON object
INVALID = "INVALID_JSON"
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "calls": "tool_use"}
Event = dict[str, Any]


def tool_use_id(call: ToolCallItem) -> str:
    return "toolu_" + call.call_id.removeprefix("call_")


class Writer:
    """One answer's events. `thinking`: whether thoughts are shown; `omitted`: as blocks without
    their text. `whole`: a call's input is sent in one piece at its end, for when no grammar ensures
    that it is JSON. `limit`: max_tokens. `extra`: more fields of the message. `container`: what
    clients are told of one, by its id.
    """

    def __init__(
        self,
        model: str,
        sealer: Sealer,
        *,
        thinking: bool,
        omitted: bool,
        whole: bool,
        limit: int,
        extra: dict[str, Any],
        container: Callable[[str], dict[str, Any] | None] = lambda id: None,
    ) -> None:
        self.model = model
        self.extra = extra
        self.sealer = sealer
        self.limit = limit
        self.thinking = thinking
        self.omitted = omitted
        self.whole = whole
        self.container = container
        self.hosted = ServerCalls(sealer.seal)
        self.started = False
        self.count = 0  # blocks so far
        self.item: Any = None  # the one that is open
        self.is_shown = False  # whether its block has begun
        self.text: list[str] = []  # of it

    def write(self, event: TurnEvent) -> Iterator[Event]:
        if not self.started:
            self.started = True
            usage = event.usage if isinstance(event, Progress) else Usage()
            yield self._start(usage)
        if self.is_shown and isinstance(self.item, BuiltinCallItem) and not _grows(event):
            yield from self._close_use()
        match event:
            case ItemStart():
                self.item = event.item
                self.is_shown = False
                self.text = []
                if isinstance(self.item, ToolCallItem):
                    yield self._begin(_tool_use(self.item))
                if isinstance(self.item, BuiltinCallItem):
                    yield self._begin(self.hosted.use(event.index, self.item))
                    yield self._change(_input_delta(self.hosted.opening(self.item)))
            case ItemDelta():
                self.text.append(event.text)
                yield from self._delta(event)
            case ItemEnd(item=BuiltinCallItem() as item):
                if event.complete:
                    yield self._begin(self.hosted.result(event.index, item))
                    yield self._stop()
            case ItemEnd():
                yield from self._end()
            case TurnEnd():
                yield from self._over(event)

    def _start(self, usage: Usage) -> Event:
        message: dict[str, Any] = {
            "id": new_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": messages_usage(usage),
            **self.extra,
        }
        return {"type": "message_start", "message": message}

    def _delta(self, event: ItemDelta) -> Iterator[Event]:
        """Text and thinking blocks are opened by their first delta, so there are no empty ones."""
        text = event.text
        match self.item:
            case MessageItem() if text:
                if not self.is_shown:
                    yield self._begin({"type": "text", "text": ""})
                yield self._change({"type": "text_delta", "text": text})
                for citation in self.hosted.citations(event):
                    yield self._change({"type": "citations_delta", "citation": citation})
            case ReasoningItem() if text and self.thinking:
                if not self.is_shown:
                    block = {"type": "thinking", "thinking": "", "signature": ""}
                    yield self._begin(block)
                if not self.omitted:
                    yield self._change({"type": "thinking_delta", "thinking": text})
            case ToolCallItem() if text and not self.whole:
                yield self._change(_input_delta(text))
            case BuiltinCallItem() if shown := self.hosted.more(self.item, text):
                yield self._change(_input_delta(shown))

    def _end(self) -> Iterator[Event]:
        if not self.is_shown:
            return
        text = "".join(self.text)
        if isinstance(self.item, ReasoningItem):
            signature = self.sealer.seal(text)
            yield self._change({"type": "signature_delta", "signature": signature})
        if isinstance(self.item, ToolCallItem) and self.whole and text:
            shown = text
            if INVALID in input_of(text):
                shown = json.dumps({INVALID: text}, ensure_ascii=False)
            yield self._change(_input_delta(shown))
        yield self._stop()

    def _close_use(self) -> Iterator[Event]:
        """The input of a call that we carry out is complete; its result may come much later."""
        yield self._change(_input_delta(self.hosted.closing(self.item)))
        yield self._stop()

    def _stop(self) -> Event:
        stopped = {"type": "content_block_stop", "index": self.count}
        self.count += 1
        self.item = None
        self.is_shown = False
        return stopped

    def _over(self, end: TurnEnd) -> Iterator[Event]:
        reason = STOP_REASONS[end.reason]
        sequence = end.stopped_by if isinstance(end.stopped_by, str) else None
        if sequence is not None:
            reason = "stop_sequence"
        elif end.reason == "length" and end.usage.completion < self.limit:
            reason = "model_context_window_exceeded"
        delta: dict[str, Any] = {"stop_reason": reason, "stop_sequence": sequence}
        usage = messages_usage(end.usage)
        if self.hosted.container_id:
            delta["container"] = self.container(self.hosted.container_id)
        if self.hosted.ids:
            usage["server_tool_use"] = self.hosted.usage()
        yield {"type": "message_delta", "delta": delta, "usage": usage}
        yield {"type": "message_stop"}

    def _begin(self, block: dict[str, Any]) -> Event:
        self.is_shown = True
        return {"type": "content_block_start", "index": self.count, "content_block": block}

    def _change(self, delta: dict[str, Any]) -> Event:
        return {"type": "content_block_delta", "index": self.count, "delta": delta}


def _tool_use(call: ToolCallItem) -> dict[str, Any]:
    return {"type": "tool_use", "id": tool_use_id(call), "name": call.name, "input": {}}


def _input_delta(text: str) -> dict[str, Any]:
    return {"type": "input_json_delta", "partial_json": text}


def _grows(event: TurnEvent) -> bool:
    """Whether the open block goes on."""
    return isinstance(event, ItemDelta | Progress)


def input_of(text: str) -> dict[str, Any]:
    """A call's input: as much as there is if it was cut off; if it is not a JSON object, the text
    under `INVALID`.
    """
    if not text.strip():
        return {}
    try:
        value = from_json(text, allow_partial=True, allow_inf_nan=False)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        return {INVALID: text}
    return value


def fold(events: Iterable[Event]) -> dict[str, Any]:
    """The message that a stream's events add up to."""
    message: dict[str, Any] = {}
    inputs: dict[int, str] = {}
    for event in events:
        match event["type"]:
            case "message_start":
                message = {**event["message"], "content": []}
            case "content_block_start":
                message["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                index = event["index"]
                _grow(message["content"][index], event["delta"], index, inputs)
            case "message_delta":
                message |= event["delta"]
                message["usage"] = message["usage"] | event["usage"]
    for index, text in inputs.items():
        message["content"][index]["input"] = input_of(text)
    return message


def _grow(block: dict[str, Any], delta: dict[str, Any], index: int, inputs: dict[int, str]) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "citations_delta":
            block.setdefault("citations", []).append(delta["citation"])
        case "input_json_delta":
            inputs[index] = inputs.get(index, "") + delta["partial_json"]
