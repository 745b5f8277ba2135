"""Packing: examples laid end to end until a batch is full.

Knows ids and masks; does not know text or models. Iterators here take and yield `(item, state)`:
an iterator that starts from the state of an item yields the item after it. An example that does not
fit begins the next batch; nothing is cut, nothing is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossia.errors import DataError

State = Any  # a JSON value: the position of an iterator; None is the beginning
Ids = NDArray[np.int64]
_HOPELESS = 10_000  # examples in a row that are too long: the rest of an endless source will be too


@dataclass(frozen=True, eq=False)
class Example:
    """Token ids, and which of them are to be learned (as targets of the position before).

    Lists or arrays of one dimension, both of the same length. An array may be a view of a mapped
    file, and of any type of integer.
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
    """Examples end to end: T inputs, their lengths, and the rows that have a target to learn.

    `tokens` int64 [T]; `rows` and `targets` int64 [R], rows ascending; `lengths` sum up to T.
    """

    tokens: Ids
    lengths: list[int]
    rows: Ids
    targets: Ids

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedBatch):
            return NotImplemented
        if self.lengths != other.lengths:
            return False
        for name in ("tokens", "rows", "targets"):
            if not np.array_equal(getattr(self, name), getattr(other, name)):
                return False
        return True


def pack(
    examples: Iterator[tuple[Example, State]], tokens: int, longest: int, start: State = None
) -> Iterator[tuple[PackedBatch, State]]:
    """Batches of at most `tokens` inputs from (example, the state after it).

    Examples over `longest` inputs are left out; one that fills more than `tokens` alone is a batch
    of its own. Raises `DataError` if no other examples come. `start` is the state at which
    `examples` begins: that of a batch of the next example alone.
    """
    batch: list[Example] = []
    filled = 0
    left_out = 0
    state = start
    for example, following in examples:
        length = len(example.ids) - 1  # the last id is only ever a target
        left_out += 1
        if left_out > _HOPELESS:
            raise DataError(
                f"{_HOPELESS:,} examples in a row are longer than {longest} tokens, or empty: "
                "raise hyper.longest, or cut the text into shorter ones"
            )
        if 0 < length <= longest:
            left_out = 0
            if batch and filled + length > tokens:
                yield _joined(batch), state
                batch = []
                filled = 0
            batch.append(example)
            filled += length
        state = following


def _joined(examples: list[Example]) -> PackedBatch:
    inputs = []
    targets = []
    learned = []
    for example in examples:
        ids = np.asarray(example.ids, dtype=np.int64)
        mask = np.asarray(example.mask, dtype=np.bool_)
        inputs.append(ids[:-1])
        targets.append(ids[1:])
        learned.append(mask[1:])
    rows = np.flatnonzero(np.concatenate(learned))
    tokens = np.concatenate(inputs)
    lengths = [len(one) for one in inputs]
    return PackedBatch(tokens, lengths, rows, np.concatenate(targets)[rows])


def split(batch: PackedBatch, parts: int) -> list[PackedBatch]:
    """At most `parts` batches of about as many tokens each, cut between examples.

    Those without targets are dropped.
    """
    total = len(batch.tokens)
    lengths = np.asarray(batch.lengths, dtype=np.int64)
    ends = np.cumsum(lengths)
    middles = ends - lengths + lengths // 2
    part_of = np.minimum(parts - 1, middles * parts // max(1, total))  # never descends
    # examples of part p: cuts[p] to cuts[p + 1]
    cuts = np.searchsorted(part_of, np.arange(parts + 1)).tolist()
    out = []
    for first, last in pairwise(cuts):
        if first < last:
            part = _part(batch, first, last, ends)
            if len(part.targets):
                out.append(part)
    return out


def _part(batch: PackedBatch, first: int, last: int, ends: Ids) -> PackedBatch:
    """The batch of the examples `first` to `last`: views of the whole, with rows counted anew."""
    begin = int(ends[first - 1]) if first else 0
    end = int(ends[last - 1])
    a, b = np.searchsorted(batch.rows, (begin, end)).tolist()
    return PackedBatch(
        tokens=batch.tokens[begin:end],
        lengths=batch.lengths[first:last],
        rows=batch.rows[a:b] - begin,
        targets=batch.targets[a:b],
    )
