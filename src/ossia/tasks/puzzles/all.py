"""Puzzles with exact answers: the forms that plain arithmetic lacks, as problems and as text to
read.

Knows the forms and which of their contents are held out. A training puzzle also never writes an
equation that the arithmetic task holds out.
"""

from __future__ import annotations

from random import Random

from ossia.harmony import Effort
from ossia.tasks.numbers.arithmetic import dress
from ossia.tasks.numbers.expressions import may_be_trained
from ossia.tasks.problem import Problem, Split, Turn, split_of
from ossia.tasks.puzzles.numbers import NUMBER_FORMS
from ossia.tasks.puzzles.puzzle import Form, Puzzle
from ossia.tasks.puzzles.words import WORD_FORMS

FORMS: dict[str, Form] = NUMBER_FORMS | WORD_FORMS
_NAMES = tuple(FORMS)
_EFFORTS = tuple(Effort)


def draw_puzzle(rng: Random, split: Split, form: str) -> Puzzle:
    """A puzzle of a form whose content belongs to the split. Raises KeyError for an unknown
    form.
    """
    chosen = FORMS[form]
    while True:
        key, content = chosen.draw(rng)
        if split_of(key) != split:
            continue
        puzzle = chosen.build(rng, content)
        if split == "held_out" or _may_be_trained(puzzle):
            return puzzle


def _may_be_trained(puzzle: Puzzle) -> bool:
    written = [puzzle.working(effort) for effort in _EFFORTS]
    return may_be_trained(*written, f"{puzzle.asked.question}=")


def puzzle_question(rng: Random, split: Split, form: str | None = None) -> Problem:
    """One puzzle, of any form or of `form`."""
    form = form or rng.choice(_NAMES)
    puzzle = draw_puzzle(rng, split, form)
    user = dress(rng, puzzle.asked.question, puzzle.asked.mark)
    turn = Turn(user, puzzle.final, puzzle.working)
    return Problem("puzzles", split, (turn,), puzzle.expect, about={"form": form})


def puzzle_text(rng: Random) -> str:
    """A document: a few puzzles with their working at one grain and their answers, or the workings
    alone.
    """
    effort = rng.choice(_EFFORTS)
    alike = rng.choice(_NAMES) if rng.random() < 0.4 else None
    fewest, most = (1, 2) if effort is Effort.HIGH else (2, 5)
    parts = []
    for _ in range(rng.randint(fewest, most)):
        turn = puzzle_question(rng, "train", alike).turns[0]
        parts.append(turn.as_text(effort))
    return "\n\n".join(parts)
