"""How /v1/completions writes pieces of text: chunks of a stream, and the body, which is their fold.

Plain dicts. Knows the wire; nothing of HTTP or of engines.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from ossia.server.completions.text import Piece, Scored, bytes_of
from ossia.server.wire.output import chat_usage
from ossia.tokenizer import Tokenizer
from ossia.turn.events import Usage, new_id


class Writer:
    """`logprobs`: how many of the likeliest tokens beside each token's own; None: no
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
        self.tokenizer, self.logprobs, self.token_ids = tokenizer, logprobs, token_ids

    def chunk(
        self, index: int, piece: Piece, prompt: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """`prompt`: its ids, with the first chunk of a choice, if that says the prompt or nothing."""
        choice: dict[str, Any] = {
            "index": index,
            "text": piece.text,
            "logprobs": None,
            "finish_reason": piece.finish,
        }
        choice["stop_reason"] = piece.stopped_by
        if self.logprobs is not None and piece.tokens:
            choice["logprobs"] = self._classic(piece.tokens)
        if self.token_ids:
            choice["prompt_token_ids"] = None if prompt is None else list(prompt)
            choice["token_ids"] = (
                [] if prompt is not None else [token.token_id for token in piece.tokens]
            )
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
        for id, logprob in (*token.top[: self.logprobs], (token.token_id, token.logprob)):
            top.setdefault(self._name(id), logprob)
        return top

    def _name(self, id: int) -> str:
        r"""A token as a word; `bytes:\xe2\x80` for one that is no text of its own."""
        data = bytes_of(self.tokenizer, id)
        try:
            return data.decode() if data else f"token_id:{id}"
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def fold(chunks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The body that a stream with its usage adds up to."""
    body: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        body |= {key: value for key, value in chunk.items() if value is not None or key not in body}
        for choice in chunk["choices"]:
            choices[choice["index"]] = _joined(choices.get(choice["index"]), choice)
    return body | {"choices": [choices[index] for index in sorted(choices)]}


def _joined(sofar: dict[str, Any] | None, choice: dict[str, Any]) -> dict[str, Any]:
    if sofar is None:
        return dict(choice)
    joined = {**sofar, "text": sofar["text"] + choice["text"]}
    for field in ("finish_reason", "stop_reason", "prompt_token_ids"):
        if choice.get(field) is not None:
            joined[field] = choice[field]
    if "token_ids" in choice:
        joined["token_ids"] = sofar["token_ids"] + choice["token_ids"]
    one, other = sofar["logprobs"], choice["logprobs"]
    if one and other:
        joined["logprobs"] = {name: one[name] + other[name] for name in one}
    else:
        joined["logprobs"] = one or other
    return joined
