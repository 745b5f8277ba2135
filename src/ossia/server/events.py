"""What happens in an answer, in no API's words: items that begin, grow and end. Every API writes
them as its own.

An item is one thing that an answer consists of: a thought, something said, a call. `start`, any
number of `delta`s and `end` belong together by their index; the deltas' texts add up to the text of
the item that ends.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Literal

from ossia.harmony import Message, Repair

Phase = Literal["commentary", "final_answer"]
Reason = Literal["stop", "length", "calls"]


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


@dataclass(frozen=True)
class TokenLogprob:
    """A token of an answer's text. `data`: its bytes, which may be part of a character; `text`:
    them, decoded alone.
    """

    token_id: int
    text: str
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Thought:
    """Reasoning, from channel analysis."""

    id: str
    text: str = ""


@dataclass(frozen=True)
class Said:
    """Text for the user: a preamble on channel commentary, or the answer."""

    id: str
    phase: Phase
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Called:
    """A call that the client has to carry out. `text`: the arguments in JSON, or a custom tool's
    input.

    `namespace`: None for functions and custom tools of the request itself.
    """

    id: str
    call_id: str
    kind: Literal["function", "custom"]
    name: str
    namespace: str | None = None
    text: str = ""


@dataclass(frozen=True)
class BuiltinCalled:
    """A call that the server carries out: of a tool in `builtin.py`. `action` and `outputs` in the
    form of the wire.
    """

    id: str
    tool: str  # "browser" or "python"
    function: str  # "search"; "" for python
    text: str = ""
    action: dict[str, Any] | None = None
    outputs: tuple[dict[str, Any], ...] = ()
    failed: bool = False


Item = Thought | Said | Called | BuiltinCalled


@dataclass(frozen=True)
class ItemStart:
    """`item` is empty yet."""

    index: int
    item: Item


@dataclass(frozen=True)
class ItemDelta:
    index: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class BuiltinStage:
    """A server's tool begins to work; the model has said what it wants (`item.text`,
    `item.action`).
    """

    index: int
    item: BuiltinCalled


@dataclass(frozen=True)
class ItemEnd:
    """`complete`: False if the tokens ran out, or the answer was stopped, in the midst of it."""

    index: int
    item: Item
    complete: bool = True


@dataclass(frozen=True)
class Usage:
    """Tokens. Of an answer that took several samples, because the server ran tools, the sums."""

    prompt: int = 0
    cached: int = 0  # of the prompt: not computed again
    completion: int = 0
    reasoning: int = 0  # of the completion

    @property
    def total(self) -> int:
        return self.prompt + self.completion


@dataclass(frozen=True)
class Timing:
    """Seconds on the clock of `time.monotonic`; `first_token` None if there was none."""

    arrived: float
    first_token: float | None
    ended: float


@dataclass(frozen=True)
class AnswerEnd:
    """The last event. `messages` are what the answer adds to the conversation, results of the
    server's tools included. `stopped_by`: the stop string that ended it. `calls` are to be carried
    out by the client.
    """

    reason: Reason
    usage: Usage
    messages: tuple[Message, ...]
    timing: Timing
    stopped_by: str | None = None
    repairs: tuple[Repair, ...] = ()


@dataclass(frozen=True)
class Progress:
    """With every token, before what it gives, so that who counts tokens need not wait. Most readers
    pass over it.
    """

    usage: Usage


AnswerEvent = ItemStart | ItemDelta | BuiltinStage | ItemEnd | Progress | AnswerEnd
