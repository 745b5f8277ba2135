"""Following a state: every track against an interpreter of its question, and the splits closed
under prefixes.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from ossia.errors import ConfigError
from ossia.harmony import Effort
from ossia.tasks import Problem, problems
from ossia.tasks.long.state import KINDS, LONGEST, state_text, state_tracking
from ossia.tasks.problem import example_random, split_of


def replayed(user: str) -> tuple[list[str], list[str]]:
    """(names of the steps, the state after each), worked out from the question alone."""
    told, _ = user.rsplit(". ", 1)
    begin, *names = told.split("; ")
    states = []
    if begin.startswith("cups: "):
        cups = begin.removeprefix("cups: ").split()
        for name in names:
            if name == "rotate":
                cups.insert(0, cups.pop())
            else:
                a, b = (int(word) - 1 for word in name.split()[1:])
                cups[a], cups[b] = cups[b], cups[a]
            states.append(" ".join(cups))
        return names, states
    prime = re.match(r"modulo (\d+): ", begin)
    x = int(begin.rsplit(" ", 1)[1])
    for name in names:
        n = int(re.findall(r"\d+", name)[0])
        x = {"+": x + n, "-": x - n, "*": x * n, "m": x % n}[name[0]]
        x = x % int(prime[1]) if prime else x
        states.append(str(x))
    return names, states


def asked(problem: Problem) -> str:
    return problem.turns[0].user


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_answers_are_right(kind: str, split: str) -> None:
    for i in range(200):
        problem = state_tracking(
            example_random(1, kind, i), "train" if split == "train" else "held_out", kind=kind
        )
        names, states = replayed(asked(problem))
        assert len(names) == problem.about["k"] and problem.about["kind"] == kind
        if found := re.search(r"in cup (\d)\?", asked(problem)):
            assert problem.answer == f"In cup {found[1]} is {states[-1].split()[int(found[1]) - 1]}"
        elif found := re.search(r"Where is (\w+)\?", asked(problem)):
            assert (
                problem.answer == f"{found[1]} is in cup {states[-1].split().index(found[1]) + 1}"
            )
        else:
            assert problem.answer == f"x = {states[-1]}"


@pytest.mark.parametrize("kind", list(KINDS))
def test_low_answers_medium_shows_every_third_state_high_every_step(kind: str) -> None:
    for i in range(100):
        problem = state_tracking(example_random(2, kind, i), "train", kind=kind)
        names, states = replayed(asked(problem))
        low, medium, high = (problem.solution(effort)[0].text for effort in Effort)
        assert low == problem.answer
        kept = [n for n in range(1, len(names) + 1) if n % 3 == 0 or n == len(names)]
        assert medium == ", ".join([f"after {n}: {states[n - 1]}" for n in kept])
        *lines, check = high.split("\n")
        assert len(lines) == len(names) and check.startswith(
            f"check {len(names)} of {len(names)} steps, "
        )
        for n, (line, name, state) in enumerate(zip(lines, names, states, strict=True), 1):
            assert line.startswith(f"{n} {name}: ") and re.search(rf"\b{state}$", line)


@pytest.mark.parametrize("kind", ["number", "modular"])
def test_every_equation_of_the_working_is_true(kind: str) -> None:
    for i in range(300):
        text = (
            state_tracking(example_random(3, kind, i), "train", kind=kind)
            .solution(Effort.HIGH)[0]
            .text
        )
        for a, sign, b, c in re.findall(r"(\d+)([+*-])(\d+)=(\d+)", text):
            assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] == int(
                c
            ), text
        for a, b, c in re.findall(r"(\d+) mod (\d+) is (\d+)", text):
            assert int(a) % int(b) == int(c), text


def test_the_check_of_cups_follows_the_ball_through_every_step() -> None:
    for i in range(100):
        problem = state_tracking(example_random(4, "cups", i), "train", kind="cups5")
        _, states = replayed(asked(problem))
        ball, places = re.findall(
            r"steps, (\w+) goes ([\d ]+)$", problem.solution(Effort.HIGH)[0].text
        )[0]
        begin = asked(problem).split(";")[0].removeprefix("cups: ")
        assert [state.split().index(ball) + 1 for state in (begin, *states)] == [
            int(p) for p in places.split()
        ]


def test_no_step_modulo_a_prime_forgets() -> None:
    """Each maps different states to different ones, so that the answer depends on every step before
    it.
    """
    for i in range(100):
        problem = state_tracking(example_random(5, "modular", i), "train", kind="modular")
        told = asked(problem).split(";")[0]
        p = int(told.split(":")[0].split()[1])
        ends = {
            replayed(asked(problem).replace(told, f"modulo {p}: x = {x}", 1))[1][-1]
            for x in range(p)
        }
        assert len(ends) == p


def test_no_beginning_of_a_training_track_is_held_out() -> None:
    for problem in problems("state", 1500, split="train"):
        told = asked(problem).rsplit(". ", 1)[0].split("; ")
        assert all(split_of("; ".join(told[:n])) == "train" for n in range(2, len(told) + 1))
    for problem in problems("state", 600, split="held_out"):
        assert split_of(asked(problem).rsplit(". ", 1)[0]) == "held_out"


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_all_lengths_and_kinds_are_as_frequent(split: str) -> None:
    drawn = problems("state", 3200, split="train" if split == "train" else "held_out")
    lengths, kinds = Counter(p.about["k"] for p in drawn), Counter(p.about["kind"] for p in drawn)
    assert (
        set(lengths) == set(range(1, LONGEST + 1))
        and min(lengths.values()) > 130
        and max(lengths.values()) < 280
    )
    assert set(kinds) == set(KINDS) and min(kinds.values()) > 650


@pytest.mark.parametrize("k", [1, 2, 16, 40])
def test_the_length_can_be_chosen(k: int) -> None:
    for kind in KINDS:
        assert (
            len(replayed(asked(state_tracking(example_random(6, kind, k), "held_out", k, kind)))[0])
            == k
        )


def test_answers_are_spread() -> None:
    answers = Counter(
        state_tracking(example_random(7, "a", i), "train", 8, "modular").answer for i in range(600)
    )
    assert len(answers) == 13 and max(answers.values()) < 150


def test_bad_parameters_are_named() -> None:
    with pytest.raises(ConfigError, match="at least one step"):
        state_tracking(example_random(0, "", 0), "train", 0)
    with pytest.raises(ConfigError, match="number, modular, cups3, cups5"):
        state_tracking(example_random(0, "", 0), "train", 3, "cards")


def test_documents_hold_all_grains() -> None:
    texts = [state_text(example_random(8, "", i)) for i in range(300)]
    assert any("check " in text for text in texts) and any("after 3: " in text for text in texts)
    assert any("check " not in text and "after " not in text for text in texts)
