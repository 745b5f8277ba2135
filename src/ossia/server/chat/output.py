"""An answer's events as the chunks of Chat Completions, and the body that is their fold.

`Chunks` writes one answer's chunks, all its choices in one stream; `Body` adds chunks up. Plain
dicts, no I/O.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ossia.server.chat.messages import BREAK
from ossia.server.chat.request import ChatForm
from ossia.server.wire.output import chat_usage, logprobs
from ossia.turn.events import (
    Citation,
    ItemDelta,
    ItemStart,
    MessageItem,
    Progress,
    ReasoningItem,
    ToolCallItem,
    TurnEnd,
    TurnEvent,
    Usage,
)

OF_CHUNKS = ("choices", "usage", "obfuscation")  # fields of a chunk that the body does not copy
FINISH = {"stop": "stop", "length": "length", "calls": "tool_calls"}
# the field of a call that its text goes to
INPUT = {"function": "arguments", "custom": "input"}
OBFUSCATED = 32  # a chunk's text and its obfuscation have a multiple of so many characters


@dataclass(frozen=True)
class ChunkOptions:
    """`usage`: a last chunk says it; `continuous`: every chunk says the usage so far.
    `obfuscation`: chunks have extra characters that hide how long their text is.
    """

    usage: bool = False
    continuous: bool = False
    obfuscation: bool = False


class Chunks:
    """Give `feed` the events of each choice, then call `last`. `opening`: fields that the first
    chunk and the body have, `extra`: that every chunk has.
    """

    def __init__(
        self,
        form: ChatForm,
        choices: int,
        options: ChunkOptions,
        opening: dict[str, Any] | None = None,
        **extra: Any,
    ) -> None:
        self.options = options
        self.opening = opening or {}
        self.head = {
            "id": f"chatcmpl-{secrets.token_hex(16)}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": form.model,
            **extra,
        }
        self.token_ids = form.token_ids
        self.choices = [_Choice(n, form) for n in range(choices)]

    def feed(self, index: int, event: TurnEvent) -> Iterator[dict[str, Any]]:
        for choice in self.choices[index].feed(event):
            usage = None
            if self.options.continuous:
                usage = self.usage
            chunk = self._chunk([choice], usage)
            if self.token_ids and isinstance(event, Progress) and event.prompt:
                chunk["prompt_token_ids"] = list(event.prompt)
            yield chunk

    def last(self) -> Iterator[dict[str, Any]]:
        """After the choices: their usage, if it is wanted."""
        if self.options.usage:
            yield self._chunk([], self.usage)

    @property
    def usage(self) -> dict[str, Any]:
        """Of all choices. They share a prompt, which is counted once."""
        used = [choice.usage for choice in self.choices]
        shared = min(usage.prompt for usage in used)
        own = sum(usage.prompt - shared for usage in used)
        whole = Usage(
            prompt=shared + own,
            cached=min(usage.cached for usage in used),
            completion=sum(usage.completion for usage in used),
            reasoning=sum(usage.reasoning for usage in used),
        )
        return chat_usage(whole)

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        chunk = {**self.head, **self.opening, "choices": choices}
        self.opening = {}
        if self.options.usage or self.options.continuous:
            chunk["usage"] = usage
        if self.options.obfuscation:
            chunk["obfuscation"] = _obfuscation(choices)
        return chunk


def _obfuscation(choices: list[dict[str, Any]]) -> str:
    """Characters that fill the text up to a multiple of `OBFUSCATED`."""
    length = 0
    for choice in choices:
        texts = [value for value in choice["delta"].values() if isinstance(value, str)]
        length += sum(map(len, texts))
    missing = OBFUSCATED - length % OBFUSCATED
    return secrets.token_hex(OBFUSCATED)[:missing]


class _Choice:
    """One choice's part of the chunks."""

    def __init__(self, index: int, form: ChatForm) -> None:
        self.index = index
        self.form = form
        self.usage = Usage()
        self.begun = False
        self.calls: dict[int, tuple[int, ToolCallItem]] = {}  # by the item: the call's number
        self.kinds: dict[int, str] = {}  # by the item: the field that its text goes to
        self.filled: dict[str, int] = {}  # by field: the item whose text it ends with
        self.token_ids: list[int] = []  # that no chunk has told yet
        self.length = 0  # of the content so far
        self.starts: dict[int, int] = {}  # by the item: where its text begins in the content
        self.annotations: list[dict[str, Any]] = []  # for the last chunk

    def feed(self, event: TurnEvent) -> Iterator[dict[str, Any]]:
        if isinstance(event, Progress | TurnEnd):
            self.usage = event.usage
        if not self.begun:
            self.begun = True
            yield self._part({"role": "assistant", "content": ""})
        if isinstance(event, Progress) and event.token_id is not None:
            self.token_ids.append(event.token_id)
        match event:
            case ItemStart():
                yield from self._start(event)
            case ItemDelta():
                yield from self._delta(event)
            case TurnEnd():
                yield self._end(event)

    def _start(self, event: ItemStart) -> Iterator[dict[str, Any]]:
        item = event.item
        index = event.index
        match item:
            case ReasoningItem():
                self.kinds[index] = "reasoning"
            case MessageItem():
                is_content = item.phase == "final_answer" or self.form.preambles_are_content
                self.kinds[index] = "content" if is_content else "reasoning"
            case ToolCallItem() if not self.form.is_legacy:
                self.calls[index] = (len(self.calls), item)
                kind = item.kind
                body = {"name": item.name, INPUT[kind]: ""}
                yield self._call(index, {"id": item.call_id, "type": kind, kind: body})
            case ToolCallItem() if not self.calls:  # a legacy message has room for one
                self.calls[index] = (0, item)
                begun = {"name": item.name, "arguments": ""}
                yield self._part({"function_call": begun})

    def _delta(self, event: ItemDelta) -> Iterator[dict[str, Any]]:
        kind = self.kinds.get(event.index)
        if kind == "content":
            yield from self._content(event)
        elif not event.text:
            return
        elif kind == "reasoning":
            if self.form.shows_reasoning:
                text = self._separated(kind, event)
                yield self._part({"reasoning": text, "reasoning_content": text})
        elif event.index in self.calls:
            yield self._input(event)

    def _content(self, event: ItemDelta) -> Iterator[dict[str, Any]]:
        if event.text or event.logprobs:
            yield self._more_content(event)
        before = self.starts.get(event.index, 0)
        for citation in event.citations:
            found = _annotation(citation, before)
            if found is not None:
                self.annotations.append(found)

    def _more_content(self, event: ItemDelta) -> dict[str, Any]:
        scores = None
        if self.form.logprobs:
            scores = {"content": logprobs(event.logprobs), "refusal": None}
        text = self._separated("content", event)
        self.length += len(text)
        if event.text:
            start = self.length - len(event.text)
            self.starts.setdefault(event.index, start)
        return self._part({"content": text}, logprobs=scores)

    def _input(self, event: ItemDelta) -> dict[str, Any]:
        """More of a call's arguments, or of a custom tool's input."""
        if self.form.is_legacy:
            return self._part({"function_call": {"arguments": event.text}})
        kind = self.calls[event.index][1].kind
        body = {INPUT[kind]: event.text}
        return self._call(event.index, {kind: body})

    def _end(self, event: TurnEnd) -> dict[str, Any]:
        finish = FINISH[event.reason]
        if self.form.is_legacy and finish == "tool_calls":
            finish = "function_call"
        delta = {}
        if self.annotations:
            delta["annotations"] = self.annotations
        part = self._part(delta, finish)
        part["stop_reason"] = event.stopped_by
        return part

    def _separated(self, kind: str, event: ItemDelta) -> str:
        """The text, after a break if the field already has text of another item."""
        if not event.text:
            return ""
        before = self.filled.get(kind, event.index)
        self.filled[kind] = event.index
        if before == event.index:
            return event.text
        return BREAK + event.text

    def _call(self, index: int, call: dict[str, Any]) -> dict[str, Any]:
        number = self.calls[index][0]
        return self._part({"tool_calls": [{"index": number, **call}]})

    def _part(
        self, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None
    ) -> dict[str, Any]:
        part = {
            "index": self.index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish,
        }
        if self.form.token_ids:
            part["token_ids"] = self.token_ids
            self.token_ids = []
        return part


