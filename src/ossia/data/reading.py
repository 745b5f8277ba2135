"""Endless examples out of shards: shuffled anew each epoch, cut into windows, mixed by weight.

Knows documents and examples; does not know models or how shards are stored. Every iterator yields
`(example, state)`; the state is a few numbers, because example i is a function of the documents and
the settings. A state of other documents or settings is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ossia.data.packing import Example, ExamplesFrom, State
from ossia.data.shuffle import permuted
from ossia.errors import DataError

_BLOCK = 1024  # positions that are shuffled at once; the order does not depend on it


class Documents(Protocol):
    """The part of `shards.Shards` that is read here."""

    folder: Path

    @property
    def documents(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def document(self, number: int) -> NDArray[Any]: ...


@dataclass(frozen=True)
class ShardExamples:
    """The examples of `shards`: `ShardExamples(...)(state)` iterates, as `train.run.ExamplesFrom`
    wants it.

    An epoch takes every document once, in an order of its own (or as written, without `shuffle`). A
    document of n ids gives ceil((n - 1) / longest) windows of at most `longest` inputs, so that
    each id but its first is learned exactly once; a document of one id gives none. Rank r of
    `ranks` takes every `ranks`-th document of that order from r on: together the ranks read
    everything once an epoch (up to ranks - 1 documents at the end of an epoch are more work for
    some than for others).
    """

    shards: Documents
    longest: int
    seed: int = 0
    shuffle: bool = True
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.longest < 1 or not 0 <= self.rank < self.ranks:
            raise DataError(
                f"longest {self.longest}, rank {self.rank} of {self.ranks}: "
                "no examples can be cut so"
            )
        if self.shards.documents < self.ranks:
            raise DataError(
                f"{self.shards.folder} has {self.shards.documents} documents, too few for "
                f"{self.ranks} rank(s): use more text or fewer data ranks"
            )

    @property
    def identity(self) -> str:
        """What a state belongs to: content, order, cut and part."""
        settings = [self.longest, self.seed, self.shuffle, self.rank, self.ranks]
        return _hash([self.shards.fingerprint, *settings])

    def __call__(self, state: State = None) -> Iterator[tuple[Example, State]]:
        """Raises `DataError` if `state` is of other shards or of other settings."""
        keys = ("epoch", "position", "window")
        found = _checked(state, self.identity, str(self.shards.folder), keys)
        if found is None:
            return self._examples(0, 0, 0)
        return self._examples(found["epoch"], found["position"], found["window"])

    def _examples(self, epoch: int, position: int, window: int) -> Iterator[tuple[Example, State]]:
        identity = self.identity
        learned = np.ones(self.longest + 1, dtype=np.bool_)
        learned[0] = False
        learned.flags.writeable = False
        any_found = bool(epoch or position or window)
        while True:
            for at, number in self._order(epoch, position):
                for cut, following in self._windows(self.shards.document(number), at, window):
                    state = {"of": identity, "epoch": epoch, **following}
                    yield Example(cut, learned[: len(cut)]), state
                    any_found = True
                window = 0
            if not any_found:
                raise DataError(
                    f"no document in {self.shards.folder} has two tokens: there is nothing to learn"
                )
            epoch += 1
            position = 0

    def _windows(
        self, ids: NDArray[Any], at: int, first: int
    ) -> Iterator[tuple[NDArray[Any], dict[str, int]]]:
        """The windows of the document at a position from `first` on, each with where to go on."""
        step = self.longest
        for begin in range(first * step, len(ids) - 1, step):
            following = {"position": at, "window": begin // step + 1}
            if begin + step >= len(ids) - 1:
                following = {"position": at + 1, "window": 0}
            yield ids[begin : begin + step + 1], following

    def _order(self, epoch: int, position: int) -> Iterator[tuple[int, int]]:
        """(position, document) of this rank in `epoch`, from `position` on."""
        total = self.shards.documents
        mine = len(range(self.rank, total, self.ranks))
        for begin in range(position, mine, _BLOCK):
            positions = np.arange(begin, min(begin + _BLOCK, mine), dtype=np.int64)
            numbers = positions * self.ranks + self.rank
            if self.shuffle:
                numbers = permuted(numbers, total, f"{self.seed}:{epoch}")
            yield from zip(positions.tolist(), numbers.tolist(), strict=True)


@dataclass(frozen=True)
class Mixed:
    """Examples of several sources, each with its share of the tokens; see `mix`."""

    sources: Mapping[str, ExamplesFrom]
    weights: Mapping[str, float]

    def __call__(self, state: State = None) -> Iterator[tuple[Example, State]]:
        """Raises `DataError` if `state` is of another mixture, or of other data."""
        state = _checked(state, self.identity, "the mixture", ("sources", "taken"))
        states = dict(state["sources"]) if state else dict.fromkeys(self.sources)
        taken = dict(state["taken"]) if state else dict.fromkeys(self.sources, 0)
        iterators = {name: examples(states[name]) for name, examples in self.sources.items()}
        return self._examples(iterators, states, taken)

    @property
    def identity(self) -> str:
        return _hash([[name, float(self.weights[name])] for name in self.sources])

    def _examples(
        self,
        iterators: dict[str, Iterator[tuple[Example, State]]],
        states: dict[str, State],
        taken: dict[str, int],
    ) -> Iterator[tuple[Example, State]]:
        identity = self.identity
        while True:
            # of equals the first
            name = min(iterators, key=lambda name: taken[name] / self.weights[name])
            try:
                example, states[name] = next(iterators[name])
            except StopIteration:
                raise DataError(
                    f"{name!r} of the mixture has come to its end: sources are endless"
                ) from None
            taken[name] += len(example.ids) - 1
            yield example, {"of": identity, "sources": dict(states), "taken": dict(taken)}


def mix(sources: Mapping[str, ExamplesFrom], weights: Mapping[str, float]) -> Mixed:
    """Examples of `sources` so that each has its share, by weight, of the inputs so far.

    No random numbers are drawn.

    The next example is always of the source that is furthest behind, so shares are right from the
    beginning on. Weights need not add up to anything. Raises `DataError` for names that do not
    agree or weights that are not positive.
    """
    if not sources or set(sources) != set(weights):
        raise DataError(
            f"sources {sorted(sources)} and weights {sorted(weights)} name different data"
        )
    wrong = {name: weight for name, weight in weights.items() if not 0 < weight < float("inf")}
    if wrong:
        raise DataError(
            f"weights of data are positive numbers, not {wrong}; leave out what is not wanted"
        )
    return Mixed(dict(sources), dict(weights))


def _checked(
    state: State, identity: str, what: str, keys: tuple[str, ...]
) -> Mapping[str, Any] | None:
    if state is None:
        return None
    known = isinstance(state, Mapping) and state.get("of") == identity
    if not known or not all(key in state for key in keys):
        raise DataError(
            f"the state to go on from is not one of {what} with these settings: use the data, "
            "seed, length, weights and number of data ranks that the run began with, or begin a "
            "new run"
        )
    found: Mapping[str, Any] = state
    return found


def _hash(values: list[Any]) -> str:
    return blake2b(json.dumps(values).encode(), digest_size=8).hexdigest()
