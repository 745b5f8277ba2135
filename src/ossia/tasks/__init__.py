"""Verifiable tasks of the little world: problems with prompts, gold solutions at three efforts, and
grading.

`TASKS` maps a task's name to its generator `(rng, split) -> Problem`. Evals and RL use the same
problems and `grade`. `RECIPE_TASKS` are those of the full recipe, `RECIPE_TEXTS` its generators of
documents to read, `(rng) -> str`, all of the training split. `EVAL_TASKS` may only be asked with
the held-out split. `WORLD_TASKS`, `HAZARD_TASKS` and `NEEDLE_TASKS` are about the fictional
country, the fictional hazard, and long texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from ossia.tasks.long.needles import NEEDLE_TASKS
from ossia.tasks.long.state import state_text, state_tracking
from ossia.tasks.machine.programs import machine_text, program_tracing
from ossia.tasks.machine.tool_use import tool_use, tools_text
from ossia.tasks.numbers.arithmetic import arithmetic_question
from ossia.tasks.numbers.calculator import CALCULATOR, calculate, calculator_use
from ossia.tasks.numbers.followups import follow_up
from ossia.tasks.numbers.stories import word_problem
from ossia.tasks.problem import Call, Expect, Problem, Split, Tool, Turn, example_random, grade
from ossia.tasks.puzzles.all import puzzle_question, puzzle_text
from ossia.tasks.safety.hazard import HAZARD_TASKS
from ossia.tasks.safety.hierarchy import hierarchy_question
from ossia.tasks.safety.policy import policy_jailbreak, policy_question
from ossia.tasks.safety.scope import out_of_scope
from ossia.tasks.world.facts import facts_given
from ossia.tasks.world.questions import WORLD_TASKS

TASKS: Mapping[str, Callable[[Random, Split], Problem]] = {
    "arithmetic": arithmetic_question,
    "word problems": word_problem,
    "facts": facts_given,
    "multi-turn": follow_up,
    "calculator": calculator_use,
    "scope": out_of_scope,
}
RECIPE_TASKS: Mapping[str, Callable[[Random, Split], Problem]] = {
    "puzzles": puzzle_question,
    "state": state_tracking,
    "machine": program_tracing,
    "tools": tool_use,
    "policy": policy_question,
    "hierarchy": hierarchy_question,
}
EVAL_TASKS: Mapping[str, Callable[[Random, Split], Problem]] = {
    "policy jailbreak": policy_jailbreak
}
RECIPE_TEXTS: Mapping[str, Callable[[Random], str]] = {
    "puzzles": puzzle_text,
    "state": state_text,
    "machine": machine_text,
    "tools": tools_text,
}
_ALL = {**TASKS, **RECIPE_TASKS, **EVAL_TASKS, **WORLD_TASKS, **HAZARD_TASKS, **NEEDLE_TASKS}


def problems(
    task: str, count: int, seed: int = 0, split: Split = "held_out", start: int = 0
) -> list[Problem]:
    """Problems `start`..`start + count - 1` of a task. Raises KeyError for an unknown task."""
    make = _ALL[task]
    return [
        make(example_random(seed, f"{task}:{split}", i), split) for i in range(start, start + count)
    ]


__all__ = [
    "CALCULATOR", "EVAL_TASKS", "HAZARD_TASKS", "NEEDLE_TASKS", "RECIPE_TASKS", "RECIPE_TEXTS",
    "TASKS", "WORLD_TASKS", "Call", "Expect", "Problem", "Split", "Tool", "Turn", "calculate",
    "example_random", "grade", "problems",
]  # fmt: skip
