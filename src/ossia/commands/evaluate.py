"""`ossia eval`: problems of ossia's tasks, answered by a model and graded.

Which tasks there are is for `ossia.tasks` to say; how many conversations are answered at once, for
`commands/respond.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ossia.commands.options import Command, Computing, EffortWord, Positive, Sampling, model, option
from ossia.errors import RequestError

if TYPE_CHECKING:
    from ossia.tasks.evals import Report

EPILOG = """\
examples:
  ossia eval nano                                          nano's tasks at every effort
  ossia eval nano --task arithmetic --effort high --samples 500 --failures 10

A cell is the share of right answers (right/asked, 95% Wilson interval). An answer that --max-tokens
cuts is graded as it stands, and how many were cut is said below the table.
"""


@dataclass(frozen=True)
class Options:
    """What `ossia eval` takes."""

    model: str = model()
    samples: Positive = option(50, "problems a task", "N")
    task: tuple[str, ...] = option(
        (),
        "such as arithmetic or 'world hops'; repeatable; an unknown one lists them all",
        "TASK",
        shown="the six of nano",
    )
    effort: tuple[EffortWord, ...] = option((), "repeatable", shown="all three")
    problem_seed: int = option(0, "which problems are drawn", "N")
    failures: Positive | None = option(None, "also print the first N wrong answers", "N")
    json: bool = option(False, "print one JSON object instead of a table")
    computing: Computing = Computing()
    sampling: Sampling = Sampling(max_tokens=512)


def run(options: Options) -> None:
    from ossia.tasks import problems

    tasks = _tasks(options.task)
    llm = options.computing.load_model(options.model)
    from ossia.commands import respond
    from ossia.commands.display import progress
    from ossia.harmony import Effort
    from ossia.tasks.evals import cases

    efforts = [effort for effort in Effort if not options.effort or effort in options.effort]
    drawn = [p for task in tasks for p in problems(task, options.samples, options.problem_seed)]
    asked = list(cases(drawn, efforts))
    params = llm.params(**options.sampling.given())
    with progress("answering", "answers") as tell:
        report, cut = respond.evaluate(llm, asked, params, progress=tell)
    if options.json:
        _print_json(report, cut)
        return
    print(report)
    if cut:
        limit = f"{options.sampling.max_tokens} tokens (--max-tokens)"
        print(f"\n{cut} of {len(asked)} answers were cut after {limit}.")
    if options.failures:
        print(f"\n{report.failures(options.failures)}")


def _tasks(named: tuple[str, ...]) -> list[str]:
    """The tasks named, each once, or those of nano. Raises `RequestError` for an unknown one."""
    from ossia.tasks import REGISTRY, TASKS

    if unknown := set(named) - set(REGISTRY):
        raise RequestError(f"there is no task {min(unknown)!r}; there are {', '.join(REGISTRY)}")
    return list(dict.fromkeys(named or TASKS))


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


COMMAND = Command(Options, run, EPILOG)
