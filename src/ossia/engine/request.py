"""The engine's requests and answers. Plain Python; no tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Protocol,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Le

from ossia.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mask = NDArray[np.uint32]

FinishReason = Literal["stop", "length"]
MAX_TOP_LOGPROBS = 128

# The sampling fields' types. Their bounds are written here only: `SamplingParams` checks them, and
# the server's requests have the same types. A text is a note for whoever reads the refusal.
Temperature = Annotated[float, Ge(0)]
TopP = Annotated[float, Gt(0), Le(1)]
TopK = Annotated[int, Ge(0), "0 is off"]
MinP = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Ge(1)]
Repetition = Annotated[float, Ge(0.001), Le(1000), "1 is off"]
Penalty = Annotated[float, Ge(-1000), Le(1000), "0 is off"]
MinTokens = Annotated[int, Ge(0)]
TopLogprobs = Annotated[int, Ge(0), Le(MAX_TOP_LOGPROBS)]


class Constraint(Protocol):
    """Which tokens may come next in a request. It changes with every token, so each request has its
    own.
    """

    @property
    def is_done(self) -> bool:
        """Whether the token accepted last was the end; the request stops with it."""
        ...

    def within(self, tokens: int) -> None:
        """How many tokens the request may have; told once, before all else."""
        ...

    def mask(self) -> Mask:
        """The tokens that may come next, at least one: bit i of word w stands for id 32 w + i; ids
        beyond the words may not. Called in a worker thread, once a token, while the model runs;
        never at the same time as `advance`.
        """
        ...

    def advance(self, token: int, /) -> None:
        """`token`, which the mask allows, has been sampled."""
        ...


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn and when to stop. Raises `RequestError` for a value out of range, its
    `field` the name.

    temperature 0 takes the likeliest token; top_k 0, top_p 1 and min_p 0 filter nothing; the same
    seed on the same prompt gives the same tokens, whatever else is being served; `max_tokens` None:
    until the context is full; a token in `stop_ids` ends the answer and is its last token, and none
    of them comes before `min_tokens`, unless the constraint allows nothing else.

    `repetition_penalty` divides positive and multiplies negative logits of every token seen, prompt
    included (Keskar et al., arXiv 1909.05858; 1 is off). `presence_penalty` and `frequency_penalty`
    are subtracted once, and once per occurrence, for tokens of the answer (OpenAI's; 0 is off).
    `logit_bias` is added to the logits of the ids it names. `top_logprobs` asks for that many
    likeliest tokens besides the sampled one. Penalties and bias come first, then the constraint,
    temperature, top_k, top_p and min_p.
    """

    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    seed: int | None = None
    max_tokens: Count | None = None
    min_tokens: MinTokens = 0
    stop_ids: frozenset[int] = frozenset()
    repetition_penalty: Repetition = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: TopLogprobs = 0

    def __post_init__(self) -> None:
        for name, bounds in _bounds().items():
            bounds.check(name, getattr(self, name))
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens must be at most max_tokens, which is {self.max_tokens}, "
                f"found {self.min_tokens}",
                "min_tokens",
            )
        try:
            object.__setattr__(self, "stop_ids", frozenset(self.stop_ids))
        except TypeError as error:
            raise RequestError(
                f"stop_ids must be a collection of token ids, found {self.stop_ids!r}", "stop_ids"
            ) from error
        object.__setattr__(self, "logit_bias", _checked_bias(self.logit_bias))


@dataclass(frozen=True)
class _Bounds:
    """What a number may be. `note`: said with a refusal."""

    is_whole: bool
    is_optional: bool
    above: float = -math.inf
    least: float = -math.inf
    most: float = math.inf
    note: str = ""

    @classmethod
    def of(cls, type_: Any) -> _Bounds | None:
        """Of a field's type; None if it is not a number's."""
        is_optional = type(None) in get_args(type_)
        if is_optional:
            type_ = get_args(type_)[0]
        kind = type_
        facts: list[Any] = []
        if get_origin(type_) is Annotated:
            kind, *facts = get_args(type_)
        if kind not in (int, float):
            return None
        found: dict[str, Any] = {}
        for fact in facts:
            match fact:
                case Gt():
                    found["above"] = fact.gt
                case Ge():
                    found["least"] = fact.ge
                case Le():
                    found["most"] = fact.le
                case str():
                    found["note"] = f" ({fact})"
        return cls(kind is int, is_optional, **found)

    def check(self, name: str, value: Any) -> None:
        if value is None and self.is_optional:
            return
        allowed = int if self.is_whole else int | float
        if isinstance(value, bool) or not isinstance(value, allowed):
            kind = "whole number" if self.is_whole else "number"
            raise RequestError(f"{name} must be a {kind}, found {value!r}", name)
        is_inside = self.above < value and self.least <= value <= self.most
        if not is_inside or value == math.inf:
            raise RequestError(f"{name} must be {self.wanted}, found {value!r}", name)

    @property
    def wanted(self) -> str:
        if self.above > -math.inf:
            return f"above {self.above}, at most {self.most}{self.note}"
        if self.most < math.inf:
            return f"between {self.least} and {self.most}{self.note}"
        return f"{self.least} or more{self.note}"


