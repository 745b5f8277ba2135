"""What a client may ask of /v1/completions, checked: the wire type, and prompts as token ids.

Knows field names; nothing of engines or answers.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ossia.engine.request import MAX_TOP_LOGPROBS, SamplingParams
from ossia.server.service import Service
from ossia.server.stops import check_stops
from ossia.server.wire.errors import bad
from ossia.tokenizer import Tokenizer

MAX_SAMPLES = 1024  # of one request: prompts times best_of
LONG = 20_000  # characters that are encoded in a thread, so that streams go on meanwhile
END_OF_TEXT = "<|endoftext|>"  # what no prompt means: the beginning of a new document
REFUSED = {  # what would change the answer, and is not done: the values that say nothing
    "suffix": (None, ""),
    "use_beam_search": (None, False),
    "prompt_embeds": (None,),
    "prompt_logprobs": (None,),
    "truncate_prompt_tokens": (None,),
    "min_tokens": (None, 0),
    "bad_words": (None, []),
    "allowed_token_ids": (None,),
    "structured_outputs": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "response_format": (None, {"type": "text"}),
}


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(id) is int for id in value)


def _prompt(value: Any) -> Any:
    """One message for what is none of the forms, instead of one for each of them."""
    fine = value is None or isinstance(value, str) or _is_ids(value)
    if not fine and isinstance(value, list):
        fine = all(isinstance(text, str) for text in value) or all(map(_is_ids, value))
    if not fine:
        raise ValueError(
            "must be a string, a list of strings, a list of token ids, or a list of such lists"
        )
    return value


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


Prompt = str | list[str] | list[int] | list[list[int]] | None


class CompletionRequest(BaseModel):
    """The body of a request. Other fields are accepted and ignored, or refused if they would change
    the answer.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    model: str | None = None
    prompt: Annotated[Prompt, BeforeValidator(_prompt)] = Field(
        None,
        description="Text, in which names of control tokens are plain text; or token ids, control tokens included.",
    )
    parse_special: bool | None = Field(
        None,
        description="Names of control tokens in text prompts are those tokens. For trusted prompts only.",
    )
    add_special_tokens: bool | None = Field(
        None, description="Changes nothing: the vocabulary has no token that texts begin with."
    )
    skip_special_tokens: bool | None = Field(
        None, description="False: control tokens are shown in the text, by name."
    )
    max_tokens: int | None = Field(
        None, description="16 if it is not given; 0 for the prompt alone."
    )
    best_of: int | None = None
    n: int | None = None
    echo: bool | None = Field(
        None, description="The text, and log-probabilities, begin with the prompt."
    )
    logprobs: int | None = Field(
        None, description="Log-probabilities, with so many of the likeliest tokens."
    )
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = Field(
        None, description="Adds `prompt_token_ids` and `token_ids` to the choices."
    )
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    priority: int | None = Field(None, description="Requests of smaller numbers are served first.")
    cache_salt: str | None = Field(
        None, description="Computed beginnings are shared among requests with the same."
    )
    user: str | None = None

    @property
    def samples(self) -> int:
        """To be drawn for each prompt."""
        return self.best_of or self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def limit(self) -> int:
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def bias(self) -> dict[int, float] | None:
        """Raises `ApiError`."""
        for id in self.logit_bias or {}:
            if not (id.isascii() and id.isdecimal() and len(id) < 10):
                raise bad(
                    f"logit_bias maps token ids to numbers; {id[:40]!r} is no token id",
                    "logit_bias",
                )
        return (
            None
            if self.logit_bias is None
            else {int(id): value for id, value in self.logit_bias.items()}
        )

    def check(self) -> None:
        """Raises `ApiError` for what contradicts itself or cannot be done."""
        for field, empty in REFUSED.items():
            if (self.model_extra or {}).get(field) not in empty:
                raise bad(f"{field} is not supported by this server; leave it out", field)
        counts = {
            "n": (self.n, 1, 128),
            "best_of": (self.best_of, 1, 128),
            "max_tokens": (self.max_tokens, 0, None),
        }
        counts |= {
            "logprobs": (self.logprobs, 0, MAX_TOP_LOGPROBS),
            "priority": (self.priority, -(1 << 31), 1 << 31),
        }
        counts |= {"seed": (self.seed, -(1 << 63), (1 << 64) - 1)}
        for field, (value, least, most) in counts.items():
            if value is not None and (value < least or (most is not None and value > most)):
                upto = "" if most is None else f" to {most}"
                raise bad(f"{field} must be {least}{upto or ' or more'}, found {value}", field)
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise bad(
                f"best_of must be at least n, which is {self.n or 1}, found {self.best_of}",
                "best_of",
            )
        if self.stream and self.samples > (self.n or 1):
            raise bad(
                "the best of several can be told only when all are complete; stream all of them with n",
                "best_of",
            )
        if any(not stop for stop in self.stops):
            raise bad("a stop string must not be empty", "stop")
        check_stops(self.stops, "stop")

    def sampling(self, service: Service) -> SamplingParams:
        """Raises `ApiError`."""
        stops = frozenset(self.stop_token_ids or ())
        return service.sampling(
            temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, min_p=self.min_p, seed=self.seed,
            presence_penalty=self.presence_penalty, frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty, logit_bias=self.bias, top_logprobs=self.logprobs,
            max_tokens=max(1, self.limit), stop_ids=stops if self.ignore_eos else stops | service.answerer.stop_ids,
        )  # fmt: skip

    async def prompts(self, service: Service) -> list[list[int]]:
        """Each prompt's ids. Raises `ApiError`."""
        given = self.prompt
        if given is None or isinstance(given, str):
            given = [given or ""]
        elif given and isinstance(given[0], int):
            given = [given]
        if not given:
            raise bad("prompt is an empty list", "prompt")
        if len(given) * self.samples > MAX_SAMPLES:
            raise bad(
                f"{len(given)} prompts, {self.samples} samples each; at most {MAX_SAMPLES} in all",
                "prompt",
            )
        texts = [text for text in given if isinstance(text, str)]
        if sum(map(len, texts)) > LONG:
            prompts = await asyncio.to_thread(self._encoded, given, service.tokenizer)
        else:
            prompts = self._encoded(given, service.tokenizer)
        for n, ids in enumerate(prompts):
            _check_ids(ids, service, "prompt" if len(prompts) == 1 else f"prompt[{n}]", self.limit)
        return prompts

    def _encoded(self, prompts: Any, tokenizer: Tokenizer) -> list[list[int]]:
        encode = tokenizer.encode_with_specials if self.parse_special else tokenizer.encode
        end = tokenizer.specials.get(END_OF_TEXT)
        return [
            (encode(p) or ([] if end is None else [end])) if isinstance(p, str) else p
            for p in prompts
        ]


def _check_ids(ids: list[int], service: Service, param: str, limit: int) -> None:
    if not ids:
        raise bad("the prompt has no tokens; a model needs at least one to go on from", param)
    vocabulary = service.worker.engine.config.vocab_size
    wrong = next((id for id in ids if not 0 <= id < vocabulary), None)
    if wrong is not None:
        raise bad(f"token id {wrong} is outside the vocabulary of {vocabulary}", param)
    if len(ids) > service.context - (limit > 0):
        raise bad(
            f"the prompt has {len(ids)} tokens; the context holds {service.context}",
            param,
            "context_length_exceeded",
        )
