"""Questions with four choices to tick, as benchmarks of knowledge ask them.

Knows the texts of messages, no particular facts. The answer is graded by its letter or by its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from ossia.harmony import Effort
from ossia.tasks.problem import Expect, Problem, Split, Turn

LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Choice:
    """A question, its choices in their order, and the right one of them."""

    question: str
    choices: tuple[str, ...]
    right: str

    @property
    def prompt(self) -> str:
        lines = [self.question]
        for letter, text in zip(LETTERS, self.choices, strict=False):
            lines.append(f"{letter}) {text}")
        return "\n".join(lines)

    @property
    def letter(self) -> str:
        place = self.choices.index(self.right)
        return LETTERS[place]

    @property
    def answer(self) -> str:
        return f"{self.letter}) {self.right}"


def draw_choice(rng: Random, question: str, right: str, wrong: Sequence[str]) -> Choice:
    """`right` among `wrong`, at any place. All must differ."""
    choices = [*wrong]
    place = int(rng.random() * (len(wrong) + 1))
    choices.insert(place, right)
    assert len(set(choices)) == len(choices)
    return Choice(question, tuple(choices), right)


def choice_problem(task: str, split: Split, choice: Choice, reason: str) -> Problem:
    """`reason` is the sentence that tells why: the analysis at medium effort."""
    think = partial(choice_thoughts, choice, reason)
    turn = Turn(choice.prompt, choice.answer, think)
    expect = Expect(contains=choice.right, choices=choice.choices)
    return Problem(task, split, (turn,), expect)


def choice_thoughts(choice: Choice, reason: str, effort: Effort) -> str:
    letter = choice.letter
    match effort:
        case Effort.LOW:
            return letter
        case Effort.MEDIUM:
            return reason
        case Effort.HIGH:
            return f"{reason} That is {letter}."
