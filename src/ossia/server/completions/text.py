"""Tokens to text that can be sent: whole characters, no control tokens, no part of a stop string.
No I/O.

Every token keeps the place in the text where it begins, so that it goes out with the piece that it
belongs to.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ossia.engine.request import PromptToken, SampledToken
from ossia.errors import TokenizerError
from ossia.tokenizer import Tokenizer
from ossia.turn.stops import first_stop, partial_stop_length

CONTEXT = 4  # tokens of a prompt that a character may reach back into, if they are not echoed


@dataclass(frozen=True)
class Scored:
    """A token, and where in the text it begins. `logprob` None: not known."""

    token_id: int
    offset: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """`finish`: why the text ends with it. `stopped_by`: the stop string, or the token that was
    named as one.
    """

    text: str = ""
    tokens: tuple[Scored, ...] = ()
    finish: str | None = None
    stopped_by: str | int | None = None


class TextStream:
    """The text of one choice.

    `stop`: strings that end it. `show_special`: whether control tokens are written by name.
    `keep_stop`: whether the stop string is part of the text. `stop_ids`: tokens that end the text
    and are not part of it. `min_tokens`: in so many no stop string is looked for.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        stop_ids: frozenset[int] = frozenset(),
        show_special: bool = False,
        keep_stop: bool = False,
        min_tokens: int = 0,
    ) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.stop_ids = stop_ids
        self.show_special = show_special
        self.keep_stop = keep_stop
        self._unsearched = min_tokens  # tokens that may still come before a stop string counts
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._said = 0  # characters given out
        self._held = ""  # whole characters that could be the beginning of a stop string
        # those that go out with the held text, or with a character that is not whole yet
        self._tokens: list[Scored] = []

    def prompt(
        self,
        ids: Sequence[int],
        scores: Sequence[PromptToken] | None = None,
        *,
        echo: bool,
        alone: bool = False,
    ) -> Piece:
        """The prompt, which is not searched for stop strings; empty if it is not echoed.
        `scores`: from the second token on. `alone`: nothing follows; else an answer may complete
        the prompt's last character.
        """
        known = dict(enumerate(scores or (), 1))
        if not echo:
            ids = ids[-CONTEXT:]
        for n, id in enumerate(ids):
            if n in known:
                self._add(id, known[n].logprob, known[n].top_logprobs)
            else:
                self._add(id)
        if alone:
            self._held += self._decoder.decode(b"", True)
        piece = Piece()
        if echo:
            piece = Piece(self._held, tuple(self._tokens))
        self._said = len(piece.text)
        self._held = ""
        self._tokens = []
        return piece

    def feed(self, token: SampledToken) -> Piece:
        named = token.finish_reason == "stop" and token.token_id in self.stop_ids
        self._add(token.token_id, token.logprob, token.top_logprobs, hidden=named)
        if token.finish_reason is not None:
            self._held += self._decoder.decode(b"", True)
        is_searched = self._unsearched <= 0
        self._unsearched -= 1
        found = self._stopped() if is_searched else None
        if found is not None:
            return found
        if token.finish_reason is None and is_searched:
            waiting = partial_stop_length(self._held, self.stop)
            return self._say(len(self._held) - waiting)
        last = self._say(len(self._held))
        stopped_by = token.token_id if named else None
        return replace(last, finish=token.finish_reason, stopped_by=stopped_by)

    def _add(
        self,
        id: int,
        logprob: float | None = None,
        top: tuple[tuple[int, float], ...] = (),
        *,
        hidden: bool = False,
    ) -> None:
        special = self.tokenizer.is_special(id)
        if special:  # no character continues after it
            self._held += self._decoder.decode(b"", True)
        self._tokens.append(Scored(id, self._said + len(self._held), logprob, top))
        if not hidden and (self.show_special or not special):
            self._held += self._decoder.decode(bytes_of(self.tokenizer, id))

    def _stopped(self) -> Piece | None:
        """The last piece, if a stop string is in what is held: the one that begins first."""
        found = first_stop(self._held, self.stop)
        if found is None:
            return None
        end, stop = found
        if self.keep_stop:
            end += len(stop)
        self._said += end
        tokens = tuple(token for token in self._tokens if token.offset < self._said)
        return Piece(self._held[:end], tokens, "stop", stop)

    def _say(self, count: int) -> Piece:
        text = self._held[:count]
        self._held = self._held[count:]
        self._said += count
        # A token goes with the text that it begins in; with nothing held back, all do.
        whole = not (self._held or self._decoder.getstate()[0])
        going = tuple(token for token in self._tokens if whole or token.offset < self._said)
        self._tokens = self._tokens[len(going) :]
        return Piece(text, going)


def bytes_of(tokenizer: Tokenizer, id: int) -> bytes:
    """Empty for an id that the model has and the vocabulary lacks."""
    try:
        return tokenizer.token_bytes(id)
    except TokenizerError:
        return b""
