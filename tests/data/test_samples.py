"""Answers in a batch: whose rows are where, that nothing is lost, and that groups stay whole."""

from __future__ import annotations

from itertools import chain
from random import Random

import numpy as np
import pytest
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.data.packing import PackedBatch, split
from ossia.data.samples import Answer, Group, packed_groups
from ossia.errors import DataError


def test_the_layout_of_the_docstring() -> None:
    group = Group([10, 11, 12], [Answer([20, 21, 22]), Answer([30, 31])])
    batch = packed_groups([group])
    assert batch.tokens.tolist() == [10, 11, 12, 20, 21, 30]
    assert batch.lengths == [3, 2, 1]
    assert batch.starts == [0, 3, 3]
    assert batch.gather is not None
    assert batch.gather.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5]
    assert batch.rows.tolist() == [2, 2, 3, 4, 5]
    assert batch.targets.tolist() == [20, 30, 21, 22, 31]
    assert batch.streams["sequence"].tolist() == [0, 1, 0, 0, 1]
    assert batch.streams["sequence"].dtype == np.int32
    assert batch.documents == [6]


def test_alone_an_answer_is_an_ordinary_example() -> None:
    alone = Group([10, 11], [Answer([20, 21], {"advantage": [0.5, 0.5]})])
    shared = packed_groups([alone])
    assert shared == packed_groups([alone], share=False)
    assert (shared.starts, shared.gather) == (None, None)
    assert shared.tokens.tolist() == [10, 11, 20]
    assert shared.rows.tolist() == [1, 2]
    assert shared.streams["advantage"].dtype == np.float32


def random_groups(seed: int) -> list[Group]:
    rng = Random(seed)
    groups = []
    for _ in range(rng.randint(1, 5)):
        answers = []
        for _ in range(rng.randint(1, 4)):
            ids = [rng.randrange(100) for _ in range(rng.randint(1, 8))]
            numbers = [rng.random() for _ in ids]
            learned = [rng.random() < 0.7 for _ in ids]
            answers.append(Answer(ids, {"keep": numbers}, learned))
        groups.append(Group([rng.randrange(100) for _ in range(rng.randint(1, 6))], answers))
    return groups


def told(batch: PackedBatch) -> list[tuple[int, tuple[int, ...], int, float]]:
    """Of every target: its sequence, all tokens it is predicted from, itself, and its number."""
    starts = batch.starts or [0] * len(batch.lengths)
    gather = np.arange(len(batch.tokens)) if batch.gather is None else batch.gather
    seen: dict[int, tuple[int, ...]] = {}
    row = 0
    kept = 0
    for length, start in zip(batch.lengths, starts, strict=True):
        own = batch.tokens[gather[kept : kept + start + length]].tolist()
        kept += start + length
        for n in range(length):
            seen[row] = tuple(own[: start + n + 1])
            row += 1
    columns = (batch.streams["sequence"], batch.rows, batch.targets, batch.streams["keep"])
    return sorted(
        (int(s), seen[int(r)], int(t), float(k)) for s, r, t, k in zip(*columns, strict=True)
    )


@settings(max_examples=examples(80), deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_every_target_follows_its_tokens_in_every_layout(seed: int, parts: int) -> None:
    groups = random_groups(seed)
    wanted = []
    number = 0
    for group in groups:
        for answer in group.answers:
            assert answer.learned is not None
            for n, id in enumerate(answer.ids):
                before = (*group.prompt, *answer.ids[:n])
                if answer.learned[n]:
                    keep = float(np.float32(answer.streams["keep"][n]))
                    wanted.append((number, before, id, keep))
            number += 1
    shared, apart = packed_groups(groups), packed_groups(groups, share=False)
    assert told(shared) == told(apart) == sorted(wanted)
    assert len(shared.tokens) <= len(apart.tokens)
    for batch in (shared, apart):
        pieces = split(batch, parts)
        assert sorted(chain.from_iterable(map(told, pieces))) == sorted(wanted)
        for piece in pieces:
            assert piece.starts is None or piece.starts[0] == 0
            assert list(piece.rows) == sorted(piece.rows)


def test_groups_are_not_cut() -> None:
    groups = [Group([n] * 5, [Answer([n] * 4)] * 6) for n in range(4)]
    batch = packed_groups(groups)
    pieces = split(batch, 3)
    assert [set(piece.tokens.tolist()) for piece in pieces] == [{0}, {1, 2}, {3}]
    assert split(packed_groups(groups[:1]), 5) == [packed_groups(groups[:1])]


def test_experts_of_a_prompt_come_once_or_before_each_answer() -> None:
    prompt = np.arange(2, dtype=np.int16).reshape(2, 1, 1)
    own = np.full((2, 1, 1), 7, np.int16)
    group = Group([1, 2], [Answer([3, 4], experts=own), Answer([5])], prompt)
    shared, apart = packed_groups([group]), packed_groups([group], share=False)
    assert shared.experts is not None and apart.experts is not None
    assert shared.experts.flatten().tolist() == [0, 7, 7]  # the last one of both, as it was drawn
    assert apart.experts.flatten().tolist() == [0, 7, 7, 0, 1]


def test_experts_stay_with_their_rows() -> None:
    def chosen(n: int) -> np.ndarray:  # type: ignore[type-arg]
        return np.full((3, 2, 1), n, np.int16)

    group = Group([1, 2], [Answer([7, 8, 9], experts=chosen(n)) for n in (4, 4)])
    batch = packed_groups([group, Group([3], [Answer([5])])])
    assert batch.experts is not None
    assert batch.experts[:, 0, 0].tolist() == [-1, 4, 4, 4, 4, 4, -1]
    assert [part.experts.shape for part in split(batch, 2) if part.experts is not None] == [
        (6, 2, 1),
        (1, 2, 1),
    ]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (Group([], [Answer([1])]), "a prompt must have at least"),
        (Group([1], [Answer([])]), "an answer must have at least"),
        (Group([1], [Answer([1, 2], {"keep": [1.0]})]), "'keep' of an answer of 2 tokens has 1"),
        (
            Group([1], [Answer([1], learned=[True, True])]),
            "'learned' of an answer of 1 to",
        ),
        (Group([1], [Answer([1], {"keep": [1.0]}), Answer([1])]), "all need the same"),
        (Group([1], []), "one answer at least"),
        (Group([1], [Answer([1])], np.zeros((2, 1, 1), np.int16)), "of a prompt of 1 tokens has 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_laid_out_is_refused(group: Group, message: str) -> None:
    with pytest.raises(DataError, match=message):
        packed_groups([group])
