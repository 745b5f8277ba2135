"""One turn of a conversation: render -> generate -> parse -> run the tool -> again, until the answer is there.

The loop that every face of ossia shares. It is handed `generate`, a function from prompt ids to sampled ids, and knows
neither engine nor model; tools are anything with a declaration and a `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
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

    reason: `stop`, the model finished; `length`, the tokens ran out, and the last message may be cut; `tool_rounds`, it
    kept calling tools.
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
        return "".join(str(m.content) for m in self.messages if m.role is Role.ASSISTANT and m.channel == "final")

    @property
    def reasoning(self) -> str:
        thoughts = (m for m in self.messages if m.role is Role.ASSISTANT and m.channel == "analysis")
        return "\n".join(str(m.content) for m in thoughts if m.recipient is None)


Event = MessageStart | TextDelta | MessageEnd | ToolCalled | ToolReturned | TurnEnd


@dataclass
class _Turn:
    """What a turn has gathered so far."""

    added: list[Message] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def end(self, reason: Reason) -> TurnEnd:
        counts = (self.prompt_tokens, self.completion_tokens, self.reasoning_tokens)
        return TurnEnd(tuple(self.added), reason, *counts, tuple(self.repairs))


def run_turn(
    conversation: Conversation,
    generate: Generate,
    tokenizer: Tokenizer,
    tools: Sequence[Tool] = (),
    max_tool_rounds: int = 8,
) -> Iterator[Event]:
    """Answer the conversation: the parser's events as they come, tool events between them, a `TurnEnd` at last.

    `generate` gives sampled ids, the stop token included; if it ends without one, the tokens ran out. The
    conversation must already declare the tools to the model.
    """
    turn = _Turn()
    by_name = {tool.function.name: tool for tool in tools}
    for _ in range(max_tool_rounds + 1):
        prompt = render_for_completion(Conversation((*conversation.messages, *turn.added)), tokenizer)
        turn.prompt_tokens = turn.prompt_tokens or len(prompt)
        parser = StreamParser(tokenizer)
        stopped = yield from _sample(prompt, generate, parser, tokenizer, turn)
        if not stopped:
            yield turn.end("length")
            return
        calls = _calls(parser.messages)
        if not calls:
            yield turn.end("stop")
            return
        for call in calls:
            yield from _run_tool(call, by_name, turn)
    yield turn.end("tool_rounds")


def _sample(
    prompt: list[int], generate: Generate, parser: StreamParser, tokenizer: Tokenizer, turn: _Turn
) -> Generator[Event, None, bool]:
    """Feed the parser to the end of the sample; returns whether a stop token ended it."""
    stops = stop_ids(tokenizer)
    stopped = False
    for token in generate(prompt):
        turn.completion_tokens += 1
        turn.reasoning_tokens += parser.current is not None and parser.current.channel == "analysis"
        yield from parser.feed(token)
        stopped = token in stops
    yield from parser.finish()
    turn.added += parser.messages
    turn.repairs += parser.repairs
    return stopped


def stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end a sample: the answer is complete, or a tool is called, or the text is over."""
    return frozenset(tokenizer.special(name) for name in ("<|return|>", "<|call|>", "<|endoftext|>"))


def _calls(messages: Sequence[Message]) -> list[Message]:
    """Messages that address a tool: a recipient decides, whatever the channel."""
    return [m for m in messages if m.role is Role.ASSISTANT and m.recipient not in (None, "all", "user", "assistant")]


def _run_tool(call: Message, tools: dict[str, Tool], turn: _Turn) -> Iterator[Event]:
    recipient, arguments = str(call.recipient), str(call.content)
    name = resolve_recipient(recipient, tools)
    yield ToolCalled(name or recipient, arguments)
    failed = False
    try:
        if name is None:
            there_are = ", ".join(tools) or "none"
            raise ToolError(f"there is no tool {recipient!r}; available: {there_are}")
        result = tools[name].run(arguments)
    except ToolError as error:
        result, failed = f"error: {error}", True
    author = f"functions.{name}" if name is not None else recipient
    turn.added.append(
        Message(Role.TOOL, result, name=author, channel="commentary", recipient="assistant")
    )
    yield ToolReturned(name or recipient, result, failed)
