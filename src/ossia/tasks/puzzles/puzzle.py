"""What a puzzle is: a question with one exact answer and its working at three grains, and a form
that draws them.

Knows problems and how questions are worded; nothing of any particular form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from ossia.harmony import Effort
from ossia.tasks.problem import Expect
from ossia.tasks.words import Words

WORDS = Words("puzzles")


@dataclass(frozen=True)
class Asked:
    """How a puzzle is asked for; `mark` is how the sentence ends: ? or `.`."""

    question: str
    mark: str


@dataclass(frozen=True)
class Puzzle:
    """A question and its gold answer.

    `steps` are what medium effort writes, in one line; `lines` are what high effort writes, one
    below the other, before the line that checks the result another way. Low effort writes the
    answer alone.
    """

    asked: Asked
    final: str
    expect: Expect
    steps: tuple[str, ...]
    lines: tuple[str, ...]
    check: str

    def working(self, effort: Effort) -> str:
        """The analysis."""
        match effort:
            case Effort.LOW:
                return self.final
            case Effort.MEDIUM:
                return ", ".join(self.steps)
            case Effort.HIGH:
                return "\n".join((*self.lines, f"check {self.check}"))


@dataclass(frozen=True)
class Form:
    """A kind of puzzle. `draw` chooses (what decides the split, the essential content), `build`
    puts it into words.
    """

    draw: Callable[[Random], tuple[str, Any]]
    build: Callable[[Random, Any], Puzzle]


def asked(rng: Random, form: str, **names: object) -> Asked:
    """A question or an order of the form, filled in."""
    words = WORDS.table(form)
    questions = words["questions"]
    orders = words["orders"]
    if rng.random() * (len(questions) + len(orders)) < len(questions):
        return Asked(rng.choice(questions).format(**names), "?")
    return Asked(rng.choice(orders).format(**names), ".")
