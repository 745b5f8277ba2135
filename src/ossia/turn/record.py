"""What was sampled, token for token: the record that training needs.

Knows ids; nothing of messages, tools or rewards. A prompt is followed by pieces, in turns sampled
(with log-probabilities) and inserted (a tool's result, the next user's message). As long as each
prompt goes on where the last sample ended, all of it is one segment: one sequence to train on. A
prompt that does not (reasoning has been dropped, or the history was rendered anew) begins another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Experts = Sequence[Sequence[int]]  # by layer, those that a token went to


@dataclass(frozen=True)
class Piece:
    """Ids that follow. `logprobs`: of each, as the engine saw them; None: inserted, not sampled.
    `experts`: of each, where the engine tells them: those of the token that it was drawn after.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None = None
    experts: tuple[Experts, ...] | None = None

    def __post_init__(self) -> None:
        for each in (self.logprobs, self.experts):
            assert each is None or len(each) == len(self.ids)

    @property
    def is_sampled(self) -> bool:
        return self.logprobs is not None


@dataclass(frozen=True)
class Segment:
    """A prompt and what followed it. The last piece was sampled."""

    prompt: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Of all of it."""
        return sum((piece.ids for piece in self.pieces), self.prompt)

    @property
    def sampled(self) -> tuple[bool, ...]:
        """Of each id, whether the model drew it: what a loss counts."""
        drawn = [False] * len(self.prompt)
        for piece in self.pieces:
            drawn += [piece.is_sampled] * len(piece.ids)
        return tuple(drawn)

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Of each id; 0.0 where it was not sampled."""
        known = [0.0] * len(self.prompt)
        for piece in self.pieces:
            known += piece.logprobs or [0.0] * len(piece.ids)
        return tuple(known)


@dataclass
class _Growing:
    """A segment. `pieces`: those that are complete; after them comes what is being sampled."""

    prompt: tuple[int, ...]
    ids: list[int]  # of all of it
    pieces: list[Piece] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    experts: list[Experts] = field(default_factory=list)

    def all_pieces(self) -> list[Piece]:
        if not self.drawn:
            return list(self.pieces)
        experts = tuple(self.experts) if len(self.experts) == len(self.drawn) else None
        last = Piece(tuple(self.drawn), tuple(self.logprobs), experts)
        return [*self.pieces, last]

    def insert(self, ids: Sequence[int]) -> None:
        self.pieces = self.all_pieces()
        self.drawn = []
        self.logprobs = []
        self.experts = []
        self.pieces.append(Piece(tuple(ids)))
        self.ids += ids


class Recorder:
    """Segments as they grow: `begin` a sample with its whole prompt, `add` every token of it."""

    def __init__(self) -> None:
        self._segments: list[_Growing] = []

    def begin(self, prompt: Sequence[int]) -> None:
        if self._segments:
            last = self._segments[-1]
            known = len(last.ids)
            if len(prompt) > known and list(prompt[:known]) == last.ids:
                last.insert(prompt[known:])
                return
        self._segments.append(_Growing(tuple(prompt), list(prompt)))

    def add(self, token: int, logprob: float, experts: Experts | None = None) -> None:
        last = self._segments[-1]
        last.ids.append(token)
        last.drawn.append(token)
        last.logprobs.append(logprob)
        if experts is not None:
            last.experts.append(experts)

    @property
    def ids(self) -> list[int]:
        """All that the model has read and written in the last segment; [] before the first."""
        return self._segments[-1].ids if self._segments else []

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Those in which something was sampled, each up to the last sampled token."""
        found = []
        for each in self._segments:
            pieces = each.all_pieces()
            while pieces and not pieces[-1].is_sampled:  # no sample came after it
                pieces.pop()
            if pieces:
                found.append(Segment(each.prompt, tuple(pieces)))
        return tuple(found)
