"""One turn of a conversation: render -> generate -> parse -> run the tool -> again, until it is answered.

The loop that every face of ossia shares. It is handed `generate`, a function from prompt ids to sampled ids,
and knows neither engine nor model; tools are anything with a declaration and a `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ossia.errors import ToolError
from ossia.harmony import (
    Conversation,
    Message,
    MessageEnd,
    MessageStart,
    Repair,
    Role,
    StreamParser,
    TextDelta,
    render_for_completion,
    resolve_recipient,
)
from ossia.tokenizer import Tokenizer
from ossia.tools import Tool

Generate = Callable[[list[int]], Iterator[int]]
Reason = Literal["stop", "length", "tool_rounds"]


@dataclass(frozen=True)
class ToolCalled:
    """The model called a tool; its result follows as `ToolReturned`."""

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
    """The last event. `messages` are those that the turn adds to the conversation, tool results included.

    reason: `stop`, the model finished; `length`, the tokens ran out, and the last message may be cut;
    `tool_rounds`, it kept calling tools.
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
        thoughts = (m for m in self.messages if m.role is Role.ASSISTANT and m.channel == "analysis")
        return "\n".join(str(m.content) for m in thoughts if m.recipient is None)


Event = MessageStart | TextDelta | MessageEnd | ToolCalled | ToolReturned | TurnEnd


class Turn:
    """A turn being answered, without the sampling: for `run_turn`, or for whoever samples many turns at once.

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
        self._conversation, self._tokenizer = conversation, tokenizer
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
        return self._parser.feed(token)

    def end_sample(self) -> Iterator[Event]:
        """The sample is over: without a stop token, the tokens ran out. Runs the tools that were called."""
        yield from self._parser.finish()
        self.prompt = None
        self._added += self._parser.messages
        self._repairs += self._parser.repairs
        calls = _calls(self._parser.messages)
        if not self._stopped or not calls or not self._rounds_left:
            self._finish("length" if not self._stopped else "tool_rounds" if calls else "stop")
            return
        self._rounds_left -= 1
        for call in calls:
            yield from self._run_tool(call)
        self._begin_sample()

    def _begin_sample(self) -> None:
        conversation = Conversation((*self._conversation.messages, *self._added))
        self.prompt = render_for_completion(conversation, self._tokenizer)
        self._parser = StreamParser(self._tokenizer)
        self._stopped = False

    def _finish(self, reason: Reason) -> None:
        counts = (self._prompt_tokens, self._completion_tokens, self._reasoning_tokens)
        self.end = TurnEnd(tuple(self._added), reason, *counts, tuple(self._repairs))

    def _run_tool(self, call: Message) -> Iterator[Event]:
        recipient, arguments = str(call.recipient), str(call.content)
        name = resolve_recipient(recipient, self._tools)
        yield ToolCalled(name or recipient, arguments)
        failed = False
        try:
            if name is None:
                there_are = ", ".join(self._tools) or "none"
                raise ToolError(f"there is no tool {recipient!r}; available: {there_are}")
            result = self._tools[name].run(arguments)
        except ToolError as error:
            result, failed = f"error: {error}", True
        author = f"functions.{name}" if name is not None else recipient
        self._added.append(Message(Role.TOOL, result, name=author, channel="commentary", recipient="assistant"))
        yield ToolReturned(name or recipient, result, failed)


def run_turn(
    conversation: Conversation,
    generate: Generate,
    tokenizer: Tokenizer,
    tools: Sequence[Tool] = (),
    max_tool_rounds: int = 8,
) -> Iterator[Event]:
    """Answer the conversation: the parser's events as they come, tool events between, a `TurnEnd` at last.

    `generate` gives sampled ids, the stop token included; if it ends without one, the tokens ran out. The
    conversation must already declare the tools to the model.
    """
    turn = Turn(conversation, tokenizer, tools, max_tool_rounds)
    while turn.prompt is not None:
        for token in generate(turn.prompt):
            yield from turn.feed(token)
        yield from turn.end_sample()
    assert turn.end is not None
    yield turn.end


def stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end a sample: the answer is complete, or a tool is called, or the text is over. Those of
    them that the vocabulary has: one without Harmony's can still continue texts."""
    ids = (tokenizer.specials.get(name) for name in ("<|return|>", "<|call|>", "<|endoftext|>"))
    return frozenset(id for id in ids if id is not None)


def _calls(messages: Sequence[Message]) -> list[Message]:
    """Messages that address a tool: a recipient decides, whatever the channel."""
    nobody = (None, "all", "user", "assistant")
    return [m for m in messages if m.role is Role.ASSISTANT and m.recipient not in nobody]
