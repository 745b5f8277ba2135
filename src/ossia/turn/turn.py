"""One turn of a conversation: render -> generate -> parse -> run the tool -> again, until it is
answered.

The loop that every face of ossia shares. It is handed `generate`, a function from prompt ids to
sampled ids, and knows neither engine nor model; tools are anything with a declaration and a `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ossia import harmony
from ossia.errors import ToolError
from ossia.harmony import (
    CallReady,
    Conversation,
    Message,
    MessageEnd,
    RenderedHistory,
    Repair,
    RepairKind,
    Role,
    StreamParser,
    UnknownTool,
    read_arguments,
    resolve_recipient,
)
from ossia.tokenizer import Tokenizer
from ossia.tools import Tool

Generate = Callable[[list[int]], Iterator[int]]
Reason = Literal["stop", "length", "tool_rounds"]


@dataclass(frozen=True)
class ToolCalled:
    """The model called a tool; its result follows as `ToolReturned`. `arguments` as the tool gets
    them.
    """

    name: str
    arguments: str


@dataclass(frozen=True)
class ToolReturned:
    """What the model is told. `failed`: the tool does not exist or raised a ToolError."""

    name: str
    result: str
    failed: bool


@dataclass(frozen=True)
class TurnEnd:
    """The last event. `messages` are those that the turn adds to the conversation, tool results
    included.

    reason: `stop`, the model finished; `length`, the tokens ran out, and the last message may be
    cut; `tool_rounds`, it kept calling tools.
    """

    messages: tuple[Message, ...]
    reason: Reason
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    repairs: tuple[Repair, ...] = ()

    @property
    def text(self) -> str:
        """The answer: what was said on `final`, or "" if the turn did not get there."""
        said = (m for m in self.messages if m.role is Role.ASSISTANT and m.channel == "final")
        return "".join(str(m.content) for m in said)

    @property
    def reasoning(self) -> str:
        thoughts = (
            m for m in self.messages if m.role is Role.ASSISTANT and m.channel == "analysis"
        )
        return "\n".join(str(m.content) for m in thoughts if m.recipient is None)


Event = harmony.Event | ToolCalled | ToolReturned | TurnEnd


class Turn:
    """A turn being answered, without the sampling: for `run_turn`, or for whoever samples many
    turns at once.

        while turn.prompt is not None:
            for token in sample(turn.prompt):  # the stop token included
                events = turn.feed(token)
            for event in turn.end_sample(): ...  # runs tools; then there is a new prompt, or None

    When it is over `end` says how. The conversation must already declare the tools to the model.
    """

    def __init__(
        self,
        conversation: Conversation,
        tokenizer: Tokenizer,
        tools: Sequence[Tool] = (),
        max_tool_rounds: int = 8,
    ) -> None:
        self.prompt: list[int] | None = None
        self.end: TurnEnd | None = None
        self._tokenizer = tokenizer
        self._history = RenderedHistory(tokenizer)
        self._history.append(conversation.messages)
        self._rendered = 0  # how many of the messages added are in the history
        self._tools = {tool.function.name: tool for tool in tools}
        self._rounds_left = max_tool_rounds
        self._stops = stop_ids(tokenizer)
        self._added: list[Message] = []
        self._repairs: list[Repair] = []
        self._completion_tokens = self._reasoning_tokens = 0
        self._begin_sample()
        self._prompt_tokens = len(self.prompt or ())

    def feed(self, token: int) -> Sequence[Event]:
        """The events of one sampled token."""
        current = self._parser.current
        self._completion_tokens += 1
        self._reasoning_tokens += current is not None and current.channel == "analysis"
        self._stopped = token in self._stops
        events = self._parser.feed(token)
        for before, event in pairwise(events):
            if isinstance(before, MessageEnd) and isinstance(event, CallReady):
                self._calls.append((self._parser.position, before))
        return events

    def end_sample(self) -> Iterator[Event]:
        """The sample is over: without a stop token, the tokens ran out. Runs the tools that were
        called.
        """
        yield from self._parser.finish()
        self.prompt = None
        self._added += self._parser.messages
        self._repairs += self._parser.repairs
        if not self._stopped or not self._calls or not self._rounds_left:
            self._finish(
                "length" if not self._stopped else "tool_rounds" if self._calls else "stop"
            )
            return
        self._rounds_left -= 1
        for position, call in self._calls:
            yield from self._run_tool(call, position)
        self._begin_sample()

    def _begin_sample(self) -> None:
        """Only what the last sample and its tools added is rendered anew."""
        self._history.append(self._added[self._rendered :])
        self._rendered = len(self._added)
        self.prompt = self._history.ids_for_completion()
        self._parser = StreamParser(self._tokenizer)
        self._calls: list[tuple[int, MessageEnd]] = []  # of this sample, and where they were closed
        self._stopped = False

    def _finish(self, reason: Reason) -> None:
        counts = (self._prompt_tokens, self._completion_tokens, self._reasoning_tokens)
        self.end = TurnEnd(tuple(self._added), reason, *counts, tuple(self._repairs))

    def _run_tool(self, end: MessageEnd, position: int) -> Iterator[Event]:
        call = end.message
        found = resolve_recipient(call.recipient, self._tools)
        name = found.recipient if isinstance(found, UnknownTool) else found
        arguments, failed = call.text, False
        # What was cut is not mended: the model may have meant to go on.
        if not isinstance(found, UnknownTool) and end.closed_by in ("<|call|>", "<|end|>"):
            read = read_arguments(arguments, self._tools[found].function.parameters)
            if read.repaired:
                self._repairs.append(Repair(position, RepairKind.ARGUMENTS, arguments))
                arguments = read.text
        yield ToolCalled(name, arguments)
        try:
            if isinstance(found, UnknownTool):
                raise ToolError(found.text)
            result = self._tools[found].run(arguments)
        except ToolError as error:
            result, failed = f"error: {error}", True
        author = name if isinstance(found, UnknownTool) else f"functions.{name}"
        self._added.append(
            Message(Role.TOOL, result, name=author, channel="commentary", recipient="assistant")
        )
        yield ToolReturned(name, result, failed)


def run_turn(
    conversation: Conversation,
    generate: Generate,
    tokenizer: Tokenizer,
    tools: Sequence[Tool] = (),
    max_tool_rounds: int = 8,
) -> Iterator[Event]:
    """Answer the conversation: the parser's events as they come, tool events between, a `TurnEnd`
    at last.

    `generate` gives sampled ids, the stop token included; if it ends without one, the tokens ran
    out. The conversation must already declare the tools to the model.
    """
    turn = Turn(conversation, tokenizer, tools, max_tool_rounds)
    while turn.prompt is not None:
        for token in generate(turn.prompt):
            yield from turn.feed(token)
        yield from turn.end_sample()
    assert turn.end is not None
    yield turn.end


def stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end a sample: the answer is complete, or a tool is called, or the text is
    over. Those of them that the vocabulary has: one without Harmony's can still continue texts.
    """
    ids = (tokenizer.specials.get(name) for name in ("<|return|>", "<|call|>", "<|endoftext|>"))
    return frozenset(id for id in ids if id is not None)
