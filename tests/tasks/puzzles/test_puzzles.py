"""Puzzles: answers against Python's own operators, working whose every equation is true, all forms
reached.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable

import pytest

from ossia.harmony import Effort
from ossia.tasks import Problem, problems
from ossia.tasks.numbers.calculator import evaluate
from ossia.tasks.problem import example_random, grade
from ossia.tasks.puzzles.all import FORMS, puzzle_question
from ossia.tasks.puzzles.numbers import in_base

EQUATION = re.compile(r"(\d+[+*-]\d+)=(\d+)")
REST = re.compile(r"(\d+) in (\d+): (\d+)\*(\d+)=(\d+) rest (\d+)")
WORD = r"([a-z]+)"


def _listed(text: str) -> list[str]:
    return text.split(": ")[1].split(", ")


# form -> from the gold final text to (what it says, what is right)
ORACLES: dict[str, Callable[[str], tuple[object, object]]] = {
    "modular": lambda t: (int(t.split(" = ")[1]), evaluate(t.split(" = ")[0].replace("mod", "%"))),
    "to base": lambda t: (_numbers(t)[0], int(str(_numbers(t)[2]), _numbers(t)[1])),
    "from base": lambda t: (_numbers(t)[2], int(str(_numbers(t)[0]), _numbers(t)[1])),
    "gcd": lambda t: (_numbers(t)[2], math.gcd(*_numbers(t)[:2])),
    "chain": lambda t: (int(t.split(" = ")[1]), evaluate(t.split(" = ")[0])),
    "digit sum": lambda t: (_numbers(t)[1], sum(map(int, str(_numbers(t)[0])))),
    "reverse": lambda t: (t.split()[-1], t.split()[0][::-1]),
    "count letter": lambda t: (_numbers(t)[0], t.split()[5].count(t.split()[3])),
    "count vowels": lambda t: (_numbers(t)[0], len(re.findall("[aeiou]", t.split()[5]))),
    "length": lambda t: (_numbers(t)[0], len(t.split()[3])),
    "without letter": lambda t: (
        t.split()[-1].replace("nothing", ""),
        t.split()[0].replace(t.split()[2], ""),
    ),
}


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def some(form: str, count: int = 150) -> list[Problem]:
    return [puzzle_question(example_random(1, form, i), "train", form) for i in range(count)]


@pytest.mark.parametrize("form", list(ORACLES))
def test_answers_are_right(form: str) -> None:
    for problem in some(form):
        said, right = ORACLES[form](problem.answer)
        assert said == right, problem


@pytest.mark.parametrize(
    "form", ["sort numbers", "sort words", "extreme", "count even", "nth letter"]
)
def test_answers_about_lists_are_right(form: str) -> None:
    """Against the question, in which the list stands."""
    for problem in some(form):
        user, answer = problem.turns[0].user.lower(), problem.answer.lower()
        if form == "nth letter":
            word, letter = re.findall(rf"letter of {WORD}", answer)[0], answer.split()[-1]
            place = (
                problem.solution(Effort.HIGH)[0]
                .text.split("\n")[0]
                .removeprefix("letters ")
                .split()
            )
            assert letter in word and sorted(place) == sorted(word) and word in user
            continue
        if form == "sort words":
            assert _listed(answer) == sorted(_listed(answer)) and all(
                word in user for word in _listed(answer)
            )
            continue
        numbers = _numbers(user)
        if form == "sort numbers":
            assert _numbers(answer) == sorted(numbers, reverse="largest" in user)
        elif form == "extreme":
            assert _numbers(answer) == [max(numbers) if "largest" in answer else min(numbers)]
        else:
            assert _numbers(answer) == [sum(number % 2 == 0 for number in numbers)]


@pytest.mark.parametrize("place", [1, 2, 3, 5])
def test_the_nth_letter_is_counted_from_the_right_side(place: int) -> None:
    names = ("first", "second", "third", "fourth", "fifth")
    found = 0
    for problem in some("nth letter", 800):
        word = re.findall(rf"letter of {WORD}", problem.answer)[0]
        if f"The {names[place - 1]} letter" in problem.answer:
            found += 1
            assert problem.answer.endswith(
                word[-place] if "from the end" in problem.answer else word[place - 1]
            )
    assert found > 10


@pytest.mark.parametrize("form", list(FORMS))
def test_every_equation_of_the_working_is_true(form: str) -> None:
    for problem in some(form, 100):
        for effort in (Effort.MEDIUM, Effort.HIGH):
            text = problem.solution(effort)[0].text
            for left, right in EQUATION.findall(text):
                assert evaluate(left) == int(right), text
            for divisor, number, quotient, again, product, rest in REST.findall(text):
                assert divisor == again and int(quotient) * int(divisor) == int(product), text
                assert int(product) + int(rest) == int(number) and int(rest) < int(divisor), text


@pytest.mark.parametrize("form", list(FORMS))
def test_the_grains_grow_and_high_effort_checks(form: str) -> None:
    lengths = Counter[Effort]()
    for problem in some(form, 80):
        for effort in Effort:
            lengths[effort] += len(problem.solution(effort)[0].text)
        high = problem.solution(Effort.HIGH)[0].text
        assert (
            high.split("\n")[-1].startswith("check ")
            and "check" not in problem.solution(Effort.MEDIUM)[0].text
        )
    assert lengths[Effort.HIGH] > 1.2 * lengths[Effort.MEDIUM]


def test_every_form_is_drawn() -> None:
    forms = Counter(problem.about["form"] for problem in problems("puzzles", 1600, split="train"))
    assert set(forms) == set(FORMS) and min(forms.values()) > 40


def test_a_sorted_list_must_be_whole_and_in_order() -> None:
    problem = some("sort numbers", 1)[0]
    numbers = _listed(problem.answer)
    assert grade(problem, ", ".join(numbers), ()) == 1.0
    assert grade(problem, f"The order is {' '.join(numbers)}.", ()) == 1.0
    for wrong in (numbers[::-1], numbers[1:], [*numbers, numbers[-1]], ["0", *numbers]):
        assert grade(problem, f"Sorted: {', '.join(wrong)}", ()) == 0.0


def test_in_base() -> None:
    for number in range(1, 300):
        for base in range(2, 10):
            assert int(in_base(number, base), base) == number
