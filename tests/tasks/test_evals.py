"""Evals: the report counts what the graders say, at every effort, and shows intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ossia.harmony import Conversation, Effort, SystemContent
from ossia.tasks import TASKS, Call, Problem, problems
from ossia.tasks.evals import TOOL_ROW, Report, Share, cases, judge, run
from ossia.tools import SessionKey, Sessions, Toolbox
from ossia.tools.protocol import Tool

ASKED = (*TASKS, "python")  # functions of the developer message, and a tool of the system message


def gold(by_prompt: dict[str, Problem]):  # type: ignore[no-untyped-def]
    def respond(
        prompt: Conversation, tools: tuple[Tool, ...], effort: Effort
    ) -> tuple[str, Sequence[Call], int]:
        problem = by_prompt[prompt.messages[-1].text]
        if effort is Effort.LOW:
            return "no idea", (), 3
        calls = [replace(call, result=_result(tools, call)) for call in problem.gold_calls]
        return problem.answer, calls, 10 if effort is Effort.MEDIUM else 30

    return respond


def _result(tools: Sequence[Tool], call: Call) -> str:
    """What the tool says that the call is addressed to."""
    targets = Toolbox(builtin=tuple(tools)).by_recipient
    recipient = call.name if call.is_code else f"functions.{call.name}"
    target = targets[recipient]
    assert target.tool is not None
    (result,) = Sessions(SessionKey()).call_all([(target.tool, target.name, call.arguments)])
    return result.text


@pytest.fixture(scope="module")
def report() -> Report:
    some = [problem for task in ASKED for problem in problems(task, 20)]
    # later problems must not shadow earlier ones that happen to ask the same thing
    by_prompt = {problem.turns[-1].user: problem for problem in some}
    return run(by_prompt.values(), gold(by_prompt))


def test_report_counts_by_task_and_effort(report: Report) -> None:
    assert report.accuracy(effort=Effort.LOW).value == 0.0
    assert report.accuracy(effort=Effort.HIGH).value == 1.0
    assert report.accuracy("facts", Effort.MEDIUM).right > 10
    assert report.tokens(Effort.LOW) == 3 and report.tokens(Effort.HIGH) == 30
    assert report.tool_use(Effort.HIGH).value == 1.0 and report.tool_use(Effort.LOW).value == 0.0
    assert set(report.tasks) == set(ASKED) and report.efforts == list(Effort)


def test_report_is_a_table(report: Report) -> None:
    lines = str(report).split("\n")
    assert lines[0].startswith("| task") and len({len(line) for line in lines}) == 1
    assert any(TOOL_ROW in line for line in lines) and "mean tokens" in lines[-1]
    assert "no idea" in report.failures(3) and len(report.failures(3).split("\n")) >= 3


def test_prompts_ask_for_the_effort() -> None:
    for case in cases(problems("arithmetic", 3), [Effort.LOW, Effort.HIGH]):
        system = case.prompt.messages[0].content
        assert isinstance(system, SystemContent) and system.effort is case.effort
        result = judge(case, case.problem.answer, (), 5)
        assert result.score == 1.0 and result.tool_use is None


def test_wilson_interval() -> None:
    low, high = Share(95, 100).wilson()
    assert low == pytest.approx(0.8882, abs=1e-3) and high == pytest.approx(0.9785, abs=1e-3)
    assert Share(0, 0).wilson() == (0.0, 1.0)
    assert Share(10, 10).wilson()[1] == pytest.approx(1.0)
    assert str(Share(1, 2)).startswith("50.0% (1/2")
