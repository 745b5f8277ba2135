"""The engine's requests and answers. Plain Python; no tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from ossia.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mask = NDArray[np.uint32]

FinishReason = Literal["stop", "length"]
MAX_TOP_LOGPROBS = 128


class Constraint(Protocol):
    """Which tokens may come next in a request. It changes with every token, so each request has its
    own.
    """

    @property
    def is_done(self) -> bool:
        """Whether the token accepted last was the end; the request stops with it."""
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
    until the context is full; a token in `stop_ids` ends the answer and is its last token.

    `repetition_penalty` divides positive and multiplies negative logits of every token seen, prompt
    included (Keskar et al., arXiv 1909.05858; 1 is off). `presence_penalty` and `frequency_penalty`
    are subtracted once, and once per occurrence, for tokens of the answer (OpenAI's; 0 is off).
    `logit_bias` is added to the logits of the ids it names. `top_logprobs` asks for that many
    likeliest tokens besides the sampled one. Penalties and bias come first, then the constraint,
    temperature, top_k, top_p and min_p.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    stop_ids: frozenset[int] = frozenset()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        whole = ("top_k", "seed", "max_tokens", "top_logprobs")
        penalties = ("repetition_penalty", "presence_penalty", "frequency_penalty")
        for name in ("temperature", "top_p", "min_p", *penalties, *whole):
            value = getattr(self, name)
            if value is None and name in ("seed", "max_tokens"):
                continue
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if name in whole and not (is_number and isinstance(value, int)):
                raise RequestError(f"{name} must be a whole number, found {value!r}", name)
            if not is_number:
                raise RequestError(f"{name} must be a number, found {value!r}", name)
        checks = {
            "temperature": (math.isfinite(self.temperature) and self.temperature >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "max_tokens": (self.max_tokens is None or self.max_tokens >= 1, "at least 1"),
            "repetition_penalty": (
                0.001 <= self.repetition_penalty <= 1000,
                "between 0.001 and 1000 (1 is off)",
            ),
            "presence_penalty": (
                abs(self.presence_penalty) <= 1000,
                "between -1000 and 1000 (0 is off)",
            ),
            "frequency_penalty": (
                abs(self.frequency_penalty) <= 1000,
                "between -1000 and 1000 (0 is off)",
            ),
            "top_logprobs": (
                0 <= self.top_logprobs <= MAX_TOP_LOGPROBS,
                f"between 0 and {MAX_TOP_LOGPROBS}",
            ),
        }
        for name, (fine, wanted) in checks.items():
            if not fine:
                raise RequestError(f"{name} must be {wanted}, found {getattr(self, name)!r}", name)
        try:
            object.__setattr__(self, "stop_ids", frozenset(self.stop_ids))
        except TypeError as error:
            raise RequestError(
                f"stop_ids must be a collection of token ids, found {self.stop_ids!r}", "stop_ids"
            ) from error
        object.__setattr__(self, "logit_bias", _checked_bias(self.logit_bias))


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
    had been computed for earlier requests.
    """

    request_id: int
    token_id: int
    logprob: float
    finish_reason: FinishReason | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    cached_tokens: int = 0


@dataclass(frozen=True)
class PromptToken:
    """One token of a prompt, its log-probability after the tokens before it, and the likeliest
    tokens in its place.
    """

    token_id: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()


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


@dataclass
class Request:
    """A sequence in progress: `computed` of its tokens have keys and values in the cache."""

    id: int
    prompt: Sequence[int]
    params: SamplingParams
    limit: int  # tokens that may be generated
    constraint: Constraint | None = None
    mask: Future[Mask] | None = None  # of the constraint, for the token to be sampled next
    priority: int = 0  # smaller is served first
    generated: list[int] = field(default_factory=list)
    computed: int = 0
    cached: int = 0  # of the prompt: found in the cache, or a parent's, when it first ran
    draft: list[int] = field(default_factory=list)  # guesses after the last known token
    cache_salt: str = ""  # the prefix cache is shared among requests with the same one
    parent: Request | None = None  # computes the same prompt, while this one waits for its pages

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
