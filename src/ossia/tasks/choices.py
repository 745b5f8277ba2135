"""Questions with four choices to tick, as benchmarks of knowledge ask them: how they are set out
and answered.

Knows messages' texts, no particular facts. The answer is graded by its letter or by its text.
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
        return "\n".join(
            [
                self.question,
                *(f"{letter}) {text}" for letter, text in zip(LETTERS, self.choices, strict=False)),
            ]
        )

    @property
    def letter(self) -> str:
        return LETTERS[self.choices.index(self.right)]

    @property
    def answer(self) -> str:
        return f"{self.letter}) {self.right}"


def draw_choice(rng: Random, question: str, right: str, wrong: Sequence[str]) -> Choice:
    """`right` among `wrong`, at any place. All must differ."""
    choices = [*wrong]
    choices.insert(int(rng.random() * (len(wrong) + 1)), right)
    assert len(set(choices)) == len(choices)
    return Choice(question, tuple(choices), right)


def choice_problem(task: str, split: Split, choice: Choice, reason: str) -> Problem:
    """`reason` is the sentence that tells why: the analysis at medium effort."""
    turn = Turn(choice.prompt, choice.answer, partial(choice_thoughts, choice, reason))
    return Problem(task, split, (turn,), Expect(contains=choice.right, choices=choice.choices))


def choice_thoughts(choice: Choice, reason: str, effort: Effort) -> str:
    if effort is Effort.LOW:
        return choice.letter
    return reason if effort is Effort.MEDIUM else f"{reason} That is {choice.letter}."
