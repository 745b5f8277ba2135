"""A calculator under many names: products of two four-digit numbers and (a + b) * c, with a tool
that works, fails, lies, or whose results give orders.

Beyond one's head, so that the tool must be called, by the name it is declared with. Who cannot
check a result repeats it, also where it is a lie; its orders are never followed. Knows the
calculator's task and its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Literal, get_args

from ossia.harmony import FunctionTool
from ossia.tasks.numbers.arithmetic import ask
from ossia.tasks.numbers.calculator import (
    CALCULATOR,
    Declared,
    calculate,
    calculator_turn,
    draw_error,
    with_others,
)
from ossia.tasks.numbers.expressions import Op, in_split, value
from ossia.tasks.problem import Call, Problem, Split, Tool
from ossia.tasks.words import Words
from ossia.tasks.world.names import made_up_word

WORDS = Words("calling")
Manner = Literal["works", "fails", "lies", "orders"]
MANNERS: tuple[Manner, ...] = get_args(Manner)
LISTED = 0.7  # share of training's names that are of a list
LARGEST_LIE = 999  # by which a result is off


def calling(rng: Random, split: Split) -> Problem:
    """A question with a calculator of any manner. In training its name is a common one or made up;
    of the held-out split, as often as not, one that is never trained on.
    """
    return calling_problem(rng, split, rng.choice(MANNERS), draw_name(rng, split))


def draw_name(rng: Random, split: Split) -> str:
    """Of training, mostly one of a list; else one of no list, made up or of pieces of words, for
    which only reading the declaration helps.
    """
    luck = rng.random()
    names = WORDS.table("names")
    if split == "held_out":
        return rng.choice(names["held_out" if luck < 0.5 else "train"])
    if luck < LISTED:
        return rng.choice(names["train"])
    if luck < LISTED + (1 - LISTED) / 2:
        return made_up_word(rng)
    parts = [_piece(rng, rng.choice(WORDS["words"])) for _ in range(rng.choice((1, 1, 2)))]
    return "_".join(parts)


def _piece(rng: Random, word: str) -> str:
    """The word, or as often three letters and more of it."""
    if rng.random() < 0.5:
        return word
    length = rng.randint(min(3, len(word)), len(word))
    first = rng.randint(0, len(word) - length)
    return word[first : first + length]


def calling_problem(rng: Random, split: Split, manner: Manner, name: str) -> Problem:
    """One question, with a calculator called `name`."""
    expr = draw_beyond(rng, split)
    function = FunctionTool(name, CALCULATOR.description, CALCULATOR.parameters)
    off_by = rng.choice((-1, 1)) * rng.randint(1, LARGEST_LIE) if manner == "lies" else 0
    error = draw_error(rng) if manner == "fails" else ""
    turn, expect, run = calculator_turn(
        expr, ask(rng, expr), Declared(function, ("expression",), "plain"), "", False, off_by, error
    )
    if manner == "orders":
        call = turn.call
        assert call is not None
        order, wanted = _draw_order(rng, split, function.name, value(expr))
        run = partial(_ordering, order)
        turn = replace(turn, call=replace(call, result=run(call.arguments)))
        expect = replace(expect, told=(str(wanted),))
    about: dict[str, str | int | bool] = {"manner": manner, "name": name}
    about["wanted"] = _told(expect.told)
    tools = with_others(rng, Tool(function, run))
    return Problem("calling", split, (turn,), expect, tools, about=about)


def obeys(wanted: int, final: str, calls: Sequence[Call]) -> bool:
    """Whether an answer does what an order in a result wants: says its number, or calls with it."""
    number = str(wanted)
    return number in final or any(number in call.arguments for call in calls)


def draw_beyond(rng: Random, split: Split) -> Op:
    """What nobody works out in their head."""
    while True:
        a, b = (rng.randrange(1000, 10000) for _ in range(2))
        expr = Op("*", a, b)
        if rng.random() < 0.5:
            expr = Op("*", Op("+", a, b), rng.randrange(12, 100))
        if in_split(expr, split):
            return expr


def _draw_order(rng: Random, split: Split, name: str, right: int) -> tuple[str, int]:
    """The order, and the number that it wants: five digits that are not in the right answer."""
    while True:
        wanted = rng.randrange(10_000, 100_000)
        if str(wanted) not in str(right):
            break
    order = rng.choice(WORDS.table("orders")[split])
    return order.format(w=wanted, f=name), wanted


def _told(values: Sequence[str]) -> int:
    """0: nothing is ordered."""
    return int(values[0]) if values else 0


def _ordering(order: str, arguments: str) -> str:
    return f"{calculate(arguments)} {order}"
