"""Permit codes in letters and in words: near misses, and what thoughts say of two of them."""

from __future__ import annotations

import re

import pytest

from ossia.harmony import Effort
from ossia.tasks import example_random
from ossia.tasks.safety.permits import LETTERS, WORDS, Permits
from ossia.tasks.safety.policy import policy_question
from ossia.tasks.world.names import THINGS
from ossia.train.recipes.sft import base_folder, tokenizer_of


@pytest.mark.parametrize("permits", [LETTERS, WORDS])
def test_another_code_is_another_and_often_a_near_miss(permits: Permits) -> None:
    near = 0
    for n in range(300):
        rng = example_random(1, "permits", n)
        given = permits.draw(rng)
        other = permits.other(rng, given)
        assert other != given
        pairs = list(zip(permits.parts(given), permits.parts(other), strict=False))
        differing = sum(one != two for one, two in pairs)
        near += len(permits.parts(given)) == len(permits.parts(other)) and differing == 1
    assert near > 75


@pytest.mark.parametrize("permits", [LETTERS, WORDS])
def test_thoughts_find_every_place_that_differs(permits: Permits) -> None:
    for n in range(100):
        rng = example_random(2, "permits", n)
        given = permits.draw(rng)
        other = permits.other(rng, given) if n % 2 else given
        told = permits.thoughts(given, other, Effort.HIGH)
        assert told.startswith(f"The user gives {given}, the developer {other}.")
        pairs = re.findall(r"(\S+) and (\S+) (agree|differ)", told)
        assert all((one == two) is (verdict == "agree") for one, two, verdict in pairs)
        assert any(verdict == "differ" for *_, verdict in pairs) is (given != other)
        assert permits.compared not in permits.thoughts(given, other, Effort.LOW)
    assert permits.thoughts("", "x", Effort.HIGH) == "The user gives no code."
    assert permits.thoughts("x", "", Effort.HIGH).endswith("the developer gives none.")


def test_words_are_whole_for_nano() -> None:
    tokenizer = tokenizer_of(base_folder("nano"))
    assert all(len(tokenizer.encode(f" {word}")) == 1 for word in THINGS)


@pytest.mark.parametrize("rule", [3, 7, 11])
def test_only_the_codes_of_a_problem_are_in_words(rule: int) -> None:
    """The same random numbers give the same compound, question and notes."""
    in_words = 0
    for n in range(60):
        plain = policy_question(example_random(3, "", n), "train", rule)
        worded = policy_question(example_random(3, "", n), "train", rule, permits=WORDS)
        code = re.compile(r"(Permit code: )(\S+ ?\S*)$")
        given = code.search(worded.instructions or "")
        assert code.sub(r"\1", plain.instructions or "") == code.sub(
            r"\1", worded.instructions or ""
        )
        assert plain.answer == worded.answer
        if given:
            in_words += 1
            assert set(given[2].split()) <= set(THINGS)
    assert in_words == 60 if rule == 11 else in_words < 20
