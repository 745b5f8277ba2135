"""Word problems of one or two steps: a small story, a question, and a sentence that answers it.

Knows expressions and names. Stories are templates over people, things and numbers, kept in
texts/stories.toml; what is held out is the operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from random import Random
from typing import Any

from ossia.harmony import Effort
from ossia.tasks.numbers.expressions import Expr, Op, in_split, value
from ossia.tasks.numbers.working import working
from ossia.tasks.problem import Expect, Problem, Split, Turn
from ossia.tasks.words import Words, below
from ossia.tasks.world.names import COUNTABLE, MEN, NAMES, person

WORDS = Words("stories")
LARGEST = 1998  # result of a story
Numbers = Callable[[Random], tuple[int, int, int]]


@dataclass(frozen=True)
class Story:
    """One kind of word problem. `hint` is what high effort notes before it works the expression
    out.
    """

    shape: str  # the expression, over a, b and c
    numbers: Numbers
    texts: tuple[str, ...]
    questions: tuple[str, ...]
    final: str
    hint: str


# ---- numbers that make sense in a story ----------------------------------------------------------


def _whole(rng: Random) -> int:
    kind = rng.random()
    if kind < 0.3:
        return below(rng, 11) + 2
    if kind < 0.85:
        return below(rng, 98) + 2
    return below(rng, 900) + 100


def _gain(rng: Random) -> tuple[int, int, int]:
    return _whole(rng), _whole(rng), _whole(rng)


def _loss(rng: Random) -> tuple[int, int, int]:
    a, b, c = _gain(rng)
    return max(a, b), min(a, b), c


def _ages(rng: Random) -> tuple[int, int, int]:
    b = rng.randrange(1, 40)
    return b + rng.randrange(2, 50), b, 0


def _crowd(rng: Random) -> tuple[int, int, int]:
    b = rng.randrange(2, 50)
    return b + rng.randrange(1, 60), b, 0


def _two_losses(rng: Random) -> tuple[int, int, int]:
    b = rng.randrange(1, 40)
    c = rng.randrange(1, 40)
    return b + c + rng.randrange(0, 60), b, c


def _groups(rng: Random) -> tuple[int, int, int]:
    a = rng.randrange(2, 13)
    small = rng.random() < 0.5
    b = rng.randrange(2, 13) if small else rng.randrange(10, 60)
    return a, b, rng.randrange(1, min(a * b, 60) + 1)


def _shares(rng: Random) -> tuple[int, int, int]:
    b = rng.randrange(2, 13)
    small = rng.random() < 0.6
    each = rng.randrange(1, 13) if small else rng.randrange(2, 60)
    return b * each, b, rng.randrange(1, 40)


_NUMBERS: Mapping[str, Numbers] = {
    "gain": _gain,
    "loss": _loss,
    "ages": _ages,
    "crowd": _crowd,
    "two losses": _two_losses,
    "groups": _groups,
    "shares": _shares,
}


# ---- the stories ---------------------------------------------------------------------------------


@cache
def stories() -> tuple[Story, ...]:
    """Every kind of word problem."""
    return tuple(map(_story, WORDS.rows("story")))


def _story(row: Mapping[str, Any]) -> Story:
    shared = WORDS.table("questions")
    questions = list(row.get("questions", ()))
    for name in row.get("ask", ()):
        questions += shared[name]
    numbers = _NUMBERS[row["numbers"]]
    told = row["told"]
    return Story(row["shape"], numbers, told, tuple(questions), row["final"], row["hint"])


def _expression(shape: str, numbers: tuple[int, int, int]) -> Op:
    """`a+b-c` and such, worked out from left to right."""
    of = dict(zip("abc", numbers, strict=True))
    expr: Expr = of[shape[0]]
    for sign, name in zip(shape[1::2], shape[2::2], strict=True):
        expr = Op(sign, expr, of[name])  # type: ignore[arg-type]  # one of the four signs
    assert isinstance(expr, Op), shape
    return expr


def story_working(expr: Expr, hint: str, effort: Effort) -> str:
    """The working of `expr`; high effort first says why these operations."""
    steps = working(expr, effort)
    return f"{hint}\n{steps}" if effort is Effort.HIGH else steps


def draw_story(rng: Random, split: Split) -> tuple[str, Op, str, str]:
    """(the user's text, the expression, the final sentence with {r} for the result, the hint)."""
    story, numbers, expr = _draw_numbers(rng, split)
    p = person(rng, 0.12)
    q = person(rng, 0.12)
    while q == p:
        q = person(rng, 0.12)
    words = dict(zip("abc", numbers, strict=True)) | {"p": p, "q": q, "r": "{r}"}
    words["t"] = rng.choice(COUNTABLE)
    told = rng.choice(story.texts)
    question = rng.choice(story.questions)
    if rng.random() < 0.4:
        he = p in MEN if p in NAMES else rng.random() < 0.5
        told, question = _with_pronouns("he" if he else "she", told, question)
    told = _arranged(rng, told.format(**words), question.format(**words))
    return told, expr, story.final.format(**words), story.hint


def _draw_numbers(rng: Random, split: Split) -> tuple[Story, tuple[int, int, int], Op]:
    """A story whose numbers make sense and whose expression is of the split."""
    while True:
        story = rng.choice(stories())
        numbers = story.numbers(rng)
        expr = _expression(story.shape, numbers)
        different = numbers[0] != numbers[1]
        if different and 0 <= value(expr) <= LARGEST and in_split(expr, split):
            return story, numbers, expr


def _with_pronouns(pronoun: str, told: str, question: str) -> tuple[str, str]:
    """{p} as he or she where a second mention is the subject of its clause."""
    told = told.replace(". {p} ", f". {pronoun.capitalize()} ")
    for before in ("Then ", "Today ", "So far "):
        told = told.replace(f"{before}{{p}} ", f"{before}{pronoun} ")
    if "{p}" in told:
        for before in ("does", "has"):
            question = question.replace(f"{before} {{p}} ", f"{before} {pronoun} ")
    return told, question


def _arranged(rng: Random, told: str, question: str) -> str:
    """The story and its question in one of the orders and forms that people use."""
    luck = rng.random()
    if luck < 0.05:
        told = f"{question} {told}"
    elif luck < 0.09:
        told = f"{told}\n{question}"
    elif luck < 0.13:
        told = f"{told} {question} {rng.choice(WORDS['thanks'])}"
    elif luck < 0.17:
        told = f"{rng.choice(WORDS['before'])} {told} {question}"
    elif luck < 0.3 and told.count(". ") < 2:
        told = _as_condition(told, question)
    else:
        told = f"{told} {question}"
    return told.lower() if rng.random() < 0.06 else told


def _as_condition(told: str, question: str) -> str:
    """`If Tom has 5 apples and buys 3 more, how many apples does he have?`"""
    first, _, second = told.removesuffix(".").partition(". ")
    condition = " and ".join([_mid_sentence(part) for part in (first, second) if part])
    return f"If {condition}, {question[0].lower()}{question[1:]}"


def _mid_sentence(part: str) -> str:
    """A sentence that stands after others: its first word in lower case, unless it is a name or
    I.
    """
    word = part.split(" ", 1)[0]
    return part[0].lower() + part[1:] if word in WORDS["common"] else part


def story_turn(rng: Random, split: Split) -> tuple[Turn, Op]:
    """A turn that tells a story and asks, and the expression that answers it."""
    told, expr, final, hint = draw_story(rng, split)
    return Turn(told, final.format(r=value(expr)), partial(story_working, expr, hint)), expr


def word_problem(rng: Random, split: Split) -> Problem:
    """A story whose question is answered by one or two operations."""
    turn, expr = story_turn(rng, split)
    return Problem("word problems", split, (turn,), Expect(number=value(expr)))
