"""Needles: they fit, they are where they should be, nothing else can be mistaken for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.errors import ConfigError
from ossia.harmony import Effort
from ossia.tasks import Split, grade, of_kind, problems
from ossia.tasks.long.needles import (
    KINDS,
    SHORT,
    Kind,
    estimate_tokens,
    needle,
    needle_document,
    needle_task,
    needles_document,
)
from ossia.tasks.problem import example_random, split_of
from ossia.tasks.world.country import World

BOTH: tuple[Split, ...] = ("train", "held_out")
WORLD = World(1, 200)
COUNTERS: tuple[Callable[[str], int], ...] = (
    len,
    lambda text: len(text.split()),
    estimate_tokens,
    lambda text: (
        len(re.findall(r"\w{1,3}|\W", text)) + 3
    ),  # three marks around every text: not additive
)


@given(
    seed=st.integers(0, 10**6),
    length=st.integers(600, 6000),
    kind=st.sampled_from(KINDS),
    counter=st.sampled_from(COUNTERS),
)
@settings(max_examples=examples(80), deadline=None)
def test_it_fits_and_fills_the_length(
    seed: int, length: int, kind: Kind, counter: Callable[[str], int]
) -> None:
    found = needle(Random(seed), counter, length, kind=kind, of=WORLD)
    assert counter(found.document) <= length
    # a sentence has at most some 100 characters
    assert counter(found.document) > length - 120 or counter is COUNTERS[-1]
    assert found.document == f"{found.text}\n\n{found.question}\n{found.answer}."


@given(seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS))
@settings(max_examples=examples(60), deadline=None)
def test_keys_and_values_do_not_collide(seed: int, kind: Kind) -> None:
    found = needle(Random(seed), estimate_tokens, 700, kind=kind, of=WORLD)
    numbers = re.findall(r"\d{5}", found.text)
    assert len(set(numbers)) == len(numbers)
    assert set(found.answer.replace(" and", ",").split(", ")) | set(found.others) == set(numbers)
    keys = set(re.findall(r"\b(?:[A-Z][a-z]){1}(?:[a-z]{2}){2}\b", found.question))
    assert keys, found.question
    for key in keys:
        told = len(re.findall(rf"\b{key}\b", found.text))
        assert told == 1, (key, found.text)
        assert not any(key.lower() in name.lower() for name in WORLD.names)
    assert all(sentence in found.text for sentence in found.hidden)


def test_keys_differ_even_where_few_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ossia.tasks.long.needles.SYLLABLES", ("ba", "de"))  # eight keys
    for i in range(300):
        text = needle(Random(i), estimate_tokens, 500, kind="several", of=WORLD).text
        keys = [
            key
            for key in re.findall(r"\b[A-Z][a-z]{5}\b", text)
            if set(re.findall("..", key.lower())) <= {"ba", "de"}
        ]
        assert len(set(keys)) == len(keys) >= 3


@given(seed=st.integers(0, 10**6))
@settings(max_examples=examples(60), deadline=None)
def test_variables_can_be_followed_and_lead_to_the_answer(seed: int) -> None:
    """Run the statements in the order of the text, as a program would be."""
    found = needle(Random(seed), estimate_tokens, 600, kind="variables", of=WORLD)
    values: dict[str, str] = {}
    for name, copied, source in re.findall(r"Set (\w+) to (the value of )?(\w+)\.", found.text):
        values[name] = values[source] if copied else source
    asked = re.fullmatch(r"What is the value of (\w+)\?", found.question)
    assert asked and values[asked[1]] == found.answer and found.others[0] in values.values()
    places = [found.text.index(sentence) for sentence in found.hidden]
    assert all(a < b for a, b in pairwise(places))


@pytest.mark.parametrize("kind", ["one", "several", "all"])
def test_the_text_says_the_answer(kind: Kind) -> None:
    for i in range(200):
        found = needle(example_random(0, kind, i), estimate_tokens, 500, kind=kind, of=WORLD)
        asked = re.findall(r"[A-Z]\w+", found.question.partition("of ")[2])
        for key, value in zip(asked, re.findall(r"\d+", found.answer), strict=True):
            assert any(key in sentence and value in sentence for sentence in found.hidden)
        assert len(found.hidden) == len(asked)


def test_depths_are_uniform() -> None:
    depths = [
        needle(example_random(0, "u", i), estimate_tokens, 1500, kind="one", of=WORLD).depth
        for i in range(1200)
    ]
    tenths = [sum(n <= depth * 10 < n + 1 + (n == 9) for depth in depths) for n in range(10)]
    assert sum(tenths) == 1200 and min(tenths) > 80 and max(tenths) < 165


@pytest.mark.parametrize("kind", KINDS)
def test_a_given_depth_is_kept(kind: Kind) -> None:
    for wanted in (0.0, 0.25, 0.5, 0.9, 1.0):
        for i in range(20):
            found = needle(
                example_random(0, "g", i), estimate_tokens, 2500, kind=kind, depth=wanted, of=WORLD
            )
            assert abs(found.depth - wanted) < 0.04
            at = found.text.index(found.hidden[0])
            if wanted == 0.0 and kind == "one":
                assert at == 0
            if wanted == 1.0 and kind == "one":
                assert found.text.endswith(found.hidden[0])
            if kind == "one":
                assert abs(at / (len(found.text) - len(found.hidden[0])) - wanted) < 0.06


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(ConfigError, match="too few"):
        needle(Random(0), len, 60, of=WORLD)
    with pytest.raises(ConfigError, match="'variables'"):
        needle(Random(0), len, 150, kind="variables", of=WORLD)
    with pytest.raises(ConfigError, match="depth"):
        needle(Random(0), len, 500, depth=1.5, of=WORLD)


def test_short_lengths_fall_back_to_one_needle() -> None:
    for i in range(100):
        assert len(needle(Random(i), len, 160, of=WORLD).document) <= 160


def test_any_length() -> None:
    found = needle(Random(0), estimate_tokens, 60_000, of=WORLD)
    assert 59_900 < estimate_tokens(found.document) <= 60_000


def test_short_documents_for_pretraining() -> None:
    documents = [needle_document(example_random(0, "short", i)) for i in range(600)]
    assert documents[:50] == [needle_document(example_random(0, "short", i)) for i in range(50)]
    assert documents[:50] != [needle_document(example_random(1, "short", i)) for i in range(50)]
    assert (
        max(map(estimate_tokens, documents)) <= SHORT
        and min(map(estimate_tokens, documents)) > SHORT // 3
    )
    assert all(text.isascii() for text in documents)
    for text in documents:
        for key, value in re.findall(r"secret number of (\w+) is (\d+)", text) + re.findall(
            r"Set (\w+) to (\d+)", text
        ):
            assert split_of(f"{key}|{value}") == "train"


@pytest.mark.parametrize("task", list(of_kind("needle")))
@pytest.mark.parametrize("split", BOTH)
def test_gold_scores_one_and_other_numbers_zero(task: str, split: Split) -> None:
    for problem in problems(task, 150, seed=1, split=split):
        for effort in Effort:
            messages = problem.solution(effort)
            assert messages[0].text and grade(problem, messages[-1].text, ()) == 1.0
        numbers = " ".join(re.findall(r"\d{5}", problem.turns[0].user))
        assert grade(problem, "12345.", ()) == grade(problem, "", ()) == 0.0
        for other in problem.expect.excludes:
            assert grade(problem, f"{other}.", ()) == 0.0
        assert not problem.expect.excludes or grade(problem, numbers, ()) == 0.0


def test_held_out_pairs_are_held_out() -> None:
    make = needle_task("one", estimate_tokens, 300)
    for split in BOTH:
        for i in range(200):
            problem = make(example_random(0, "h", i), split)
            asked = re.search(r"number of (\w+)\?", problem.turns[0].user)
            assert asked and split_of(f"{asked[1]}|{problem.expect.contains}") == split


@given(seed=st.integers(0, 10**6), length=st.integers(120, 3000))
@settings(max_examples=examples(40), deadline=None)
def test_many_needles_are_all_asked_for_and_fit(seed: int, length: int) -> None:
    """What a text hides, in whatever words, is what its questions are answered with; no pair is
    held out.
    """
    document = needles_document(Random(seed), length=length)
    text, _, asked = document.partition("\n\n")
    assert estimate_tokens(document) <= length
    pairs = re.findall(r"What is the secret number of (\w+)\?\n(\d{5})\.", asked)
    assert len(pairs) == len(dict(pairs)) == max(2, min(24, length // 60)) and len(
        asked.split("\n")
    ) == 2 * len(pairs)
    hidden = [sentence for sentence in re.findall(r"[^.]+\.", text) if "secret number" in sentence]
    assert len(hidden) == len(pairs)
    for key, value in pairs:
        assert len([sentence for sentence in hidden if key in sentence and value in sentence]) == 1
        assert split_of(f"{key}|{value}") == "train"


def test_too_few_tokens_for_two_needles_are_refused() -> None:
    with pytest.raises(ConfigError, match="40 tokens are too few for 2 needles: they alone need"):
        needles_document(Random(0), length=40)
