"""Packing: examples laid end to end until a batch is full. Knows ids and masks, no text and no
model.

Iterators here take and yield `(item, state)`: the state, handed back as a start, makes the next
item the one that would have come next. An example that does not fit begins the next batch; nothing
is cut, nothing is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossia.errors import DataError

State = Any  # a JSON value that says where an iterator stands; None is the beginning
Ids = NDArray[np.int64]
_HOPELESS = 10_000  # examples in a row that are too long: the rest of an endless source will be too


@dataclass(frozen=True, eq=False)
class Example:
    """Token ids, and which of them are to be learned (as targets of the position before). Lists or
    arrays of one dimension, both of the same length; an array may be a view of a mapped file, and
    of any type of integer.
    """

    ids: Sequence[int] | NDArray[Any]
    mask: Sequence[bool] | NDArray[np.bool_]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Example):
            return NotImplemented
        return np.array_equal(self.ids, other.ids) and np.array_equal(self.mask, other.mask)


ExamplesFrom = Callable[[State], Iterator[tuple[Example, State]]]


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Examples end to end: T inputs, the lengths they fall into, and the rows that have a target to
    learn.

    `tokens` int64 [T]; `rows` and `targets` int64 [R], rows ascending; `lengths` sum up to T.
    """

    tokens: Ids
    lengths: list[int]
    rows: Ids
    targets: Ids

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedBatch):
            return NotImplemented
        mine, its = (
            (self.tokens, self.rows, self.targets),
            (other.tokens, other.rows, other.targets),
        )
        return self.lengths == other.lengths and all(map(np.array_equal, mine, its))


def pack(
    examples: Iterator[tuple[Example, State]], tokens: int, longest: int, start: State = None
) -> Iterator[tuple[PackedBatch, State]]:
    """Batches of at most `tokens` inputs from (example, state to go on from). Examples over
    `longest` inputs are left out; one that fills more than `tokens` alone is a batch of its own.
    Raises `DataError` if nothing else comes.

    `start` is the state at which `examples` begins: that of a batch which holds nothing but the
    next example.
    """
    batch: list[Example] = []
    filled, state, left_out = 0, start, 0
    for example, following in examples:
        length = len(example.ids) - 1  # the last id is only ever a target
        left_out += 1
        if left_out > _HOPELESS:
            raise DataError(
                f"{_HOPELESS:,} examples in a row are longer than {longest} tokens, or empty: "
                "raise hyper.longest, or "
                "cut the text into shorter ones"
            )
        if 0 < length <= longest:
            left_out = 0
            if batch and filled + length > tokens:
                yield _joined(batch), state
                batch, filled = [], 0
            batch.append(example)
            filled += length
        state = following


def _joined(examples: list[Example]) -> PackedBatch:
    ids = [np.asarray(example.ids, dtype=np.int64) for example in examples]
    learned = np.concatenate([np.asarray(example.mask, dtype=np.bool_)[1:] for example in examples])
    rows = np.flatnonzero(learned)
    targets = np.concatenate([one[1:] for one in ids])[rows]
    return PackedBatch(
        np.concatenate([one[:-1] for one in ids]), [len(one) - 1 for one in ids], rows, targets
    )


def split(batch: PackedBatch, parts: int) -> list[PackedBatch]:
    """At most `parts` batches of about as many tokens each, cut between examples; those without
    targets are dropped.
    """
    total = len(batch.tokens)
    ends = np.cumsum(batch.lengths, dtype=np.int64)
    middles = (
        ends
        - np.asarray(batch.lengths, dtype=np.int64)
        + np.asarray(batch.lengths, dtype=np.int64) // 2
    )
    part_of = np.minimum(parts - 1, middles * parts // max(1, total))  # never descends
    cuts = np.searchsorted(
        part_of, np.arange(parts + 1)
    )  # examples of part p: cuts[p] to cuts[p + 1]
    out = []
    for first, last in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        if first < last:
            out.append(_part(batch, first, last, ends))
    return [part for part in out if len(part.targets)]


def _part(batch: PackedBatch, first: int, last: int, ends: Ids) -> PackedBatch:
    """The batch of the examples `first` to `last`: views of the whole, but for the rows, which are
    counted anew.
    """
    begin, end = (int(ends[first - 1]) if first else 0), int(ends[last - 1])
    a, b = np.searchsorted(batch.rows, (begin, end)).tolist()
    return PackedBatch(
        batch.tokens[begin:end],
        batch.lengths[first:last],
        batch.rows[a:b] - begin,
        batch.targets[a:b],
    )
