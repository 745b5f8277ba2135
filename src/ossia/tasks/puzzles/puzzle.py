"""What a puzzle is: a question with one exact answer and its working at three grains, and a form
that draws them.

Knows problems; nothing of any particular form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from ossia.harmony import Effort
from ossia.tasks.problem import Expect


@dataclass(frozen=True)
class Puzzle:
    """A question and its gold answer.

    `steps` are what medium effort writes, in one line; `lines` are what high effort writes, one
    below the other, before the line that checks the result another way. Low effort writes the
    answer alone.
    """

    question: str
    mark: str  # how the question ends: ? or .
    final: str
    expect: Expect
    steps: tuple[str, ...]
    lines: tuple[str, ...]
    check: str

    def working(self, effort: Effort) -> str:
        """The analysis."""
        if effort is Effort.LOW:
            return self.final
        if effort is Effort.MEDIUM:
            return ", ".join(self.steps)
        return "\n".join((*self.lines, f"check {self.check}"))


@dataclass(frozen=True)
class Form:
    """A kind of puzzle. `draw` chooses (what decides the split, the essential content), `build`
    puts it into words.
    """

    draw: Callable[[Random], tuple[str, Any]]
    build: Callable[[Random, Any], Puzzle]


def asked(
    rng: Random, questions: tuple[str, ...], orders: tuple[str, ...], **names: object
) -> tuple[str, str]:
    """(a sentence that asks, its mark): a question or an order, filled in."""
    if rng.random() * (len(questions) + len(orders)) < len(questions):
        return rng.choice(questions).format(**names), "?"
    return rng.choice(orders).format(**names), "."
