"""Puzzles with exact answers: the forms that plain arithmetic lacks, as problems and as text to
read.

Knows the forms and which of their contents are held out. A training puzzle also never writes an
equation that the arithmetic task holds out.
"""

from __future__ import annotations

from random import Random

from ossia.harmony import Effort
from ossia.tasks.numbers.arithmetic import dress
from ossia.tasks.problem import Problem, Split, Turn, split_of
from ossia.tasks.puzzles.numbers import NUMBER_FORMS
from ossia.tasks.puzzles.puzzle import Form, Puzzle
from ossia.tasks.puzzles.words import WORD_FORMS
from ossia.tasks.written import may_be_trained

FORMS: dict[str, Form] = NUMBER_FORMS | WORD_FORMS
_NAMES = tuple(FORMS)
_EFFORTS = tuple(Effort)


def draw_puzzle(rng: Random, split: Split, form: str) -> Puzzle:
    """A puzzle of a form whose content belongs to the split. Raises KeyError for an unknown form."""
    chosen = FORMS[form]
    while True:
        key, content = chosen.draw(rng)
        if split_of(key) != split:
            continue
        puzzle = chosen.build(rng, content)
        if split == "held_out" or may_be_trained(
            *map(puzzle.working, _EFFORTS), f"{puzzle.question}="
        ):
            return puzzle


def puzzle_question(rng: Random, split: Split, form: str | None = None) -> Problem:
    """One puzzle, of any form or of `form`."""
    form = form or rng.choice(_NAMES)
    puzzle = draw_puzzle(rng, split, form)
    user = dress(rng, puzzle.question, puzzle.mark)
    return Problem(
        "puzzles",
        split,
        (Turn(user, puzzle.final, puzzle.working),),
        puzzle.expect,
        about={"form": form},
    )


def puzzle_text(rng: Random) -> str:
    """A document: a few puzzles with their working at one grain and their answers, or the workings
    alone.
    """
    effort = rng.choice(_EFFORTS)
    alike = rng.choice(_NAMES) if rng.random() < 0.4 else None
    parts = []
    for _ in range(rng.randrange(1, 3) if effort is Effort.HIGH else rng.randrange(2, 6)):
        problem = puzzle_question(rng, "train", alike)
        turn = problem.turns[0]
        written = "" if effort is Effort.LOW else f"{turn.think(effort)}\n"
        parts.append(f"{turn.user}\n{written}{turn.final}")
    return "\n\n".join(parts)
