"""Word problems of one or two steps: a small story, a question, and a sentence that answers it.

Knows expressions and names. Stories are templates over people, things and numbers, kept in
texts/stories.toml. Operations are held out, never stories.
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
Three = tuple[int, int, int]
Numbers = Callable[[Random], Three]


@dataclass(frozen=True)
class Story:
    """One kind of word problem. `hint` is what high effort writes before the working."""

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


def _gain(rng: Random) -> Three:
    a = _whole(rng)
    b = _whole(rng)
    c = _whole(rng)
    return a, b, c


def _loss(rng: Random) -> Three:
    a, b, c = _gain(rng)
    if a < b:
        return b, a, c
    return a, b, c


def _ages(rng: Random) -> Three:
    b = rng.randrange(1, 40)
    more = rng.randrange(2, 50)
    return b + more, b, 0


def _crowd(rng: Random) -> Three:
    b = rng.randrange(2, 50)
    more = rng.randrange(1, 60)
    return b + more, b, 0


def _two_losses(rng: Random) -> Three:
    b = rng.randrange(1, 40)
    c = rng.randrange(1, 40)
    rest = rng.randrange(0, 60)
    return b + c + rest, b, c


def _groups(rng: Random) -> Three:
    a = rng.randrange(2, 13)
    if rng.random() < 0.5:
        b = rng.randrange(2, 13)
    else:
        b = rng.randrange(10, 60)
    largest = min(a * b, 60)
    c = rng.randrange(1, largest + 1)
    return a, b, c


def _shares(rng: Random) -> Three:
    b = rng.randrange(2, 13)
    if rng.random() < 0.6:
        each = rng.randrange(1, 13)
    else:
        each = rng.randrange(2, 60)
    c = rng.randrange(1, 40)
    return b * each, b, c


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
    rows = WORDS.rows("story")
    return tuple(map(_story, rows))


def _story(row: Mapping[str, Any]) -> Story:
    shared = WORDS.table("questions")
    questions = list(row.get("questions", ()))
    for name in row.get("ask", ()):
        questions += shared[name]
    return Story(
        shape=row["shape"],
        numbers=_NUMBERS[row["numbers"]],
        texts=row["told"],
        questions=tuple(questions),
        final=row["final"],
        hint=row["hint"],
    )


def _expression(shape: str, numbers: Three) -> Op:
    """`a+b-c` and such, worked out from left to right."""
    of = dict(zip("abc", numbers, strict=True))
    names = shape[0::2]
    signs = shape[1::2]
    expr: Expr = of[names[0]]
    for sign, name in zip(signs, names[1:], strict=True):
        expr = Op(sign, expr, of[name])  # type: ignore[arg-type]  # one of the four signs
    assert isinstance(expr, Op), shape
    return expr


def story_working(expr: Expr, hint: str, effort: Effort) -> str:
    """The working of `expr`; high effort first says why these operations."""
    steps = working(expr, effort)
    if effort is Effort.HIGH:
        return f"{hint}\n{steps}"
    return steps


def draw_story(rng: Random, split: Split) -> tuple[str, Op, str, str]:
    """(the user's text, the expression, the final sentence with {r} for the result, the hint)."""
    story, numbers, expr = _draw_numbers(rng, split)
    p = person(rng, 0.12)
    q = person(rng, 0.12)
    while q == p:
        q = person(rng, 0.12)
    a, b, c = numbers
    words = {"a": a, "b": b, "c": c, "p": p, "q": q, "r": "{r}"}
    words["t"] = rng.choice(COUNTABLE)
    told = rng.choice(story.texts)
    question = rng.choice(story.questions)
    if rng.random() < 0.4:
        pronoun = _draw_pronoun(rng, p)
        told, question = _with_pronouns(pronoun, told, question)
    told = told.format(**words)
    question = question.format(**words)
    user = _arranged(rng, told, question)
    final = story.final.format(**words)
    return user, expr, final, story.hint


def _draw_pronoun(rng: Random, name: str) -> str:
    """He or she: as the name says, if it is not a made-up one."""
    if name in NAMES:
        he = name in MEN
    else:
        he = rng.random() < 0.5
    return "he" if he else "she"


def _draw_numbers(rng: Random, split: Split) -> tuple[Story, Three, Op]:
    """A story whose numbers make sense and whose expression is of the split."""
    while True:
        story = rng.choice(stories())
        numbers = story.numbers(rng)
        if numbers[0] == numbers[1]:
            continue
        expr = _expression(story.shape, numbers)
        if 0 <= value(expr) <= LARGEST and in_split(expr, split):
            return story, numbers, expr


def _with_pronouns(pronoun: str, told: str, question: str) -> tuple[str, str]:
    """{p} as he or she where a second mention is the subject of its clause."""
    capital = pronoun.capitalize()
    told = told.replace(". {p} ", f". {capital} ")
    for before in ("Then ", "Today ", "So far "):
        named = before + "{p} "
        told = told.replace(named, f"{before}{pronoun} ")
    if "{p}" in told:
        for before in ("does ", "has "):
            named = before + "{p} "
            question = question.replace(named, f"{before}{pronoun} ")
    return told, question


def _arranged(rng: Random, told: str, question: str) -> str:
    """The story and its question in one of the orders and forms that people use."""
    luck = rng.random()
    text = f"{told} {question}"
    if luck < 0.05:
        text = f"{question} {told}"
    elif luck < 0.09:
        text = f"{told}\n{question}"
    elif luck < 0.13:
        thanks = rng.choice(WORDS["thanks"])
        text = f"{text} {thanks}"
    elif luck < 0.17:
        before = rng.choice(WORDS["before"])
        text = f"{before} {text}"
    elif luck < 0.3 and told.count(". ") < 2:
        text = _as_condition(told, question)
    if rng.random() < 0.06:
        return text.lower()
    return text


def _as_condition(told: str, question: str) -> str:
    """`If Tom has 5 apples and buys 3 more, how many apples does he have?`"""
    sentences = told.removesuffix(".").split(". ", 1)
    parts = [_mid_sentence(part) for part in sentences if part]
    condition = " and ".join(parts)
    first = question[0].lower()
    return f"If {condition}, {first}{question[1:]}"


def _mid_sentence(part: str) -> str:
    """A sentence inside another: its first word in lower case, unless it is a name or I."""
    word = part.split(" ", 1)[0]
    if word in WORDS["common"]:
        return part[0].lower() + part[1:]
    return part


def story_turn(rng: Random, split: Split) -> tuple[Turn, Op]:
    """A turn that tells a story and asks, and the expression that answers it."""
    told, expr, final, hint = draw_story(rng, split)
    answer = final.format(r=value(expr))
    think = partial(story_working, expr, hint)
    turn = Turn(told, answer, think)
    return turn, expr


def word_problem(rng: Random, split: Split) -> Problem:
    """A story whose question is answered by one or two operations."""
    turn, expr = story_turn(rng, split)
    expect = Expect(number=value(expr))
    return Problem("word problems", split, (turn,), expect)
