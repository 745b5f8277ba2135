"""Packing: examples laid end to end until a batch is full.

Knows ids and masks; does not know text or models. Iterators here take and yield `(item, state)`:
an iterator that starts from the state of an item yields the item after it. An example that does not
fit begins the next batch; nothing is cut, nothing is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossia.errors import DataError

State = Any  # a JSON value: the position of an iterator; None is the beginning
Ids = NDArray[np.int64]
Numbers = NDArray[Any]
Experts = NDArray[np.int16]
SAMPLE = "sample"  # the stream of which sample a target is of, where one has several sequences
_HOPELESS = 10_000  # examples in a row that are too long: the rest of an endless source will be too


@dataclass(frozen=True, eq=False)
class Example:
    """Token ids, and which of them are to be learned (as targets of the position before).

    Lists or arrays of one dimension, both of the same length. An array may be a view of a mapped
    file, and of any type of integer.
    """

    ids: Sequence[int] | Numbers
    mask: Sequence[bool] | NDArray[np.bool_]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Example):
            return NotImplemented
        return np.array_equal(self.ids, other.ids) and np.array_equal(self.mask, other.mask)


ExamplesFrom = Callable[[State], Iterator[tuple[Example, State]]]


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Examples end to end: T inputs, their lengths, and the rows that have a target to learn.

    `tokens` int64 [T]; `rows` and `targets` int64 [R], rows ascending, the same one several times
    if several answers begin there; `lengths` sum up to T.

    `streams`: numbers of the targets by name, [R] each, float32 or int32, that an objective reads
    (`samples.py`). `starts`, where not None: the position of each sequence's first token. One that
    does not begin at 0 goes on from a sequence before it; `gather`, int64, are then the rows that
    hold the tokens of every sequence from position 0 on, one sequence after the other. `experts`
    int16 [T, L, k]: the experts that a token goes to in each layer; -1: those that its router
    chooses. `report`: numbers about the batch for the log of its step; no part of what it is.
    """

    tokens: Ids
    lengths: list[int]
    rows: Ids
    targets: Ids
    streams: Mapping[str, Numbers] = field(default_factory=dict)
    starts: list[int] | None = None
    gather: Ids | None = None
    experts: Experts | None = None
    report: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert (self.starts is None) == (self.gather is None)
        wanted = len(self.targets)
        for name, values in self.streams.items():
            found = len(values)
            assert found == wanted, (name, found, wanted)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedBatch):
            return NotImplemented
        mine = self._parts()
        theirs = other._parts()
        if mine.keys() != theirs.keys():
            return False
        pairs = [(value, theirs[name]) for name, value in mine.items()]
        return all(np.array_equal(*pair) for pair in pairs)

    def _parts(self) -> dict[str, Any]:
        """What there is, by name."""
        parts: dict[str, Any] = dict(self.streams)
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "streams" and value is not None:
                parts["." + one.name] = value
        return parts

    @property
    def documents(self) -> list[int]:
        """Tokens of what cannot be cut: a sequence, with those that go on from it."""
        if self.starts is None:
            return self.lengths
        found: list[int] = []
        for length, start in zip(self.lengths, self.starts, strict=True):
            if start:
                found[-1] += length
            else:
                found.append(length)
        return found

    def with_report(self, report: Mapping[str, float]) -> PackedBatch:
        return replace(self, report=report)

    def with_streams(self, **streams: Numbers) -> PackedBatch:
        """The same batch with these streams, in place of those of the same names."""
        known = dict(self.streams)
        known.update(streams)
        return replace(self, streams=known)


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
    """At most `parts` batches of about as many tokens each, cut between examples; those that share
    a beginning stay together, and those that are of one sample by the stream `SAMPLE`.

    Those without targets are dropped.
    """
    total = len(batch.tokens)
    lengths = np.asarray(_of_whole_samples(batch), dtype=np.int64)
    ends = np.cumsum(lengths)
    middles = ends - lengths + lengths // 2
    part_of = np.minimum(parts - 1, middles * parts // max(1, total))  # never descends
    # documents of part p: cuts[p] to cuts[p + 1]
    cuts = np.searchsorted(part_of, np.arange(parts + 1)).tolist()
    out = []
    for first, last in pairwise(cuts):
        if first < last:
            begin = 0
            if first:
                begin = int(ends[first - 1])
            end = int(ends[last - 1])
            part = _part(batch, begin, end)
            if len(part.targets):
                out.append(part)
    return out


def _of_whole_samples(batch: PackedBatch) -> list[int]:
    """`documents`, those of one sample as one. Samples are numbered in the order in which they
    begin, so a document that goes back to an earlier number belongs to what came before.
    """
    lengths = batch.documents
    if SAMPLE not in batch.streams:
        return lengths
    found: list[int] = []
    largest = -1.0
    first = 0
    ends = np.cumsum(lengths)
    for length, last in zip(lengths, np.searchsorted(batch.rows, ends), strict=True):
        numbers = batch.streams[SAMPLE][first:last]
        first = last
        if found and len(numbers) and numbers.min() <= largest:
            found[-1] += length
        else:
            found.append(length)
        largest = max(largest, numbers.max(initial=-1))
    return found


def _part(batch: PackedBatch, begin: int, end: int) -> PackedBatch:
    """The batch of the tokens [begin, end), whole documents: views of the whole, with rows counted
    anew.
    """
    cut = (begin, end)
    ends = np.cumsum(batch.lengths)
    first, last = np.searchsorted(ends, cut, side="right").tolist()
    a, b = np.searchsorted(batch.rows, cut).tolist()
    streams = {}
    for name, values in batch.streams.items():
        streams[name] = values[a:b]
    part = PackedBatch(
        tokens=batch.tokens[begin:end],
        lengths=batch.lengths[first:last],
        rows=batch.rows[a:b] - begin,
        targets=batch.targets[a:b],
        streams=streams,
    )
    if batch.experts is not None:
        experts = batch.experts[begin:end]
        part = replace(part, experts=experts)
    if batch.starts is None or batch.gather is None:
        return part
    kept = np.add(batch.starts, batch.lengths)
    before = int(kept[:first].sum())
    behind = before + int(kept[first:last].sum())
    return replace(
        part,
        starts=batch.starts[first:last],
        gather=batch.gather[before:behind] - begin,
    )
