"""Verifiable tasks of the little world: problems with prompts, gold solutions at three efforts, and grading.

`TASKS` maps a task's name to its generator `(rng, split) -> Problem`. Evals and RL use the same problems
and `grade`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from ossia.tasks.arithmetic import arithmetic_question
from ossia.tasks.calculator import CALCULATOR, calculate, calculator_use
from ossia.tasks.facts import facts_given
from ossia.tasks.followups import follow_up
from ossia.tasks.problem import Call, Expect, Problem, Split, Tool, Turn, example_random, grade
from ossia.tasks.scope import out_of_scope
from ossia.tasks.stories import word_problem

TASKS: Mapping[str, Callable[[Random, Split], Problem]] = {
    "arithmetic": arithmetic_question,
    "word problems": word_problem,
    "facts": facts_given,
    "multi-turn": follow_up,
    "calculator": calculator_use,
    "scope": out_of_scope,
}


def problems(task: str, count: int, seed: int = 0, split: Split = "held_out", start: int = 0) -> list[Problem]:
    """Problems `start`..`start + count - 1` of a task. Raises KeyError for an unknown task."""
    make = TASKS[task]
    return [make(example_random(seed, f"{task}:{split}", i), split) for i in range(start, start + count)]


__all__ = [
    "CALCULATOR", "TASKS", "Call", "Expect", "Problem", "Split", "Tool", "Turn", "calculate",
    "example_random", "grade", "problems",
]  # fmt: skip
