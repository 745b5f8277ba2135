"""Problems: gold answers score 1.0, wrong ones do not, splits are disjoint, examples are
reproducible.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import pytest

from ossia.harmony import Effort, FunctionTool, Role
from ossia.tasks import REGISTRY, TASKS, Call, Split, Tool, grade, of_kind, problems
from ossia.tasks.answers import last_integer, plain_words
from ossia.tasks.numbers.expressions import operation_split
from ossia.tasks.problem import call_is_valid

BOTH: tuple[Split, ...] = ("train", "held_out")
ASKED = (*TASKS, "python")
EQUATION = re.compile(
    r"(?<![\d+\-*/.] )(?<![\d+\-*/).])(-?\d+) ?([+*/-]) ?(\d+) ?= ?-?\d+(?![\d.])"
)


@pytest.mark.parametrize("task", ASKED)
@pytest.mark.parametrize("split", BOTH)
def test_gold_scores_one_at_every_effort(task: str, split: Split) -> None:
    for problem in problems(task, 300, seed=1, split=split):
        for effort in Effort:
            messages = problem.solution(effort)
            assert messages[-1].channel == "final" and messages[-1].text == problem.answer
            assert messages[0].channel == "analysis" and messages[0].text
            assert grade(problem, messages[-1].text, problem.gold_calls) == 1.0


@pytest.mark.parametrize("task", ASKED)
def test_wrong_answers_score_zero(task: str) -> None:
    for problem in problems(task, 200, seed=2):
        for wrong in ("", "I do not know.", "The answer is 123456789.", "That is wrong."):
            assert grade(problem, wrong, problem.gold_calls) == 0.0
        if problem.expect.number is not None:
            off = problem.answer.replace(str(problem.expect.number), str(problem.expect.number + 1))
            assert grade(problem, off, problem.gold_calls) == 0.0


def test_calls_are_wanted_only_where_a_calculator_is() -> None:
    for problem in problems("calculator", 100):
        assert grade(problem, problem.answer, ()) == 0.0
        broken = replace(problem.gold_calls[0], arguments=problem.gold_calls[0].arguments[:-1])
        assert grade(problem, problem.answer, (broken,)) == 0.0
    for problem in problems("facts", 50):
        assert (
            grade(problem, problem.answer, (Call("calculator", '{"expression": "1+1"}', "2"),))
            == 0.0
        )


def test_the_gold_calls_come_from_running_the_tool() -> None:
    for problem in problems("calculator", 200, split="train"):
        call = problem.gold_calls[0]
        tool = next(tool for tool in problem.tools if tool.function.name == call.name)
        assert tool.run(call.arguments) == call.result


def test_grade_cannot_see_the_analysis() -> None:
    assert list(inspect.signature(grade).parameters) == ["problem", "final_text", "calls"]


@pytest.mark.parametrize("task", ASKED)
def test_examples_are_pure_functions_of_their_index(task: str) -> None:
    first = [p.prompt() + p.solution(Effort.HIGH) for p in problems(task, 40, seed=3)]
    again = [p.prompt() + p.solution(Effort.HIGH) for p in problems(task, 20, seed=3, start=20)]
    assert first[20:] == again
    assert first != [p.prompt() + p.solution(Effort.HIGH) for p in problems(task, 40, seed=4)]


@pytest.mark.parametrize("task", ["arithmetic", "facts"])
def test_answers_of_the_splits_do_not_meet(task: str) -> None:
    train, held_out = ({p.answer for p in problems(task, 1500, split=split)} for split in BOTH)
    assert not train & (held_out - {"That is not stated."})


@pytest.mark.parametrize(
    "task", ["arithmetic", "word problems", "multi-turn", "calculator", "python"]
)
def test_training_never_writes_a_held_out_equation(task: str) -> None:
    for problem in problems(task, 400, split="train"):
        for effort in Effort:
            for message in problem.prompt(effort) + problem.solution(effort):
                for a, sign, b in (
                    EQUATION.findall(message.text) if message.role is Role.ASSISTANT else ()
                ):
                    assert operation_split(sign, int(a), int(b)) == "train", message.text


def test_held_out_problems_are_held_out() -> None:
    for problem in problems("arithmetic", 300):
        low = problem.solution(Effort.LOW)[0].text
        if found := EQUATION.fullmatch(low):
            a, sign, b = found.groups()
            assert operation_split(sign, int(a), int(b)) == "held_out"


def test_facts_are_given_unless_they_are_not_stated() -> None:
    for problem in problems("facts", 400, split="train"):
        given = plain_words(" ".join([problem.instructions or "", problem.turns[0].user]))
        if problem.answer != "That is not stated.":
            assert (
                problem.expect.contains is not None
                and plain_words(problem.expect.contains).strip() in given
            )


def test_long_conversations_occur_but_rarely() -> None:
    lengths = [len(problem.turns) for problem in problems("multi-turn", 1500, split="train")]
    assert min(lengths) == 2 and max(lengths) >= 10
    assert sum(length <= 6 for length in lengths) > 0.95 * len(lengths)


def test_last_integer() -> None:
    assert last_integer("9 - 5 = 4.") == 4
    assert last_integer("37-48=-11") == -11
    assert last_integer("The result is 85.0") == 85
    assert last_integer("That is 1,234 in total.") == 1234
    assert last_integer("12 - 5") == 5
    assert last_integer("12-5") == 5
    assert last_integer("It is 2.5") is None
    assert last_integer("Well, it is...5") == 5
    assert last_integer("nothing") is None


def test_a_call_must_fit_its_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "op": {"enum": ["+"]}},
        "required": ["a"],
    }
    tool = Tool(FunctionTool("f", "", schema), str)
    problem = replace(problems("arithmetic", 1)[0], tools=(tool,))

    def fits(arguments: str, name: str = "f") -> bool:
        return call_is_valid(problem, Call(name, arguments, ""))

    assert fits('{"a": 1}') and fits('{"a": 1, "op": "+"}')
    bad = [
        "{}",
        '{"a": "1"}',
        '{"a": true}',
        '{"a": 1, "op": "-"}',
        '{"a": 1, "b": 2}',
        "[1]",
        '"a"',
    ]
    assert not any(map(fits, [*bad, "", "{", "[" * 100_000]))
    assert not fits('{"a": 1}', "g")


def test_the_registry() -> None:
    """Every task has held-out problems; all but the jailbreak have problems to train on, and a name
    that `ossia eval --task` can be given.
    """
    assert list(TASKS) == list(of_kind("nano")) and len(TASKS) == 6
    assert set(of_kind("eval")) == set(REGISTRY)
    measured = {"policy jailbreak", "jailbreaks", "hierarchy unseen"}
    assert set(REGISTRY) - set(of_kind("rl")) == measured
    for name, task in REGISTRY.items():
        assert name == task.name and task.description
        assert problems(name, 1)[0].task == name
