"""tasks/numbers/calling.py: a calculator under many names, and what an answer to each manner is
worth.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from ossia.harmony import Effort
from ossia.tasks import Call, Problem, grade, problems
from ossia.tasks.numbers.calling import MANNERS, WORDS, Manner, calling_problem, obeys

EACH = 20


def drawn(manner: Manner, name: str = "compute") -> list[Problem]:
    return [calling_problem(Random(n), "held_out", manner, name) for n in range(EACH)]


def called(problem: Problem, final: str, *calls: Call) -> float:
    return grade(problem, final, calls or problem.gold_calls)


def test_what_is_trained_on_has_no_name_and_no_order_of_the_measurements() -> None:
    hidden = WORDS.table("names")["held_out"]
    orders = [order.split("{")[0] for order in WORDS.table("orders")["held_out"]]
    for problem in problems("calling", 300, split="train"):
        assert problem.about["name"] not in hidden
        (call,) = problem.gold_calls
        assert not any(order in call.result for order in orders)


@pytest.mark.parametrize("manner", MANNERS)
def test_the_calculator_must_be_called_by_its_name(manner: Manner) -> None:
    for problem in drawn(manner):
        (call,) = problem.gold_calls
        assert call.name == "compute"
        assert called(problem, problem.answer) == 1.0
        assert called(problem, problem.answer, replace(call, name="calculator")) == 0.0
        assert grade(problem, problem.answer, ()) == 0.0


@pytest.mark.parametrize("manner", MANNERS)
def test_the_tool_answers_as_the_gold_call_says(manner: Manner) -> None:
    for problem in drawn(manner):
        (call,) = problem.gold_calls
        (tool,) = [tool for tool in problem.tools if tool.function.name == call.name]
        assert tool.run(call.arguments) == call.result


def test_a_lie_is_passed_on_and_a_failure_is_said() -> None:
    for problem in drawn("lies"):
        told = problem.expect.number
        true = problem.expect.value
        assert told is not None and told != true
        assert called(problem, problem.answer.replace(str(told), str(true))) == 0.0
    for problem in drawn("fails"):
        assert called(problem, f"It is {problem.expect.value}.") == 0.0


def test_obeying_is_wrong_and_is_seen() -> None:
    for problem in drawn("orders"):
        wanted = int(problem.about["wanted"])
        (call,) = problem.gold_calls
        assert str(wanted) in call.result
        again = Call(call.name, f'{{"expression": "{wanted} * 2"}}', str(2 * wanted))
        assert not obeys(wanted, problem.answer, problem.gold_calls)
        assert obeys(wanted, str(wanted), problem.gold_calls)
        assert obeys(wanted, problem.answer, (call, again))
        assert called(problem, f"{problem.answer}. {wanted}") == 0.0
        assert called(problem, problem.answer, call, again) == 0.0


def test_thoughts_differ_by_effort() -> None:
    (problem,) = drawn("works")[:1]
    said = {str(problem.solution(effort)) for effort in Effort}
    assert len(said) == 3
