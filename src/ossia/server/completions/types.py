"""What a client may ask of /v1/completions, checked: the wire type, and prompts as token ids.

Knows field names; nothing of engines or answers.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import BeforeValidator, Field

from ossia.engine.request import SamplingParams, TopLogprobs
from ossia.errors import PromptTooLong
from ossia.server.service import Service
from ossia.server.wire.errors import bad
from ossia.server.wire.fields import ApiRequest, ListOf, StreamFields, wrong
from ossia.server.wire.sampling import (
    SamplingFields,
    StopStrings,
    check_prompt_logprobs,
    check_scores,
    without_limit,
)
from ossia.tokenizer import Tokenizer

MAX_SAMPLES = 1024  # of one request: prompts times best_of
LONG = 20_000  # characters; more are encoded in a thread, so that streams are not held up
END_OF_TEXT = "<|endoftext|>"  # the prompt if none is given: the beginning of a new document


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(id) is int for id in value)


def _prompt(value: Any) -> Any:
    """One message for a value of none of the forms, instead of one for each of them."""
    match value:
        case None | str():
            return value
        case list() if _is_ids(value):
            return value
        case list() if all(isinstance(text, str) for text in value) or all(map(_is_ids, value)):
            return value
    raise wrong("must be a string, a list of strings, a list of token ids, or a list of such lists")


Prompt = str | ListOf[str] | ListOf[int] | ListOf[ListOf[int]] | None


class CompletionRequest(ApiRequest, StreamFields, SamplingFields):
    """The body of a request. Other fields are accepted and ignored, or refused if they would change
    the answer.
    """

    prompt: Annotated[Prompt, BeforeValidator(_prompt)] = Field(
        None,
        description="Text, in which names of control tokens are plain text; or token ids, "
        "control tokens included.",
    )
    parse_special: bool | None = Field(
        None,
        description="Names of control tokens in text prompts are those tokens. "
        "For trusted prompts only.",
    )
    add_special_tokens: bool | None = Field(
        None, description="Changes nothing: the vocabulary has no token that texts begin with."
    )
    skip_special_tokens: bool | None = Field(
        None, description="False: control tokens are shown in the text, by name."
    )
    max_tokens: Annotated[int, BeforeValidator(without_limit), Ge(0)] | None = Field(
        None, description="16 if it is not given; 0 for the prompt alone, -1 for no limit."
    )
    best_of: Annotated[int, Ge(1), Le(128)] | None = None
    n: Annotated[int, Ge(1), Le(128)] | None = None
    echo: bool | None = Field(
        None, description="The text, and log-probabilities, begin with the prompt."
    )
    logprobs: TopLogprobs | None = Field(
        None, description="Log-probabilities, with so many of the likeliest tokens."
    )
    stop: StopStrings = ()
    include_stop_str_in_output: bool | None = None
    prompt_logprobs: TopLogprobs | None = Field(
        None, description="Adds those of the prompt, with so many of the likeliest tokens."
    )
    return_token_ids: bool | None = Field(
        None, description="Adds `prompt_token_ids` and `token_ids` to the choices."
    )
    priority: Annotated[int, Ge(-(1 << 31)), Le(1 << 31)] | None = Field(
        None, description="Of a caller's requests, those of smaller numbers are served first."
    )
    cache_salt: str | None = Field(
        None, description="Computed beginnings are shared among requests with the same."
    )

    @property
    def samples(self) -> int:
        """To be drawn for each prompt."""
        return self.best_of or self.n or 1

    @property
    def all_samples(self) -> int:
        """Of all prompts. Raises `ApiError` if there are too many."""
        count = len(_listed(self.prompt)) * self.samples
        if count == 0:
            raise bad("prompt is an empty list", "prompt")
        if count > MAX_SAMPLES:
            raise bad(
                f"{count // self.samples} prompts, {self.samples} samples each; "
                f"at most {MAX_SAMPLES} in all",
                "prompt",
            )
        return count

    @property
    def top_scores(self) -> int | None:
        """How many of the likeliest tokens in a prompt's places are wanted; None: no scores."""
        wanted = [self.prompt_logprobs, self.logprobs if self.echo else None]
        return max((count for count in wanted if count is not None), default=None)

    @property
    def limit(self) -> int:
        return 16 if self.max_tokens is None else self.max_tokens

    def check(self) -> None:
        """Raises `ApiError` for what contradicts itself or cannot be done."""
        self.check_supported()
        self.check_stream()
        check_prompt_logprobs(self.prompt_logprobs, self.stream)
        wanted = self.n or 1
        if self.best_of is not None and self.best_of < wanted:
            raise bad(
                f"best_of must be at least n, which is {wanted}, found {self.best_of}", "best_of"
            )
        if self.stream and self.samples > wanted:
            why = "the best of several is known only when all are complete"
            raise bad(f"{why}; stream all of them with n", "best_of")

    def sampling(self, service: Service) -> SamplingParams:
        """Raises `ApiError`."""
        stop_ids = frozenset(self.stop_token_ids or ())
        if not self.ignore_eos:
            stop_ids |= service.answerer.stop_ids
        return self.params(
            service.settings.sampling,
            service.tokenizer.vocab_size,
            top_logprobs=self.logprobs,
            max_tokens=max(1, self.limit),
            stop_ids=stop_ids,
        )

    async def prompts(self, service: Service) -> list[list[int]]:
        """Each prompt's ids. Raises `ApiError`."""
        given = _listed(self.prompt)
        texts = [text for text in given if isinstance(text, str)]
        if sum(map(len, texts)) > LONG:
            prompts = await asyncio.to_thread(self._encoded, given, service.tokenizer)
        else:
            prompts = self._encoded(given, service.tokenizer)
        if self.top_scores is not None:
            field = "logprobs" if self.prompt_logprobs is None else "prompt_logprobs"
            check_scores(sum(map(len, prompts)), self.top_scores, field)
        for n, ids in enumerate(prompts):
            _check_ids(ids, service, "prompt" if len(prompts) == 1 else f"prompt[{n}]", self.limit)
        return prompts

    def _encoded(self, prompts: Any, tokenizer: Tokenizer) -> list[list[int]]:
        encode = tokenizer.encode_with_specials if self.parse_special else tokenizer.encode
        end = tokenizer.specials.get(END_OF_TEXT)
        empty = [] if end is None else [end]
        encoded = []
        for prompt in prompts:
            ids = encode(prompt) if isinstance(prompt, str) else prompt
            if not ids and isinstance(prompt, str):
                ids = empty
            encoded.append(ids)
        return encoded


def _listed(prompt: Prompt) -> list[Any]:
    """The prompts, of which each is a text or a list of ids."""
    match prompt:
        case None:
            return [""]
        case str():
            return [prompt]
        case [int(), *_]:
            return [prompt]
    return prompt


def _check_ids(ids: list[int], service: Service, param: str, limit: int) -> None:
    if not ids:
        raise bad("the prompt has no tokens; a model needs at least one to continue", param)
    vocabulary = service.worker.engine.config.vocab_size
    wrong = next((id for id in ids if not 0 <= id < vocabulary), None)
    if wrong is not None:
        raise bad(f"token id {wrong} is outside the vocabulary of {vocabulary}", param)
    if len(ids) > service.context - (limit > 0):
        raise PromptTooLong(len(ids), service.context, param)
