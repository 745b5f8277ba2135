"""Sampling fields, the same in every API. A new one is a line here and a line in `SamplingParams`.

Knows names on the wire and `SamplingParams`, whose types say the bounds; nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import BeforeValidator, Field, WithJsonSchema

from ossia.engine.request import (
    MinP,
    MinTokens,
    Penalty,
    Repetition,
    SamplingParams,
    Temperature,
    TopP,
)
from ossia.server.wire.errors import bad
from ossia.server.wire.fields import STRING, ListOf, Part, either, wrong

NO_LIMIT = (1 << 31) - 1  # tokens
MAX_SCORES = 4 << 20  # log-probabilities of the prompts of a request: each takes memory and text
MAX_STOPS = 16  # stop strings: they are looked for with every token. OpenAI takes 4


def _stops(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise wrong("must be a string or a list of strings")
    if len(texts) > MAX_STOPS:
        raise wrong(f"has {len(texts)} strings; at most {MAX_STOPS} are looked for")
    if "" in texts:
        raise wrong("must not have an empty string: it is found everywhere")
    return tuple(texts)


def _stop_list(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise wrong("must be a list of strings")
    return _stops(value)


STRINGS: dict[str, Any] = {"type": "array", "items": STRING, "maxItems": MAX_STOPS}
StopStrings = Annotated[Any, BeforeValidator(_stops), either(STRING, STRINGS)]
StopList = Annotated[
    Any, BeforeValidator(_stop_list), WithJsonSchema({"anyOf": [STRINGS, {"type": "null"}]})
]


def _numbers(biases: Any) -> Any:
    """Of those that are no numbers the first alone: pydantic would tell of each."""
    for key, bias in biases.items() if isinstance(biases, dict) else ():
        if not isinstance(bias, int | float) or isinstance(bias, bool):
            return {key: bias}
    return biases


def without_limit(value: Any) -> Any:
    """-1, which other servers' clients write for no limit, as a number that no answer reaches."""
    return NO_LIMIT if type(value) is int and value == -1 else value


MaxTokens = Annotated[
    int, BeforeValidator(without_limit), Ge(1), Field(description="-1: no limit.")
]


class SamplingFields(Part):
    """A field that is not given has the server's default."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    # other servers' clients write -1 for off
    top_k: Annotated[int, Ge(-1)] | None = Field(None, description="-1 and 0: off.")
    min_p: MinP | None = None
    seed: Annotated[int, Ge(-(1 << 63)), Le((1 << 64) - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = None
    logit_bias: Annotated[dict[str, float] | None, BeforeValidator(_numbers)] = Field(
        None, description="By token id."
    )
    # The end, in vLLM's words
    min_tokens: MinTokens | None = Field(None, description="Nothing ends the answer before.")
    ignore_eos: bool | None = Field(None, description="The model itself cannot end the answer.")
    stop_token_ids: ListOf[int] | None = Field(None, description="Tokens that end the answer.")

    @property
    def holds_on(self) -> bool:
        """Whether the model may have to go on where it would end."""
        return self.ignore_eos is True or bool(self.min_tokens)

    def params(self, defaults: SamplingParams, vocabulary: int, **own: Any) -> SamplingParams:
        """`defaults` with what is given here, and with `own`: what an API has under other names, or
        decides by itself. Raises `ApiError` for a token id that the vocabulary does not have.
        """
        wishes = {name: getattr(self, name) for name in SHARED} | own
        if self.top_k == -1:
            wishes["top_k"] = 0
        if self.logit_bias is not None:
            wishes["logit_bias"] = token_ids(self.logit_bias, vocabulary)
        return replace(defaults, **{k: value for k, value in wishes.items() if value is not None})


# the fields that the engine has under the same names
SHARED = tuple(
    name for name in SamplingFields.model_fields if name in SamplingParams.__match_args__
)


def token_ids(bias: Mapping[str, float], vocabulary: int) -> dict[int, float]:
    for key in bias:
        is_number = key.isascii() and key.isdigit() and len(key) < 10
        if not is_number or int(key) >= vocabulary:
            raise bad(
                f"logit_bias: {key[:80]!r} is not a token id; there are {vocabulary}", "logit_bias"
            )
    return {int(key): value for key, value in bias.items()}


def check_scores(tokens: int, top: int, field: str) -> None:
    """Raises `ApiError` if the log-probabilities of prompts of so many tokens are too many."""
    count = tokens * (top + 1)
    if count > MAX_SCORES:
        why = f"{count} log-probabilities of prompts are asked for; at most {MAX_SCORES} are given"
        raise bad(f"{field}: {why}", field, "too_many_logprobs")


def check_prompt_logprobs(count: int | None, stream: bool | None) -> None:
    """Raises `ApiError`: they are of a prompt, so no part of a stream of answers has them."""
    if count and stream:
        raise bad("prompt_logprobs are not streamed; leave out stream", "prompt_logprobs")
