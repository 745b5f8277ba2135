"""What happens in a turn, in the words of no API: items that begin, grow and end.

An item is one thing that an answer consists of: reasoning, a message to the user, a call.
`ItemStart`, any number of `ItemDelta`s and `ItemEnd` belong together by their index; the deltas'
texts add up to the text of the item that ends. The server's APIs, the terminal, evals and rollouts
read these events. Plain frozen data; knows Harmony's messages.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ossia.harmony import Message, Repair, Role
from ossia.tools.kinds import ToolKind

Phase = Literal["commentary", "final_answer"]
Reason = Literal["stop", "length", "calls", "approval", "tool_rounds"]


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


class Sampled(Protocol):
    """A sampled token; `engine.request.SampledToken` is one."""

    @property
    def token_id(self) -> int: ...
    @property
    def logprob(self) -> float: ...
    @property
    def top_logprobs(self) -> Sequence[tuple[int, float]]: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def finish_reason(self) -> Literal["stop", "length"] | None: ...
    @property
    def experts(self) -> Sequence[Sequence[int]] | None: ...


@dataclass(frozen=True)
class TokenLogprob:
    """A token of a message's text. `data`: its bytes, which may be part of a character; `text`:
    the bytes decoded alone.
    """

    token_id: int
    text: str
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Citation:
    """What a part of a message stands for. `start`, `end`: in the message's text. `facts`: the rest
    of it, in the form of the wire.
    """

    start: int
    end: int
    facts: dict[str, Any]

    def placed(self, before: int = 0) -> dict[str, Any]:
        """All of it, where so many characters come before the message."""
        return {**self.facts, "start_index": before + self.start, "end_index": before + self.end}


# ---- items ----


@dataclass(frozen=True)
class ReasoningItem:
    """From channel analysis."""

    id: str
    text: str = ""


@dataclass(frozen=True)
class MessageItem:
    """Text for the user: a preamble on channel commentary, or the answer. `citations`: what drivers
    that show sources found in the text.
    """

    id: str
    phase: Phase
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    citations: tuple[Citation, ...] = ()


@dataclass(frozen=True)
class ToolCallItem:
    """A call that the caller has to carry out. `text`: the arguments in JSON, or a custom tool's
    input.

    `namespace`: None for functions and custom tools outside of namespaces.
    """

    id: str
    call_id: str
    kind: Literal["function", "custom"]
    name: str
    namespace: str | None = None
    text: str = ""


@dataclass(frozen=True)
class BuiltinCallItem:
    """A call that we carry out. `action` and `outputs` are for clients, in the form of the wire;
    `result` is what the model is told. `approval`: the id of the request in which it was approved.
    `message`: the complete call, as it is in the conversation.
    """

    id: str
    kind: ToolKind
    tool: str  # the namespace, such as "browser" or "functions"
    function: str  # "" for a namespace without functions
    text: str = ""
    action: dict[str, Any] | None = None
    outputs: tuple[dict[str, Any], ...] = ()
    result: str = ""
    failed: bool = False
    message: Message | None = field(default=None, compare=False, repr=False)
    approval: str | None = None

    @property
    def name(self) -> str:
        """What to call it before a person."""
        return self.function or self.tool


@dataclass(frozen=True)
class ApprovalItem:
    """A call of one of our tools that somebody has to approve before it is run. `action`: the call
    as clients see it.
    """

    id: str
    kind: ToolKind
    action: dict[str, Any]
    text: str = ""


Item = ReasoningItem | MessageItem | ToolCallItem | BuiltinCallItem | ApprovalItem


# ---- events ----


@dataclass(frozen=True)
class ItemStart:
    """`item` has no text yet."""

    index: int
    item: Item


@dataclass(frozen=True)
class ItemDelta:
    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    citations: tuple[Citation, ...] = ()  # those that are complete with this text


@dataclass(frozen=True)
class CallStart:
    """A call of one of our tools, complete in `item`. Its end has the result, or says why the call
    was not run.
    """

    index: int
    item: BuiltinCallItem


@dataclass(frozen=True)
class ItemEnd:
    """`complete`: False if the tokens ran out, or the answer was stopped, before its end."""

    index: int
    item: Item
    complete: bool = True


@dataclass(frozen=True)
class Usage:
    """Tokens. Of a turn that took several samples, the sums. `cached`: of the prompt, those that
    had been computed before, for others; it says nothing about the turn, so equality ignores it.
    """

    prompt: int = 0
    cached: int = field(default=0, compare=False)
    completion: int = 0
    reasoning: int = 0  # of the completion

    @property
    def total(self) -> int:
        return self.prompt + self.completion


@dataclass(frozen=True)
class Progress:
    """How many tokens there are so far, and the last one. Drivers that count tokens send it with
    every token, before what the token gives; the turn itself does not. `prompt`: that of the turn,
    with its first token.
    """

    usage: Usage
    token_id: int | None = None
    prompt: tuple[int, ...] = ()


@dataclass(frozen=True)
class Timing:
    """Seconds on the clock of `time.monotonic`; `first_token` None if there was none."""

    arrived: float
    first_token: float | None
    ended: float


@dataclass(frozen=True)
class TurnEnd:
    """The last event. `messages` are those that the turn adds to the conversation, tool results
    included.

    reason: `stop`, the model finished (or kept making calls that cannot be understood); `length`,
    the tokens ran out, and the last message may be cut; `calls`, the caller has calls to carry out;
    `approval`, calls of our tools wait for somebody's approval; `tool_rounds`, the model kept
    calling our tools. `stopped_by`: the stop string that ended the
    turn, or the token that was named as one. `timing`: set by drivers that have a clock.
    """

    reason: Reason
    usage: Usage
    messages: tuple[Message, ...]
    timing: Timing | None = field(default=None, compare=False)
    stopped_by: str | int | None = None
    repairs: tuple[Repair, ...] = ()

    @property
    def text(self) -> str:
        """The answer: what was said on `final`, or "" if the turn did not get there."""
        return "".join(self._said("final"))

    @property
    def reasoning(self) -> str:
        return "\n".join(self._said("analysis"))

    @property
    def prompt_tokens(self) -> int:
        return self.usage.prompt

    @property
    def completion_tokens(self) -> int:
        return self.usage.completion

    @property
    def reasoning_tokens(self) -> int:
        return self.usage.reasoning

    def _said(self, channel: str) -> list[str]:
        own = [m for m in self.messages if m.role is Role.ASSISTANT and m.recipient is None]
        return [str(m.content) for m in own if m.channel == channel]


TurnEvent = ItemStart | ItemDelta | CallStart | ItemEnd | Progress | TurnEnd
