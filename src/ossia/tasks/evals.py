"""Run tasks on a model and report: accuracy by task and effort with intervals, tokens by effort,
tool calls that work.

Knows tasks and messages. Knows no model: it is handed `respond`, which answers one prompt. A caller
that answers many prompts at once uses the pieces instead: `cases`, then `judge` for each answer,
then `Report`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import mean

from ossia.figures import Share as Share
from ossia.figures import markdown_table
from ossia.harmony import Conversation, Effort, SystemContent
from ossia.tasks.problem import Call, Problem, Tool, call_is_right, grade

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
    """What came back for a case. `tool_use` is None where no call was wanted."""

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
        return sorted({result.case.effort for result in self.results}, key=list(Effort).index)

    def accuracy(self, task: str | None = None, effort: Effort | None = None) -> Share:
        """Right answers of a task at an effort; None stands for all of them."""
        scores = [result.score == 1.0 for result in self._chosen(task, effort)]
        return Share(sum(scores), len(scores))

    def tool_use(self, effort: Effort | None = None) -> Share:
        """Calls whose JSON parses, fits the schema and asks the right thing, with a final text that
        uses the result.
        """
        used = [
            result.tool_use for result in self._chosen(None, effort) if result.tool_use is not None
        ]
        return Share(sum(used), len(used))

    def tokens(self, effort: Effort, task: str | None = None) -> float:
        """Mean number of generated tokens."""
        counts = [result.tokens for result in self._chosen(task, effort)]
        return mean(counts) if counts else 0.0

    def failures(self, count: int = 10) -> str:
        """The first `count` wrong answers, one per line, for reading."""
        wrong = (result for result in self.results if result.score < 1.0)
        return "\n".join(
            [_failure_line(result) for result, _ in zip(wrong, range(count), strict=False)]
        )

    def _chosen(self, task: str | None, effort: Effort | None) -> Iterator[Result]:
        for result in self.results:
            if task in (None, result.task) and effort in (None, result.case.effort):
                yield result

    def __str__(self) -> str:
        efforts = self.efforts
        head = ["task", *map(str, efforts)]
        rows = [
            [task, *[str(self.accuracy(task, effort)) for effort in efforts]] for task in self.tasks
        ]
        rows.append(["all", *[str(self.accuracy(None, effort)) for effort in efforts]])
        if self.tool_use().total:
            rows.append([TOOL_ROW, *[str(self.tool_use(effort)) for effort in efforts]])
        rows.append(["mean tokens", *[f"{self.tokens(effort):.1f}" for effort in efforts]])
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
        results.append(judge(case, *respond(case.prompt, case.problem.tools, case.effort)))
    return Report(tuple(results))


def cases(
    problems: Iterable[Problem], efforts: Sequence[Effort], today: date | None = None
) -> Iterator[Case]:
    """Every problem at every effort, with the system message that asks for that effort."""
    for problem in problems:
        for effort in efforts:
            system = SystemContent(current_date=today.isoformat() if today else None, effort=effort)
            yield Case(problem, effort, Conversation(problem.prompt(effort, system)))


def judge(case: Case, final_text: str, calls: Sequence[Call], tokens: int) -> Result:
    """Grade one answer. The analysis is not looked at."""
    score = grade(case.problem, final_text, calls)
    wants_call = case.problem.expect.calls
    tool_use = call_is_right(case.problem, calls) and score == 1.0 if wants_call else None
    return Result(case, final_text, tuple(calls), tokens, score, tool_use)


def _failure_line(result: Result) -> str:
    user = result.case.problem.turns[-1].user
    calls = "".join(f" called {call.name}({call.arguments})" for call in result.calls)
    found = f"{user!r}{calls} -> {result.final_text!r}, not {result.case.problem.answer!r}"
    return f"{result.task} {result.case.effort}: {found}"
