"""Gold conversations to fine-tune on: a share of the lesson's own, the others what the embedded
model learned before, so that it does not forget it.

Knows tasks, ordinary conversations and the Harmony format; no models. Example i is a function of
(seed, i).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from ossia.data.conversations import conversation, draw_system
from ossia.data.packing import Example, State
from ossia.harmony import Conversation, Effort, render_for_training
from ossia.tasks import Problem, example_random
from ossia.tokenizer import Tokenizer

Draw = Callable[[Random], Problem]


@dataclass(frozen=True)
class Lesson:
    """`draw`: a problem to learn from. `share`: of the examples; the others are ordinary."""

    name: str
    draw: Draw
    share: float = 0.5


def of_problem(rng: Random, problem: Problem) -> Conversation:
    """The problem and its solution, after a system message as any conversation has."""
    system = draw_system(rng)
    effort = Effort(system.effort) if system is not None and system.effort else Effort.MEDIUM
    return Conversation((*problem.prompt(effort, system), *problem.solution(effort)))


def example(lesson: Lesson, seed: int, index: int) -> Conversation:
    rng = example_random(seed, f"lesson {lesson.name}", index)
    if rng.random() < lesson.share:
        return of_problem(rng, lesson.draw(rng))
    return conversation(seed, "train", index)


def examples(
    lesson: Lesson, tokenizer: Tokenizer, seed: int, state: State
) -> Iterator[tuple[Example, State]]:
    """Endless, for `train.run.ExamplesFrom`. Learned is the last turn."""
    index = state or 0
    while True:
        made = example(lesson, seed, index)
        rendered = render_for_training(made, tokenizer, last_turn_only=True)
        index += 1
        yield Example(rendered.ids, rendered.mask), index
