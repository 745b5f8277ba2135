"""Out of its depth: saying so is right, guessing is not, and a tool that is there is used. Answers
in a format are of the schema and nothing else.
"""

from __future__ import annotations

import json
from collections import Counter

import jsonschema
import pytest

from ossia.errors import ConfigError
from ossia.harmony import Effort
from ossia.tasks import Problem, grade, problems
from ossia.tasks.limits.beyond import MAKERS, TOO_LARGE, WORDS, beyond_question
from ossia.tasks.limits.small_talk import SHARES, message
from ossia.tasks.problem import example_random
from ossia.tasks.safety.scope import ONLY
from ossia.tasks.world.facts import NOT_STATED


def some(kind: str, count: int = 60) -> list[Problem]:
    return [
        beyond_question(example_random(1, kind, n), ("train", "held_out")[n % 2], kind)
        for n in range(count)
    ]


def test_large_sums_are_declined_without_a_tool_and_called_with_one() -> None:
    for problem in some("large sum"):
        assert problem.answer == TOO_LARGE and not problem.tools
        for guess in ("1234567", "It is 12.", f"{TOO_LARGE} It is 1234567, I think."):
            assert grade(problem, guess, ()) == 0.0
    for problem in some("large sum, calculator"):
        assert len(problem.gold_calls) == 1
        assert grade(problem, problem.answer, problem.gold_calls) == 1.0
        assert grade(problem, problem.answer, ()) == 0.0 and grade(problem, TOO_LARGE, ()) == 0.0


def test_the_one_of_two_people_who_is_asked_about() -> None:
    known = 0
    for problem in some("two people"):
        told = [str(value) for value in problem.expect.told]
        names = told[:2]
        assert all(name in problem.turns[0].user for name in names)
        assert names[0] in problem.turns[0].user.split(". ")[-1], "the first is asked about"
        if problem.answer == NOT_STATED:
            assert grade(problem, f"{names[0]} is 30.", ()) == 0.0
            continue
        known += 1
        swapped = problem.answer.replace(names[0], names[1])
        assert grade(problem, swapped, ()) == 0.0
        assert grade(problem, NOT_STATED, ()) == 0.0
    assert known > 30


def test_words_that_nobody_knows() -> None:
    for problem in some("unknown word"):
        word = problem.answer.rpartition(" ")[2].strip(".")
        assert word in problem.turns[0].user
        assert grade(problem, f"{word} is a kind of bread.", ()) == 0.0


def test_answers_are_of_the_schema_and_right() -> None:
    keys = Counter()
    for problem in problems("response formats", 120):
        (form,) = problem.formats
        wanted = json.loads(problem.answer)
        jsonschema.validate(wanted, form.schema)
        keys[len(wanted)] += 1
        number = next(iter(wanted))
        spaced = json.dumps(wanted, indent=1)
        assert grade(problem, spaced, ()) == 1.0
        for wrong in (
            str(wanted[number]),
            json.dumps({**wanted, number: wanted[number] + 1}),
            json.dumps({**wanted, number: str(wanted[number])}),
            json.dumps({**wanted, "more": 1}),
            problem.answer[:-1],
            f"{problem.answer} {problem.answer}",
        ):
            assert grade(problem, wrong, ()) == 0.0, wrong
        developer = [m for m in problem.prompt() if m.role == "developer"]
        assert form.name in str(developer[0].content)
    assert min(keys[1], keys[2]) > 20


def test_kinds_are_drawn_by_their_shares() -> None:
    drawn = Counter(str(problem.about["kind"]) for problem in problems("limits", 1000))
    for kind, (share, _) in MAKERS.items():
        if kind != "out of depth":
            assert abs(drawn[kind] / 1000 - share / 100) < 0.05, kind
    assert all(drawn[kind] > 20 for kind in SHARES)
    with pytest.raises(ConfigError, match="there is no kind 'poetry'"):
        beyond_question(example_random(0, "", 0), "train", "poetry")


def test_messages_are_of_every_kind_and_thoughts_are_short() -> None:
    kinds = Counter(message(example_random(2, "m", n), "held_out")[0] for n in range(600))
    for kind, share in SHARES.items():
        assert abs(kinds[kind] / 600 - share / 100) < 0.07
    for problem in problems("limits", 60):
        lengths = [len(problem.turns[0].think(effort)) for effort in Effort]
        assert lengths == sorted(lengths)


def test_greetings_have_replies_of_their_own() -> None:
    for problem in some("greeting"):
        assert problem.answer != ONLY and grade(problem, problem.answer, ()) == 1.0
        assert grade(problem, ONLY, ()) == 0.0
    assert not [ask for ask in WORDS.table("words")["ask"] if "meaning of" in ask]
