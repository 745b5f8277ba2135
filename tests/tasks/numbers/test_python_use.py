"""Large numbers and the python tool: the gold code does what the real tool does with it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from python_tools import Notebook, python_tool
from tiny_model import Script

from ossia.errors import ToolError
from ossia.harmony import Conversation, Effort, Role, SystemContent
from ossia.harmony.content import builtin_tools
from ossia.hub import embedded
from ossia.tasks import Split, grade, problems
from ossia.tasks.numbers.python_use import PRINTING, printed
from ossia.tokenizer import Tokenizer
from ossia.tools import Toolbox
from ossia.turn import Rules, Turn, run_turn

BOTH: tuple[Split, ...] = ("train", "held_out")


def test_the_real_tool_prints_the_same() -> None:
    codes = [problem.gold_calls[0].arguments for problem in problems("python", 40)]
    assert any("//" in code for code in codes) and any("*" in code for code in codes)
    with python_tool() as tool:
        cell = Notebook(tool)
        assert [cell(code) for code in codes] == [printed(code) for code in codes]
        assert tool.namespace == PRINTING.namespace


@pytest.mark.parametrize(
    "code",
    [
        "",
        "1+1",
        "import os",
        "print(open('x'))",
        "print(1)\nprint(2)",
        "print(9**99999)",
        "print()",
    ],
)
def test_other_code_is_refused(code: str) -> None:
    with pytest.raises(ToolError):
        printed(code)


@pytest.mark.parametrize("split", BOTH)
def test_a_number_is_too_long_for_ones_head(split: Split) -> None:
    for problem in problems("python", 300, split=split):
        assert re.search(r"\d{4}", problem.gold_calls[0].arguments)


def test_splits_share_no_formula_and_no_wording_of_pythons_own() -> None:
    train, held_out = (
        {problem.gold_calls[0].arguments for problem in problems("python", 1500, split=split)}
        for split in BOTH
    )
    assert not train & held_out
    said = " ".join(p.turns[0].user.lower() for p in problems("python", 1500, split="train"))
    assert "use python" in said and "let python do" not in said


def test_the_call_is_a_part_of_the_thoughts() -> None:
    (problem,) = problems("python", 1)
    system, user = problem.prompt(Effort.LOW)
    assert isinstance(system.content, SystemContent) and user.role is Role.USER
    assert system.content.namespaces == (builtin_tools("python"),)
    thought, call, result, final = problem.solution(Effort.LOW)
    assert (call.channel, call.recipient, call.content_type) == ("analysis", "python", "code")
    assert (result.role, result.name, result.channel) == (Role.TOOL, "python", "analysis")
    assert thought.channel == "analysis" and final.text == problem.answer


def test_what_is_wrong_scores_nothing() -> None:
    for problem in problems("python", 50):
        (call,) = problem.gold_calls
        assert grade(problem, problem.answer, [call]) == 1.0
        assert grade(problem, problem.answer, []) == 0.0
        for code in (f"{call.arguments} + 1", f"print({problem.expect.value} + 1)", "print('a')"):
            assert grade(problem, problem.answer, [replace(call, arguments=code)]) == 0.0


def test_the_turn_runs_it() -> None:
    tokenizer = Tokenizer.from_file(embedded("nano") / "tokenizer.json")
    (problem,) = problems("python", 1)
    (call,) = problem.gold_calls
    conversation = Conversation(problem.prompt(Effort.LOW))
    script = Script(
        tokenizer,
        f"<|channel|>analysis to=python code<|message|>{call.arguments}<|call|>",
        f"<|channel|>final<|message|>{problem.answer}<|return|>",
    )
    rules = Rules(Toolbox.of(conversation, problem.offered))
    *_, end = run_turn(Turn(conversation, tokenizer, rules), script)
    assert end.text == problem.answer
    assert [message.text for message in end.messages if message.role is Role.TOOL] == [call.result]
