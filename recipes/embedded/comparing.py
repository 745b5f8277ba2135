"""Two models on the same held-out problems: what each has right, by task and effort, and the paired
difference.

Knows checkpoints and tasks; trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ossia.commands.respond import evaluate
from ossia.evals.answers import Mark, right_or_wrong
from ossia.evals.stats import difference
from ossia.figures import markdown_table
from ossia.harmony import Effort
from ossia.llm import load
from ossia.tasks import problems
from ossia.tasks.evals import Report, cases

MOST = 512  # tokens of an answer


def answered(model: Path, tasks: Sequence[str], samples: int) -> tuple[Report, str]:
    """The report on held-out problems at three efforts, and how many answers were cut."""
    held_out = [one for task in tasks for one in problems(task, samples)]
    asked = list(cases(held_out, tuple(Effort)))
    llm = load(model)
    report, cut = evaluate(llm, asked, llm.params(max_tokens=MOST))
    return report, f"{len(asked)} answers, {cut} cut short at {MOST} tokens"


def compared(before: Report, after: Report) -> str:
    """A row for each task: points that the second has more, with a 95% interval, by effort. Both
    must have answered the same cases.
    """
    rows = []
    for task in before.tasks:
        cells = [_more(before, after, task, effort) for effort in before.efforts]
        rows.append([task, *cells])
    return markdown_table(["task", *map(str, before.efforts)], rows)


def _more(before: Report, after: Report, task: str, effort: Effort) -> str:
    found = difference(_marks(before, task, effort), _marks(after, task, effort))
    assert found is not None, task
    low, high = found.interval
    text = f"{100 * found.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"**{text}**" if found.is_clear else text


def _marks(report: Report, task: str, effort: Effort) -> Mapping[str, Sequence[Mark]]:
    chosen = [r for r in report.results if r.task == task and r.case.effort is effort]
    return {str(n): [right_or_wrong(r.score == 1.0)] for n, r in enumerate(chosen)}
