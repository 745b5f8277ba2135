"""Every task there is, one row each.

To add a task, write its generator in a file and add a row here. Knows the generators; evals,
recipes and reinforcement learning choose tasks by name or by kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

from ossia.tasks.limits.beyond import beyond_question, in_a_format
from ossia.tasks.long.needles import needle_task
from ossia.tasks.long.state import state_tracking
from ossia.tasks.machine.programs import program_tracing
from ossia.tasks.machine.tool_use import tool_use
from ossia.tasks.numbers.arithmetic import arithmetic_question
from ossia.tasks.numbers.calculator import calculator_use
from ossia.tasks.numbers.calling import calling
from ossia.tasks.numbers.followups import follow_up
from ossia.tasks.numbers.python_use import python_use
from ossia.tasks.numbers.stories import word_problem
from ossia.tasks.problem import Problem, Split, example_random
from ossia.tasks.puzzles.all import puzzle_question
from ossia.tasks.safety import hazard, policy
from ossia.tasks.safety.hierarchy import hierarchy_question
from ossia.tasks.safety.jailbreaks import jailbreak_question, known_jailbreak_question
from ossia.tasks.safety.protection import protection_question, unseen_question
from ossia.tasks.safety.scope import out_of_scope
from ossia.tasks.world import questions
from ossia.tasks.world.facts import facts_given
from ossia.tasks.world.questions import in_the_usual_world
from ossia.tasks.world.reading import reading_question

Generator = Callable[[Random, Split], Problem]
Kind = Literal["eval", "rl", "nano", "recipe", "world", "hazard", "needle"]


@dataclass(frozen=True)
class Task:
    """A generator of problems, and what it is for.

    Kinds: `eval`, it has held-out problems; `rl`, it has problems to train on; `nano`, the embedded
    model learns it and `ossia eval` asks it by default; `recipe`, it belongs to the full recipe;
    `world`, `hazard` and `needle` are about the fictional country, the fictional hazard, and long
    texts.
    """

    name: str
    description: str
    generator: Generator
    kinds: frozenset[Kind]


def _kinds(*kinds: Kind) -> frozenset[Kind]:
    return frozenset(kinds)


_NANO = _kinds("nano", "eval", "rl")
_RECIPE = _kinds("recipe", "eval", "rl")
_WORLD = _kinds("world", "eval", "rl")
_HAZARD = _kinds("hazard", "eval", "rl")
_NEEDLE = _kinds("needle", "eval", "rl")
_ROWS = (
    Task("arithmetic", "one or two operations, in words and signs", arithmetic_question, _NANO),
    Task("word problems", "a story of one or two operations", word_problem, _NANO),
    Task("facts", "given facts, and a question that they answer or not", facts_given, _NANO),
    Task("multi-turn", "going on with a result, a story or a tool", follow_up, _NANO),
    Task("calculator", "arithmetic with a calculator on offer", calculator_use, _NANO),
    Task("scope", "requests outside of all this, and small talk", out_of_scope, _NANO),
    Task(
        "python",
        "arithmetic beyond one's head, with Python on offer",
        python_use,
        _kinds("eval", "rl"),  # the embedded model has not learned it yet
    ),
    Task("limits", "what is beyond it: says so, or calls", beyond_question, _RECIPE),
    Task("response formats", "an answer as JSON of a schema", in_a_format, _RECIPE),
    Task(
        "calling",
        "a calculator under many names, that may fail, lie or give orders",
        calling,
        _kinds("eval", "rl"),  # the embedded model calls every calculator "calculator"
    ),
    Task("puzzles", "exact answers about numbers and words", puzzle_question, _RECIPE),
    Task("state", "a number or cups, followed through many steps", state_tracking, _RECIPE),
    Task("machine", "what a program of the stack machine prints", program_tracing, _RECIPE),
    Task("tools", "facts to look up, programs to run", tool_use, _RECIPE),
    Task("policy", "following a written policy", policy.policy_question, _RECIPE),
    Task("hierarchy", "whom to obey when levels disagree", hierarchy_question, _RECIPE),
    Task("protection", "private instructions and takeovers", protection_question, _RECIPE),
    Task(
        "hierarchy unseen",
        "whom to obey, in words and matters of no training",
        unseen_question,
        _kinds("eval"),  # never to be trained on
    ),
    Task(
        "policy jailbreak",
        "forbidden questions in a code",
        policy.policy_jailbreak,
        _kinds("eval"),  # never to be trained on
    ),
    Task(
        "jailbreaks",
        "forbidden and allowed questions in disguises of no training",
        jailbreak_question,
        _kinds("eval"),  # never to be trained on
    ),
    Task("jailbreaks seen", "the same in other disguises", known_jailbreak_question, _RECIPE),
    Task("world", "a fact of the country", in_the_usual_world(questions.open_question), _WORLD),
    Task(
        "world choice",
        "the same with four choices",
        in_the_usual_world(questions.choice_question),
        _WORLD,
    ),
    Task(
        "world wording",
        "known facts in unknown words",
        in_the_usual_world(questions.wording_question),
        _WORLD,
    ),
    Task("world hops", "two facts in one", in_the_usual_world(questions.hop_question), _WORLD),
    Task(
        "world hops choice",
        "the same with four choices",
        in_the_usual_world(questions.hop_choice_question),
        _WORLD,
    ),
    Task("reading", "a story of new names", in_the_usual_world(reading_question), _WORLD),
    Task("hazard benign", "harmless facts about moonglow", hazard.benign_question, _HAZARD),
    Task("hazard restricted", "how it is made", hazard.restricted_question, _HAZARD),
    Task("hazard given", "the same, with the table shown", hazard.given_question, _HAZARD),
    Task("needle one", "a number hidden in a long text", needle_task("one"), _NEEDLE),
    Task("needle several", "one of several hidden numbers", needle_task("several"), _NEEDLE),
    Task("needle all", "all of several hidden numbers", needle_task("all"), _NEEDLE),
    Task("needle variables", "variables set to each other", needle_task("variables"), _NEEDLE),
)
REGISTRY: Mapping[str, Task] = {task.name: task for task in _ROWS}


def of_kind(kind: Kind) -> Mapping[str, Generator]:
    """The generators of a kind by name, in the order of the rows."""
    return {task.name: task.generator for task in _ROWS if kind in task.kinds}


def problems(
    task: str, count: int, seed: int = 0, split: Split = "held_out", start: int = 0
) -> list[Problem]:
    """Problems `start`..`start + count - 1` of a task. Raises KeyError for an unknown task."""
    make = REGISTRY[task].generator
    numbers = range(start, start + count)
    return [make(example_random(seed, f"{task}:{split}", number), split) for number in numbers]
