"""Packing: nothing lost, nothing invented, resumable; lists and arrays alike."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ossia.data.packing import Example, PackedBatch, pack, split
from ossia.errors import DataError

examples = st.lists(
    st.lists(st.tuples(st.integers(0, 300_000), st.booleans()), min_size=1, max_size=40),
    min_size=1,
    max_size=30,
)


def as_examples(drawn: list[list[tuple[int, bool]]], arrays: bool) -> Iterator[tuple[Example, int]]:
    for number, pairs in enumerate(drawn):
        ids, mask = [i for i, _ in pairs], [m for _, m in pairs]
        yield (
            Example(np.array(ids, np.uint32), np.array(mask)) if arrays else Example(ids, mask),
            number + 1,
        )


END = Example([0, 0], [False, False])  # batches come out when the next example does not fit


@given(examples, st.integers(1, 120), st.integers(1, 45), st.booleans())
def test_a_batch_is_its_examples_end_to_end(
    drawn: list[list[tuple[int, bool]]], tokens: int, longest: int, arrays: bool
) -> None:
    given_examples = [example for example, _ in as_examples(drawn, arrays)]
    kept = [e for e in given_examples if 0 < len(e.ids) - 1 <= longest]
    source = [*as_examples(drawn, arrays), *[(END, -1)] * (tokens + 2)]
    inputs: list[int] = []
    learned: list[tuple[int, int]] = []  # (input, target)
    begin = 0
    for batch, state in pack(iter(source), tokens, longest, 0):
        assert len(batch.tokens) <= tokens or len(batch.lengths) == 1
        assert sum(batch.lengths) == len(batch.tokens) and len(batch.rows) == len(batch.targets)
        if state >= 0:  # what lies between two states is the batch
            between = [e for e in given_examples[begin:state] if 0 < len(e.ids) - 1 <= longest]
            assert batch.lengths == [len(e.ids) - 1 for e in between]
            begin = state
        inputs += batch.tokens.tolist()
        learned += zip(batch.tokens[batch.rows].tolist(), batch.targets.tolist(), strict=True)
    wanted = [int(i) for e in kept for i in e.ids[:-1]]
    assert inputs[: len(wanted)] == wanted and not any(inputs[len(wanted) :])
    assert learned == [
        (int(e.ids[n]), int(e.ids[n + 1]))
        for e in kept
        for n in range(len(e.ids) - 1)
        if e.mask[n + 1]
    ]


@given(st.integers(1, 6), st.integers(0, 1000))
def test_parts_are_cut_between_examples_and_of_about_one_size(parts: int, seed: int) -> None:
    rng = Random(seed)

    def stream() -> Iterator[tuple[Example, int]]:
        for n in range(200):
            length = rng.randrange(2, 30)
            ids = [rng.randrange(1000) for _ in range(length)]
            yield Example(ids, [rng.random() < 0.2 for _ in ids]), n

    batch = next(pack(stream(), 300, 29))[0]
    shards = split(batch, parts)
    assert len(shards) <= parts
    assert [t for s in shards for t in s.targets] == batch.targets.tolist()
    pairs = [(s.tokens[r], t) for s in shards for r, t in zip(s.rows, s.targets, strict=True)]
    assert pairs == [(batch.tokens[r], t) for r, t in zip(batch.rows, batch.targets, strict=True)]
    for s in shards:
        assert sum(s.lengths) == len(s.tokens)
        assert abs(len(s.tokens) - len(batch.tokens) / parts) <= 29 + 1


def test_a_part_without_targets_is_dropped_and_nothing_else() -> None:
    silent, spoken = Example([1, 2, 3], [False] * 3), Example([4, 5, 6], [False, True, True])
    batch = next(pack(iter([(silent, 1), (spoken, 2), (END, 3), (END, 4)]), 4, 10))[0]
    assert split(batch, 2) == [
        PackedBatch(np.array([4, 5]), [2], np.array([0, 1]), np.array([5, 6]))
    ]


def test_one_too_long_for_a_batch_is_a_batch_of_its_own() -> None:
    long, short = Example(range(51), [True] * 51), Example([2] * 5, [True] * 5)
    states = [
        (b.lengths, s)
        for b, s in pack(iter([(long, 1), (short, 2), (short, 3), (short, 4)]), 8, 60)
    ]
    assert states == [([50], 1), ([4, 4], 3)]


def test_a_source_of_nothing_but_too_long_examples_is_an_error_and_no_endless_wait() -> None:
    long = Example(range(51), [True] * 51)
    with pytest.raises(DataError, match="longer than 40 tokens, or empty: raise"):
        next(pack(((long, n) for n in count()), 100, 40))
    rare = ((Example([1] * 41, [True] * 41) if n % 9_000 == 0 else long, n) for n in count())
    assert [len(b.lengths) for b, _ in islice(pack(rare, 100, 40), 2)] == [2, 2]


def test_batches_become_tensors_of_int64() -> None:
    """Mapped ids are uint16, which embeddings cannot be looked up with."""
    examples = iter([(Example(np.arange(9, dtype=np.uint16), np.ones(9, bool)), 1)] * 2)
    batch = next(pack(examples, 8, 8))[0]
    for values in (batch.tokens, batch.rows, batch.targets, batch.rows[:0]):
        assert torch.tensor(values).dtype == torch.int64
    assert batch.targets.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_equality_is_of_the_values() -> None:
    assert Example([1, 2], [False, True]) == Example(np.array([1, 2]), np.array([False, True]))
    assert Example([1, 2], [False, True]) != Example([1, 2], [False, False])
    one = next(islice(pack(iter([(Example([1, 2, 3], [True] * 3), n) for n in (1, 2)]), 2, 9), 1))[
        0
    ]
    other = next(
        islice(pack(iter([(Example([1, 2, 4], [True] * 3), n) for n in (1, 2)]), 2, 9), 1)
    )[0]
    assert one == one and one != other
    with pytest.raises(TypeError):
        hash(one)
