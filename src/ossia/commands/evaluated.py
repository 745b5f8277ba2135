"""What an evaluation came to, as `ossia eval` prints it: tables, or one JSON object.

Knows records and reports; asks nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ossia.evals.plot import Line
    from ossia.evals.questions import Trial
    from ossia.evals.results import Header, Record
    from ossia.tasks.evals import Report

SAFETY = "safety"


@dataclass(frozen=True)
class Shown:
    """How it is shown. `failures`: so many wrong answers; `card`: the model card's row in a plot,
    None for the suite's.
    """

    json: bool = False
    failures: int | None = None
    plot: Path | None = None
    card: str | None = None

    def suite(self, header: Header, records: Sequence[Record], missing: Mapping[str, int]) -> None:
        """`missing`: verdicts that a judge did not give, by cause."""
        from ossia.evals import report

        if self.plot:
            self._draw([(header, records)])
        if self.json:
            found = _as_json(header, records)
            print(json.dumps(found | {"judge_missing": dict(missing)}, indent=2))
            return
        print(report.table(records))
        for text in (_groups(header, records), report.not_read(records)):
            if text:
                print(f"\n{text}")
        for why, count in missing.items():
            print(f"\n{count} times the judge gave no verdict: {why}.")
        for why, count in header.left_out.items():
            print(f"\n{count} questions were left out: {why}.")
        if self.failures:
            print(f"\n{report.failures(records, self.failures)}")

    def files(self, paths: Sequence[Path]) -> None:
        """What is in files of answers, and how the others differ from the first."""
        from ossia.evals import report
        from ossia.evals.results import read_results

        runs = [read_results(path) for path in paths]
        if self.plot:
            self._draw(runs, paths)
        if self.json:
            print(json.dumps([_as_json(*one) for one in runs], indent=2))
            return
        for path, (header, records) in zip(paths, runs, strict=True):
            print(f"{path}: {header.suite}, {header.model}\n")
            print(f"{report.table(records)}\n")
            if header.suite == SAFETY:
                print(f"{_groups(header, records)}\n")
            if self.failures:
                print(f"{report.failures(records, self.failures)}\n")
        for path, (_, records) in list(zip(paths, runs, strict=True))[1:]:
            names = (str(paths[0]), str(path))
            print(report.compared(names, runs[0][1], records))

    def tasks(
        self, trials: Sequence[Trial], records: Sequence[Record], max_tokens: int | None
    ) -> None:
        """Of the package's own tasks."""
        report = _task_report(trials, records)
        cut = sum(record.reason == "length" for record in records)
        if self.json:
            _print_json(report, cut)
            return
        print(report)
        if cut:
            limit = f"{max_tokens} tokens (--max-tokens)"
            print(f"\n{cut} of {len(records)} answers were cut after {limit}.")
        if self.failures:
            print(f"\n{report.failures(self.failures)}")

    def _draw(
        self, runs: Sequence[tuple[Header, Sequence[Record]]], paths: Sequence[Path] = ()
    ) -> None:
        from ossia.evals.card import SCORES
        from ossia.evals.plot import draw

        assert self.plot is not None
        first = runs[0][0]
        row = self.card or (first.suite if first.suite in SCORES else "")
        names = [header.model for header, _ in runs]
        if len(set(names)) < len(names):
            names = [path.stem for path in paths]
        lines: list[Line] = []
        for name, (header, records) in zip(names, runs, strict=True):
            lines += _lines(name, header, records)
        draw(row or first.suite, lines, self.plot, row)
        print(f"the plot is in {self.plot}", file=sys.stderr)


def _lines(name: str, header: Header, records: Sequence[Record]) -> list[Line]:
    """Of safety both sides: one number would hide that a model refuses everything."""
    from ossia.evals import safety_report
    from ossia.evals.plot import Line

    if header.suite != SAFETY:
        return [Line.of(name, records)]
    found = safety_report.drawn(records)
    return [Line.of(f"{name}: {measure}", records, row) for measure, row in found.items()]


def _as_json(header: Header, records: Sequence[Record]) -> dict[str, Any]:
    from ossia.evals import report, safety_report

    found = report.as_json(header, records)
    if header.suite == SAFETY:
        found["safety"] = safety_report.as_json(records)
    return found


def _groups(header: Header, records: Sequence[Record]) -> str:
    from ossia.evals import report, safety_report

    if header.suite == SAFETY:
        return f"{safety_report.table(records)}\n\n{safety_report.groups_table(records)}"
    return report.groups_table(records)


def _task_report(trials: Sequence[Trial], records: Sequence[Record]) -> Report:
    from ossia.tasks.evals import Case, Report, judge
    from ossia.tasks.problem import Call

    results = []
    for trial, record in zip(trials, records, strict=True):
        problem = trial.question.problem
        assert problem is not None
        case = Case(problem, trial.effort, trial.question.conversation(trial.effort))
        calls = [Call(**call) for call in record.calls]
        results.append(judge(case, record.final, calls, record.tokens))
    return Report(tuple(results))


def _print_json(report: Report, cut: int) -> None:
    rows = []
    for task in (*report.tasks, None):
        for effort in report.efforts:
            share = report.accuracy(task, effort)
            row = {
                "task": task or "all",
                "effort": effort,
                "right": share.right,
                "asked": share.total,
                "wilson_95": share.wilson(),
                "mean_tokens": report.tokens(effort, task),
            }
            rows.append(row)
    uses = {effort: report.tool_use(effort) for effort in report.efforts}
    calls = {effort: {"right": share.right, "asked": share.total} for effort, share in uses.items()}
    print(json.dumps({"accuracy": rows, "tool_use": calls, "cut": cut}, indent=2))
