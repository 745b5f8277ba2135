"""Run tasks on a model and report: accuracy by task and effort with intervals, tokens by effort,
tool calls that work.

Knows tasks and messages. Does not know models: it is given `respond`, which answers one prompt. A
caller that answers many prompts at once uses the pieces instead: `cases`, then `judge` for each
answer, then `Report`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import mean

from ossia.figures import Share as Share
from ossia.figures import markdown_table
from ossia.harmony import Conversation, Effort, SystemContent
from ossia.tasks.problem import Call, Problem, call_is_right, grade
from ossia.tools.protocol import Tool

# (conversation prompt, offered tools, effort) -> (final text, tool calls of this turn, tokens
# generated)
Respond = Callable[[Conversation, tuple[Tool, ...], Effort], tuple[str, Sequence[Call], int]]
TOOL_ROW = "tool calls that parse and use the result"


@dataclass(frozen=True)
class Case:
    """One problem asked at one effort."""

    problem: Problem
    effort: Effort
    prompt: Conversation


@dataclass(frozen=True)
class Result:
    """The answer to a case, graded. `tool_use` is None where no call was wanted."""

    case: Case
    final_text: str
    calls: tuple[Call, ...]
    tokens: int
    score: float
    tool_use: bool | None

    @property
    def task(self) -> str:
        return self.case.problem.task


@dataclass(frozen=True)
class Report:
    """The results of a run and their summary; `str(report)` is a Markdown table."""

    results: tuple[Result, ...]

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(result.task for result in self.results))

    @property
    def efforts(self) -> list[Effort]:
        found = {result.case.effort for result in self.results}
        return [effort for effort in Effort if effort in found]

    def accuracy(self, task: str | None = None, effort: Effort | None = None) -> Share:
        """Right answers of a task at an effort; None stands for all of them."""
        scores = [result.score == 1.0 for result in self._chosen(task, effort)]
        return Share(sum(scores), len(scores))

    def tool_use(self, effort: Effort | None = None) -> Share:
        """Calls whose JSON parses, fits the schema and asks the right thing, and whose result the
        final text uses.
        """
        used = []
        for result in self._chosen(None, effort):
            if result.tool_use is not None:
                used.append(result.tool_use)
        return Share(sum(used), len(used))

    def tokens(self, effort: Effort, task: str | None = None) -> float:
        """Mean number of generated tokens."""
        counts = [result.tokens for result in self._chosen(task, effort)]
        if not counts:
            return 0.0
        return mean(counts)

    def failures(self, count: int = 10) -> str:
        """The first `count` wrong answers, one per line, for reading."""
        wrong = [result for result in self.results if result.score < 1.0]
        lines = [_failure_line(result) for result in wrong[:count]]
        return "\n".join(lines)

    def _chosen(self, task: str | None, effort: Effort | None) -> Iterator[Result]:
        for result in self.results:
            if task is not None and task != result.task:
                continue
            if effort is not None and effort != result.case.effort:
                continue
            yield result

    def __str__(self) -> str:
        efforts = self.efforts
        rows = []
        for task in self.tasks:
            rows.append([task, *[str(self.accuracy(task, effort)) for effort in efforts]])
        rows.append(["all", *[str(self.accuracy(None, effort)) for effort in efforts]])
        if self.tool_use().total:
            rows.append([TOOL_ROW, *[str(self.tool_use(effort)) for effort in efforts]])
        rows.append(["mean tokens", *[f"{self.tokens(effort):.1f}" for effort in efforts]])
        head = ["task", *map(str, efforts)]
        return markdown_table(head, rows)


def run(
    problems: Iterable[Problem],
    respond: Respond,
    efforts: Sequence[Effort] = tuple(Effort),
    today: date | None = None,
) -> Report:
    """Ask every problem at every effort, one after the other, and grade the answers."""
    results = []
    for case in cases(problems, efforts, today):
        final_text, calls, tokens = respond(case.prompt, case.problem.offered, case.effort)
        result = judge(case, final_text, calls, tokens)
        results.append(result)
    return Report(tuple(results))


def cases(
    problems: Iterable[Problem], efforts: Sequence[Effort], today: date | None = None
) -> Iterator[Case]:
    """Every problem at every effort, with the system message that asks for that effort."""
    date_text = today.isoformat() if today else None
    for problem in problems:
        for effort in efforts:
            system = SystemContent(current_date=date_text, effort=effort)
            prompt = Conversation(problem.prompt(effort, system))
            yield Case(problem, effort, prompt)


def judge(case: Case, final_text: str, calls: Sequence[Call], tokens: int) -> Result:
    """Grade one answer. The analysis is not looked at."""
    problem = case.problem
    score = grade(problem, final_text, calls)
    tool_use = None
    if problem.expect.calls:
        tool_use = score == 1.0 and call_is_right(problem, calls)
    return Result(case, final_text, tuple(calls), tokens, score, tool_use)


def _failure_line(result: Result) -> str:
    problem = result.case.problem
    user = problem.turns[-1].user
    calls = [f" called {call.name}({call.arguments})" for call in result.calls]
    asked = f"{user!r}{''.join(calls)}"
    found = f"{asked} -> {result.final_text!r}, not {problem.answer!r}"
    return f"{result.task} {result.case.effort}: {found}"
