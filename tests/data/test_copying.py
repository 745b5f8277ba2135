"""Random tokens to copy: the alphabet grows, masks mark what the context determines, examples are
short enough.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.data.copying import GROWN, Curriculum, Marks, examples, records, repetition
from ossia.data.packing import Example

MARKS = Marks(begin=5000, end=5001, stop=5002)
SPECIAL = {MARKS.begin, MARKS.end, MARKS.stop}
QUICK = Curriculum(smallest=8, records_after=300, grow_after=500, double_every=100, records=0.5)
seeds, alphabets = st.integers(0, 10**9), st.sampled_from([2, 8, 64, 4000])


def drawn(
    count: int, curriculum: Curriculum, seed: int = 1, vocabulary: int = 3000
) -> list[Example]:
    return [example for example, _ in islice(examples(seed, vocabulary, MARKS, curriculum), count)]


def words(example: Example) -> set[int]:
    return set(example.ids) - SPECIAL


# ---- the curriculum ------------------------------------------------------------------------------


@given(st.integers(0, 10**7), st.integers(1, 250_000))
def test_the_alphabet_begins_small_and_grows_to_the_vocabulary(index: int, vocabulary: int) -> None:
    plan = Curriculum()
    size = plan.alphabet(index, vocabulary)
    assert min(plan.smallest, vocabulary) <= size <= vocabulary
    assert size <= plan.alphabet(index + 1, vocabulary)
    if index <= plan.grow_after:
        assert size == min(plan.smallest, vocabulary)
    else:
        doubled = plan.alphabet(index + plan.double_every, vocabulary)
        assert doubled == vocabulary or abs(doubled - 2 * size) <= 1
    assert plan.alphabet(10**7, vocabulary) == vocabulary == GROWN.alphabet(64, vocabulary)


def test_examples_use_the_alphabet_of_their_place() -> None:
    """A growing one: what was drawn from before is drawn from still. And no place asks for a
    special token.
    """
    found = drawn(1600, QUICK)
    first = set().union(*map(words, found[: QUICK.grow_after]))
    assert len(first) == QUICK.smallest and first <= set(range(3000))
    later = set().union(*map(words, found[600:601])), set().union(*map(words, found[1400:]))
    assert len(later[0] | first) <= 16 < len(later[1]) <= 3000
    assert set().union(*map(words, found[:900])) >= first and first & later[1]
    # the first ids of a byte-level vocabulary are rare bytes
    assert first != set(range(QUICK.smallest))


def is_repetition(example: Example) -> bool:
    return list(example.ids).count(MARKS.begin) == 2


def test_records_come_later_and_in_their_share() -> None:
    found = list(map(is_repetition, drawn(2300, QUICK)))
    assert all(found[: QUICK.records_after])
    assert abs(found[QUICK.records_after :].count(False) - 1000) < 4 * (2000 * 0.25) ** 0.5
    assert (
        abs(list(map(is_repetition, drawn(1000, GROWN))).count(False) - 800)
        < 4 * (1000 * 0.16) ** 0.5
    )


def test_going_on_from_any_state_changes_nothing() -> None:
    whole = list(islice(examples(1, 3000, MARKS, QUICK), 700))
    assert [state for _, state in whole] == list(range(1, 701))
    for at in (1, 299, 300, 555):
        state = json.loads(json.dumps(whole[at - 1][1]))
        assert list(islice(examples(1, 3000, MARKS, QUICK, state), 60)) == whole[at : at + 60]
    assert drawn(50, QUICK) == [example for example, _ in whole[:50]] != drawn(50, QUICK, seed=2)


# ---- repetitions ---------------------------------------------------------------------------------


@given(seeds, alphabets)
def test_a_repetition_is_learned_the_second_time(seed: int, size: int) -> None:
    example = repetition(Random(seed), list(range(size)), MARKS)
    ids, mask = list(example.ids), list(example.mask)
    n = (len(ids) - 3) // 2
    assert 4 <= n <= 44 and len(ids) == len(mask) == 2 * n + 3
    assert ids[0] == ids[n + 1] == MARKS.begin and ids[-1] == MARKS.end
    for place, learned in enumerate(mask):
        assert learned == (place > n + 1)
        if learned and place < len(ids) - 1:
            assert ids[place] == ids[place - n - 1] and ids[place] < size


def test_some_repetitions_have_few_tokens_so_that_one_before_does_not_tell_the_place() -> None:
    found = [repetition(Random(n), list(range(3000)), MARKS) for n in range(600)]
    long = [example for example in found if len(example.ids) > 60]
    few = [example for example in long if len(words(example)) <= 10]
    assert 0.2 < len(few) / len(long) < 0.4


# ---- records -------------------------------------------------------------------------------------


def parsed(
    example: Example,
) -> tuple[list[tuple[int, ...]], list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """(the records as they are first told, (key, value) of those that are asked for again), by
    stops and masks.
    """
    told: list[tuple[int, ...]] = []
    asked: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    key: tuple[int, ...] = ()
    value: tuple[int, ...] = ()
    for token, learned in list(zip(example.ids, example.mask, strict=True))[1:]:
        if token != MARKS.stop:
            assert not (value and not learned), "a value stands at the end of its record"
            key, value = (key, (*value, token)) if learned else ((*key, token), value)
            continue
        assert not learned
        if value:
            asked.append((key, value))
        else:
            assert not asked, "what is told comes first"
            told.append(key)
        key, value = (), ()
    assert not key and not value
    return told, asked


@given(seeds, alphabets)
def test_every_learned_value_is_the_one_that_its_key_was_told_with(seed: int, size: int) -> None:
    example = records(Random(seed), list(range(size)), MARKS)
    told, asked = parsed(example)
    assert example.ids[0] == MARKS.begin and not example.mask[0]
    values = dict(asked)
    assert all(values[key] == value for key, value in asked), "one key has one value"
    assert sorted(key + value for key, value in values.items()) == sorted(told)
    assert Counter(key for key, _ in asked) == dict.fromkeys(values, 2)
    half = len(asked) // 2
    assert dict(asked[:half]) == dict(asked[half:]) == values  # each once, then each once more


@given(seeds, alphabets)
def test_records_are_short(seed: int, size: int) -> None:
    """The longest has 10 facts of two tokens, two and five."""
    told, asked = parsed(example := records(Random(seed), list(range(size)), MARKS))
    assert 1 <= len(told) <= 10 and len(example.ids) == len(example.mask) <= 1 + 3 * 10 * 10
    assert all(2 <= len(key) <= 4 and 1 <= len(value) <= 5 for key, value in asked)


@given(seeds, alphabets)
def test_no_key_of_a_record_begins_another(seed: int, size: int) -> None:
    """Or one would not know where the value begins."""
    keys = sorted(dict(parsed(records(Random(seed), list(range(size)), MARKS))[1]))
    assert not any(later[: len(key)] == key for key, later in pairwise(keys))


def test_one_token_alone_does_not_find_a_value() -> None:
    """In most examples with several facts, keys share their first or their last token and differ in
    their value.
    """
    first = last = several = 0
    for seed in range(400):
        values = dict(parsed(records(Random(seed), list(range(1000)), MARKS))[1])
        if len(values) > 2:
            several += 1
            first += len({key[0] for key in values}) < len(values)
            last += len({key[-1] for key in values}) < len(values)
    assert several > 250 and first > 0.7 * several and last > 0.7 * several


@pytest.mark.parametrize(
    "curriculum, tokens", [(Curriculum(), 52), (Curriculum(records_after=0, records=1.0), 98)]
)
def test_a_step_holds_about_as_many_as_is_said(curriculum: Curriculum, tokens: int) -> None:
    """80 repetitions, or 40 records, in 4,096 tokens."""
    found = drawn(1500, curriculum)
    assert abs(sum(len(example.ids) - 1 for example in found) / len(found) / tokens - 1) < 0.15
