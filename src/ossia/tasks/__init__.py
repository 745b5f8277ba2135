"""Verifiable tasks of the little world: problems with prompts, gold solutions at three efforts, and
grading.

`REGISTRY` has a row for every task; `of_kind` chooses among them. A generator is
`(rng, split) -> Problem`. Evals and RL use the same problems and `grade`. `TASKS` are those that
nano learns.
"""

from __future__ import annotations

from ossia.tasks.numbers.calculator import CALCULATOR, calculate
from ossia.tasks.problem import Call, Expect, Problem, Split, Tool, Turn, example_random, grade
from ossia.tasks.registry import REGISTRY, Task, of_kind, problems

TASKS = of_kind("nano")

__all__ = [
    "CALCULATOR",
    "REGISTRY",
    "TASKS",
    "Call",
    "Expect",
    "Problem",
    "Split",
    "Task",
    "Tool",
    "Turn",
    "calculate",
    "example_random",
    "grade",
    "of_kind",
    "problems",
]