def _annotation(citation: Citation, before: int) -> dict[str, Any] | None:
    """In this API's form, which has one kind of them."""
    facts = citation.placed(before)
    if facts.pop("type") != "url_citation":
        return None
    return {"type": "url_citation", "url_citation": facts}


@dataclass
class _Message:
    """A choice that chunks add up to."""

    fields: dict[str, list[str]] = field(default_factory=dict)  # of text
    calls: list[dict[str, Any]] = field(default_factory=list)
    function_call: dict[str, str] | None = None
    logprobs: list[Any] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    token_ids: list[int] | None = None
    finish: str | None = None
    stop_reason: str | int | None = None

    def add(self, choice: dict[str, Any]) -> None:
        for key, value in choice["delta"].items():
            match key:
                case "role":
                    pass
                case "annotations":
                    self.annotations += value
                case "tool_calls":
                    for part in value:
                        self._add_call(part)
                case "function_call":
                    if self.function_call is None:
                        self.function_call = {"name": value["name"], "arguments": ""}
                    self.function_call["arguments"] += value["arguments"]
                case _:
                    self.fields.setdefault(key, []).append(value)
        if choice["logprobs"] is not None:
            self.logprobs += choice["logprobs"]["content"]
        if "token_ids" in choice:
            self.token_ids = [*(self.token_ids or ()), *choice["token_ids"]]
        if choice["finish_reason"] is not None:
            self.finish = choice["finish_reason"]
            self.stop_reason = choice["stop_reason"]

    def _add_call(self, part: dict[str, Any]) -> None:
        if part["index"] == len(self.calls):
            kind = part["type"]
            body = dict(part[kind])
            self.calls.append({"id": part["id"], "type": kind, kind: body})
            return
        call = self.calls[part["index"]]
        body = call[call["type"]]
        for key, value in part[call["type"]].items():
            body[key] += value

    def _text(self, name: str) -> str:
        return "".join(self.fields.get(name, ()))

    def result(self, index: int, with_logprobs: bool) -> dict[str, Any]:
        scores = None
        if with_logprobs:
            scores = {"content": self.logprobs, "refusal": None}
        choice = {
            "index": index,
            "message": self._message(),
            "logprobs": scores,
            "finish_reason": self.finish,
            "stop_reason": self.stop_reason,
        }
        if self.token_ids is not None:
            choice["token_ids"] = self.token_ids
        return choice

    def _message(self) -> dict[str, Any]:
        content: str | None = self._text("content")
        reasoning = self._text("reasoning") or None
        has_call = bool(self.calls or self.function_call)
        if has_call and not content:
            content = None
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content,
            "refusal": None,
            "annotations": self.annotations,
            "reasoning": reasoning,
            "reasoning_content": reasoning,
        }
        if self.calls:
            message["tool_calls"] = self.calls
        if self.function_call:
            message["function_call"] = self.function_call
        return message


class Body:
    """The body that a stream's chunks add up to. They have to include the usage."""

    def __init__(self, choices: int, with_logprobs: bool = False) -> None:
        self.messages = [_Message() for _ in range(choices)]
        self.with_logprobs = with_logprobs
        self.head: dict[str, Any] = {}
        self.usage: dict[str, Any] | None = None

    def add(self, chunk: dict[str, Any]) -> None:
        if not self.head:
            self.head = dict(chunk)
            for key in OF_CHUNKS:
                self.head.pop(key, None)
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk["choices"]:
            self.messages[choice["index"]].add(choice)

    def result(self) -> dict[str, Any]:
        choices = []
        for n, message in enumerate(self.messages):
            choices.append(message.result(n, self.with_logprobs))
        return {
            **self.head,
            "object": "chat.completion",
            "choices": choices,
            "usage": self.usage,
        }
