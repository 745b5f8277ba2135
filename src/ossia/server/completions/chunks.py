"""How /v1/completions writes pieces of text: chunks of a stream, and the body, which is their fold.

Plain dicts. Knows the wire; nothing of HTTP or of engines.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from ossia.engine.request import PromptToken
from ossia.server.completions.text import Piece, Scored, bytes_of
from ossia.server.wire.output import chat_usage, prompt_logprobs
from ossia.tokenizer import Tokenizer
from ossia.turn.events import Usage, new_id


class Writer:
    """`logprobs`: how many of the likeliest tokens to show with each token; None: no
    log-probabilities.
    """

    def __init__(
        self, model: str, tokenizer: Tokenizer, *, logprobs: int | None, token_ids: bool
    ) -> None:
        self.head = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self.tokenizer = tokenizer
        self.logprobs = logprobs
        self.token_ids = token_ids

    def chunk(
        self, index: int, piece: Piece, prompt: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """`prompt`: its ids, if this is a choice's first chunk and holds no sampled token."""
        choice: dict[str, Any] = {
            "index": index,
            "text": piece.text,
            "logprobs": None,
            "finish_reason": piece.finish,
            "stop_reason": piece.stopped_by,
        }
        if self.logprobs is not None and piece.tokens:
            choice["logprobs"] = self._classic(piece.tokens)
        if self.token_ids:
            choice["prompt_token_ids"] = None
            choice["token_ids"] = [token.token_id for token in piece.tokens]
            if prompt is not None:
                choice["prompt_token_ids"] = list(prompt)
                choice["token_ids"] = []
        return {**self.head, "choices": [choice], "usage": None}

    def last(self, usage: Usage) -> dict[str, Any]:
        """After all choices, if the usage is wanted."""
        return {**self.head, "choices": [], "usage": chat_usage(usage)}

    def _classic(self, tokens: Sequence[Scored]) -> dict[str, list[Any]]:
        return {
            "tokens": [self._name(token.token_id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": [token.offset for token in tokens],
        }

    def _top(self, token: Scored) -> dict[str, float] | None:
        """The likeliest, and the token itself, which need not be among them."""
        if token.logprob is None:
            return None
        top: dict[str, float] = {}
        for id, logprob in token.top[: self.logprobs]:
            top.setdefault(self._name(id), logprob)
        top.setdefault(self._name(token.token_id), token.logprob)
        return top

    def _name(self, id: int) -> str:
        r"""A token as a word; `bytes:\xe2\x80` for one that is not text on its own."""
        data = bytes_of(self.tokenizer, id)
        if not data:
            return f"token_id:{id}"
        try:
            return data.decode()
        except UnicodeDecodeError:
            escaped = [f"\\x{byte:02x}" for byte in data]
            return "bytes:" + "".join(escaped)


def fold(chunks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The body that a stream with its usage adds up to."""
    body: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for key, value in chunk.items():
            if value is not None or key not in body:
                body[key] = value
        for choice in chunk["choices"]:
            index = choice["index"]
            if index in choices:
                choices[index] = _joined(choices[index], choice)
            else:
                choices[index] = dict(choice)
    body["choices"] = [choices[index] for index in sorted(choices)]
    return body


def add_prompt_logprobs(
    body: dict[str, Any], of_prompts: Sequence[Sequence[PromptToken]], tokenizer: Tokenizer
) -> None:
    """Adds them to the choices, which come prompt by prompt."""
    written = [prompt_logprobs(tokens, tokenizer) for tokens in of_prompts]
    choices = body["choices"]
    each = len(choices) // len(written)
    for place, choice in enumerate(choices):
        choice["prompt_logprobs"] = written[place // each]


def _joined(sofar: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    joined = dict(sofar)
    joined["text"] = sofar["text"] + choice["text"]
    for field in ("finish_reason", "stop_reason", "prompt_token_ids"):
        if choice.get(field) is not None:
            joined[field] = choice[field]
    if "token_ids" in choice:
        joined["token_ids"] = sofar["token_ids"] + choice["token_ids"]
    before = sofar["logprobs"]
    more = choice["logprobs"]
    if before and more:
        joined["logprobs"] = {name: before[name] + more[name] for name in before}
    else:
        joined["logprobs"] = before or more
    return joined
