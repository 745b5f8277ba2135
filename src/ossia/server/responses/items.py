"""One output item of a response: the wire events from its beginning to its end, and the item they
add up to.

Each writer is for one kind of item; those of calls that the server runs are in hosted.py. A writer
yields (type, fields); the owner of the stream adds the sequence number. Knows the item and how much
of it the client wants to see; nothing of the response around it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ossia.server.wire import output
from ossia.turn.events import (
    BuiltinCallItem,
    ItemDelta,
    MessageItem,
    ReasoningItem,
    ToolCallItem,
)

Wire = tuple[str, dict[str, Any]]
SUMMARY = {"auto": 3, "concise": 3, "detailed": 10}  # sentences
SENTENCE = re.compile(r"(?<=[.!?])\s")
LONGEST = 300  # characters of a summary's sentence


@dataclass(frozen=True)
class Include:
    """What a client wants to see. `seal` None: encrypted reasoning is not asked for, nor what our
    tools told the model.
    """

    summary: str | None = None
    seal: Callable[[str], str] | None = None
    logprobs: bool = False
    code_outputs: bool = False
    sources: bool = False


@dataclass(frozen=True)
class Begun:
    """An item as it is added, and the events that follow, as (type, fields)."""

    item: dict[str, Any]
    events: tuple[Wire, ...] = ()


@dataclass(frozen=True)
class Done:
    """The item that began last, as it is in the end."""

    item: dict[str, Any]


@dataclass(frozen=True)
class AtOnce:
    """An item that is whole when it comes. `begun`: as it is added; `events`: those between, as
    (type, fields); `item`: as it is done.
    """

    begun: dict[str, Any]
    item: dict[str, Any]
    events: tuple[Wire, ...] = ()


class Writer:
    """`start`, any number of `delta`, `stage` for calls that the server runs, `end`. `item` is
    always the fold of the events so far, except for text that is still coming, which `partial`
    adds.
    """

    def __init__(self, output_index: int, item: dict[str, Any], include: Include) -> None:
        self.item = item
        self.include = include
        self.place = {"item_id": item["id"], "output_index": output_index}
        self.parts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def small(self, type: str, **fields: Any) -> Wire:
        """An event about a part of the item."""
        return f"response.{type}", self.place | fields

    def added(self) -> Wire:
        return "response.output_item.added", {
            "output_index": self.place["output_index"],
            "item": dict(self.item),
        }

    def done(self, item: dict[str, Any]) -> Wire:
        self.item = item
        return "response.output_item.done", {
            "output_index": self.place["output_index"],
            "item": item,
        }

    def start(self) -> Iterator[Wire]:
        yield self.added()

    def delta(self, delta: ItemDelta) -> Iterator[Wire]:
        raise NotImplementedError

    def stage(self, item: BuiltinCallItem) -> Iterator[Wire]:
        yield from ()

    def end(self, item: Any, complete: bool) -> Iterator[Wire]:
        raise NotImplementedError

    def followed_by(self, item: Any, complete: bool) -> Iterator[AtOnce]:
        """Items that come after the end of this one."""
        yield from ()

    def partial(self) -> dict[str, Any]:
        """The item of an answer that was stopped in the middle of it."""
        raise NotImplementedError


class ReasoningWriter(Writer):
    def __init__(self, output_index: int, thought: ReasoningItem, include: Include) -> None:
        item = {
            "id": thought.id,
            "type": "reasoning",
            "summary": [],
            "content": [],
            "status": "in_progress",
        }
        super().__init__(output_index, item, include)
        self.place_part = {**self.place, "content_index": 0}

    def start(self) -> Iterator[Wire]:
        yield self.added()
        yield (
            "response.content_part.added",
            {**self.place_part, "part": {"type": "reasoning_text", "text": ""}},
        )

    def delta(self, delta: ItemDelta) -> Iterator[Wire]:
        self.parts.append(delta.text)
        yield "response.reasoning_text.delta", {**self.place_part, "delta": delta.text}

    def end(self, item: ReasoningItem, complete: bool) -> Iterator[Wire]:
        part = {"type": "reasoning_text", "text": item.text}
        yield "response.reasoning_text.done", {**self.place_part, "text": item.text}
        yield "response.content_part.done", {**self.place_part, "part": part}
        summary = (
            summary_of(item.text, self.include.summary) if self.include.summary is not None else ""
        )
        if summary:
            yield from self._summarized(summary)
        yield self.done(self._whole(item.text, summary, "completed" if complete else "incomplete"))

    def _summarized(self, summary: str) -> Iterator[Wire]:
        place = {**self.place, "summary_index": 0}
        part = {"type": "summary_text", "text": summary}
        yield (
            "response.reasoning_summary_part.added",
            {**place, "part": {"type": "summary_text", "text": ""}},
        )
        yield "response.reasoning_summary_text.delta", {**place, "delta": summary}
        yield "response.reasoning_summary_text.done", {**place, "text": summary}
        yield "response.reasoning_summary_part.done", {**place, "part": part}

    def _whole(self, text: str, summary: str, status: str) -> dict[str, Any]:
        whole = {
            **self.item,
            "summary": [],
            "content": [{"type": "reasoning_text", "text": text}],
            "status": status,
        }
        if summary:
            whole["summary"] = [{"type": "summary_text", "text": summary}]
        if self.include.seal is not None:
            whole["encrypted_content"] = self.include.seal(text)
        return whole

    def partial(self) -> dict[str, Any]:
        return self._whole(self.text, "", "incomplete")


def summary_of(text: str, detail: str) -> str:
    """A summary made of the reasoning's own words: the first sentence of every paragraph, of the
    first few that have one; a paragraph each. No model writes it, so it costs nothing and adds
    nothing.
    """
    paragraphs = [paragraph.strip() for paragraph in re.split(r"\n\s*\n", text)]
    sentences = [SENTENCE.split(paragraph, maxsplit=1)[0] for paragraph in paragraphs if paragraph]
    return "\n\n".join(
        sentence[:LONGEST] for sentence in sentences[: SUMMARY.get(detail, SUMMARY["auto"])]
    )


class MessageWriter(Writer):
    def __init__(self, output_index: int, said: MessageItem, include: Include) -> None:
        item = {
            "id": said.id,
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "phase": said.phase,
            "content": [],
        }
        super().__init__(output_index, item, include)
        self.annotations: list[dict[str, Any]] = []
        self.logprobs: list[dict[str, Any]] = []
        self.place_part = {**self.place, "content_index": 0}

    def start(self) -> Iterator[Wire]:
        yield self.added()
        yield "response.content_part.added", {**self.place_part, "part": _output_text("", [], [])}

    def delta(self, delta: ItemDelta) -> Iterator[Wire]:
        self.parts.append(delta.text)
        logprobs = output.logprobs(delta.logprobs) if self.include.logprobs else []
        self.logprobs += logprobs
        if delta.text or logprobs:
            yield (
                "response.output_text.delta",
                {**self.place_part, "delta": delta.text, "logprobs": logprobs},
            )
        for citation in delta.citations:
            annotation = citation.placed()
            place = {**self.place_part, "annotation_index": len(self.annotations)}
            self.annotations.append(annotation)
            yield "response.output_text.annotation.added", {**place, "annotation": annotation}

    def end(self, item: MessageItem, complete: bool) -> Iterator[Wire]:
        logprobs = output.logprobs(item.logprobs) if self.include.logprobs else []
        yield (
            "response.output_text.done",
            {**self.place_part, "text": item.text, "logprobs": logprobs},
        )
        part = _output_text(item.text, self.annotations, logprobs)
        yield "response.content_part.done", {**self.place_part, "part": part}
        yield self.done(
            {**self.item, "status": "completed" if complete else "incomplete", "content": [part]}
        )

    def partial(self) -> dict[str, Any]:
        return {
            **self.item,
            "status": "incomplete",
            "content": [_output_text(self.text, self.annotations, self.logprobs)],
        }


def _output_text(
    text: str,
    annotations: list[dict[str, Any]],
    logprobs: list[dict[str, Any]],
) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": logprobs}


class CallWriter(Writer):
    """A function's call, or a custom tool's."""

    def __init__(self, output_index: int, called: ToolCallItem, include: Include) -> None:
        self.is_function = called.kind == "function"
        self.key = "arguments" if self.is_function else "input"
        self.event = "function_call_arguments" if self.is_function else "custom_tool_call_input"
        item = {
            "id": called.id,
            "type": "function_call" if self.is_function else "custom_tool_call",
            "status": "in_progress",
            "call_id": called.call_id,
            "name": called.name,
            self.key: "",
        }
        if called.namespace is not None:
            item["namespace"] = called.namespace
        super().__init__(output_index, item, include)

    def delta(self, delta: ItemDelta) -> Iterator[Wire]:
        self.parts.append(delta.text)
        yield f"response.{self.event}.delta", {**self.place, "delta": delta.text}

    def end(self, item: ToolCallItem, complete: bool) -> Iterator[Wire]:
        yield f"response.{self.event}.done", {**self.place, self.key: item.text}
        yield self.done(
            {**self.item, "status": "completed" if complete else "incomplete", self.key: item.text}
        )

    def partial(self) -> dict[str, Any]:
        return {**self.item, "status": "incomplete", self.key: self.text}
