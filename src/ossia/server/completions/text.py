"""Tokens to text, as it can be said: whole characters, no control tokens, nothing of a stop string.
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
    and are no part of it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        stop_ids: frozenset[int] = frozenset(),
        show_special: bool = False,
        keep_stop: bool = False,
    ) -> None:
        self.tokenizer, self.stop, self.stop_ids = tokenizer, tuple(stop), stop_ids
        self.show_special, self.keep_stop = show_special, keep_stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._said = 0  # characters given out
        self._held = ""  # whole characters that could be the beginning of a stop string
        self._tokens: list[
            Scored
        ] = []  # that go out with what is held, or with a character that is not whole yet

    def prompt(
        self,
        ids: Sequence[int],
        scores: Sequence[PromptToken] | None = None,
        *,
        echo: bool,
        alone: bool = False,
    ) -> Piece:
        """The prompt, which no stop string is looked for in; nothing of it if it is not echoed.
        `scores`: from the second token on. `alone`: nothing follows; else an answer may complete
        the prompt's last character.
        """
        known = dict(enumerate(scores or (), 1))
        for n, id in enumerate(ids if echo else ids[-CONTEXT:]):
            score = known.get(n)
            self._add(id, *((None, ()) if score is None else (score.logprob, score.top_logprobs)))
        if alone:
            self._held += self._decoder.decode(b"", True)
        piece = Piece(self._held, tuple(self._tokens)) if echo else Piece()
        self._held, self._tokens, self._said = "", [], len(piece.text)
        return piece

    def feed(self, token: SampledToken) -> Piece:
        named = token.finish_reason == "stop" and token.token_id in self.stop_ids
        self._add(token.token_id, token.logprob, token.top_logprobs, hidden=named)
        if token.finish_reason is not None:
            self._held += self._decoder.decode(b"", True)
        found = self._stopped()
        if found is not None:
            return found
        if token.finish_reason is not None:
            stopped_by = token.token_id if named else None
            return replace(
                self._say(len(self._held)), finish=token.finish_reason, stopped_by=stopped_by
            )
        return self._say(len(self._held) - partial_stop_length(self._held, self.stop))

    def _add(
        self,
        id: int,
        logprob: float | None,
        top: tuple[tuple[int, float], ...],
        *,
        hidden: bool = False,
    ) -> None:
        special = self.tokenizer.is_special(id)
        if special:  # no character goes on behind it
            self._held += self._decoder.decode(b"", True)
        self._tokens.append(Scored(id, self._said + len(self._held), logprob, top))
        if not hidden and (self.show_special or not special):
            self._held += self._decoder.decode(bytes_of(self.tokenizer, id))

    def _stopped(self) -> Piece | None:
        """The last piece, if a stop string is in what is held: the one that begins first."""
        if (found := first_stop(self._held, self.stop)) is None:
            return None
        at, stop = found
        end = at + (len(stop) if self.keep_stop else 0)
        self._said += end
        tokens = tuple(token for token in self._tokens if token.offset < self._said)
        return Piece(self._held[:end], tokens, "stop", stop)

    def _say(self, count: int) -> Piece:
        text, self._held = self._held[:count], self._held[count:]
        self._said += count
        # A token goes with the text that it begins in; with nothing held back, all do.
        whole = not (self._held or self._decoder.getstate()[0])
        going = tuple(token for token in self._tokens if whole or token.offset < self._said)
        self._tokens = self._tokens[len(going) :]
        return Piece(text, going)


def bytes_of(tokenizer: Tokenizer, id: int) -> bytes:
    """Nothing for an id that the model has and the vocabulary has not."""
    try:
        return tokenizer.token_bytes(id)
    except TokenizerError:
        return b""