@cache
def _bounds() -> dict[str, _Bounds]:
    """Of every field of `SamplingParams` that is a number."""
    types = get_type_hints(SamplingParams, include_extras=True)
    found = {name: _Bounds.of(type_) for name, type_ in types.items()}
    return {name: bounds for name, bounds in found.items() if bounds is not None}


def _checked_bias(bias: Mapping[int, float]) -> dict[int, float]:
    if not isinstance(bias, Mapping):
        raise RequestError(
            f"logit_bias must map token ids to numbers, found {bias!r}", "logit_bias"
        )
    for id, value in bias.items():
        if isinstance(id, bool) or not isinstance(id, int) or id < 0:
            raise RequestError(
                f"logit_bias must map token ids to numbers; {id!r} is not a token id", "logit_bias"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1000:
            raise RequestError(
                f"logit_bias of token {id} must be a number between -1000 and 1000, "
                f"found {value!r}",
                "logit_bias",
            )
    return dict(bias)


@dataclass(frozen=True)
class SampledToken:
    """One sampled id. `logprob` is its log-probability in the model's own distribution: before
    penalties, bias, constraint, temperature and filters; so are those of `top_logprobs`, likeliest
    first. The last token has a `finish_reason`. `cached_tokens`: how many of the prompt's tokens
    had been computed for earlier requests. An exact engine's `logprob` is of the distribution drawn
    from, softmax(logits / temperature). `experts`, if the engine records them: by layer, those that
    the token before this one went to.
    """

    request_id: int
    token_id: int
    logprob: float
    finish_reason: FinishReason | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    cached_tokens: int = 0
    experts: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class PromptToken:
    """One token of a prompt, its log-probability after the tokens before it, the likeliest tokens
    in its place, and its own rank among all, from 1.
    """

    token_id: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()
    rank: int = 1


@dataclass(frozen=True)
class EngineStats:
    """The state of an engine: its requests, and the share of the memory for keys and values that
    sequences hold (`kv_used`) or only the prefix cache holds (`kv_cached`). Counted since the
    start: prompt tokens, prompt tokens that were not computed again, and requests that had to start
    again for want of memory.
    """

    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    kv_cached: float = 0.0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    preemptions: int = 0


UNREAD = -1  # stands in `generated` for a token that has been drawn on a device, but not read


@dataclass
class Request:
    """A sequence in progress: `computed` of its tokens have keys and values in the cache."""

    id: int
    prompt: Sequence[int]
    params: SamplingParams
    limit: int  # tokens that may be generated
    constraint: Constraint | None = None
    mask: Future[Mask] | None = None  # of the constraint, for the token to be sampled next
    priority: int = 0  # smaller is served first, among those of one caller
    caller: str = ""  # whom it is for: callers take turns
    is_batch: bool = False  # behind everything that is not
    arrived: float = 0.0  # on the clock of time.perf_counter
    has_begun: bool = False  # some of its tokens have been computed
    generated: list[int] = field(default_factory=list)
    computed: int = 0
    cached: int = 0  # of the prompt: found in the cache, or a parent's, when it first ran
    draft: list[int] = field(default_factory=list)  # guesses after the last known token
    cache_salt: str = ""  # the prefix cache is shared among requests with the same one
    parent: Request | None = None  # computes the same prompt, while this one waits for its pages

    @property
    def is_unread(self) -> bool:
        """Whether its last token has been drawn, and nobody has read which one."""
        return self.generated[-1:] == [UNREAD]

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + len(self.generated)

    @property
    def waiting_tokens(self) -> int:
        """Known tokens that the model has not seen yet; 1 while decoding."""
        return self.num_tokens - self.computed

    def tokens(self, begin: int, end: int) -> list[int]:
        """The known tokens at the positions [begin, end)."""
        n = len(self.prompt)
        return [
            *self.prompt[begin : min(end, n)],
            *self.generated[max(0, begin - n) : max(0, end - n)],
        ]


def check_ids(prompt: Sequence[int], vocab_size: int) -> None:
    """Raises `RequestError` for an empty prompt, and for tokens that are none of the vocabulary."""
    if not prompt:
        raise RequestError(
            "the prompt is empty; a model needs at least one token to continue", "prompt"
        )
    for id in (min(prompt), max(prompt)):
        if not 0 <= id < vocab_size:
            raise RequestError(
                f"token id {id} is outside the vocabulary of {vocab_size}",
                "prompt",
            )
