"""Arithmetic beyond one's head, with the `python` tool on offer: one operation on numbers of up to
seven digits.

Lists to add up, powers, several operations and 1,234,567 are not in it: a model of nano's size did
them wrong too often (docs/log.md, 2026-11-30).

Knows expressions and how the tool is declared and called. Runs no code: `PRINTING` is the tool as
far as the gold code goes, so evals and rollouts need no sandbox and are the same on every machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from random import Random

from ossia.errors import ToolError
from ossia.harmony import Effort, ToolNamespace
from ossia.harmony.content import builtin_tools
from ossia.tasks.numbers.arithmetic import ask, dress
from ossia.tasks.numbers.calculator import evaluate
from ossia.tasks.numbers.expressions import (
    Op,
    Sign,
    is_held_out,
    may_be_trained,
    text,
    value,
)
from ossia.tasks.problem import Call, Expect, Problem, Split, Turn
from ossia.tasks.words import Words
from ossia.tools import SessionKey, ToolResult
from ossia.tools.kinds import PYTHON, ToolKind

WORDS = Words("python")
NAME = "python"
LARGEST = 10**11  # of results: longer ones are copied with slips
BEYOND = 4  # digits of a number that is not worked out in one's head
FEW = 0.15  # share of numbers of one or two different digits: they are the hardest to copy
OWN_WORDING = 0.3  # share of expressions that are asked for in the words of python.toml
_PRINT = re.compile(r"\s*print\((.*)\)\s*", re.DOTALL)
_SIGNS: tuple[Sign, ...] = ("+", "+", "+", "-", "-", "-", "*", "*", "*", "/")

# ---- the tool ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Printing:
    """`python`, declared as always, of which only `print(EXPRESSION)` is carried out."""

    @property
    def kind(self) -> ToolKind:
        return PYTHON

    @property
    def namespace(self) -> ToolNamespace:
        return builtin_tools(NAME)

    def session(self, key: SessionKey) -> Printing:
        return self

    def action(self, function: str, text: str) -> None:
        return None

    def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        return ToolResult(printed(text))

    def close(self) -> None:
        return None


PRINTING = Printing()


def printed(code: str) -> str:
    """What `print(EXPRESSION)` writes. Raises `ToolError` for any other code."""
    found = _PRINT.fullmatch(code)
    if found is None:
        raise ToolError("only print(...) of an expression is carried out here")
    return f"{evaluate(found[1])}\n"


def _printed_value(name: str, code: str) -> int | None:
    try:
        return int(printed(code))
    except (ToolError, ValueError):
        return None


# ---- what is asked -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A question, its formula as people write it, and as code."""

    user: str
    formula: str
    code: str
    value: int

    @property
    def answer(self) -> str:
        return f"{self.formula} = {self.value}"


def draw_asked(rng: Random, split: Split) -> Asked:
    expr = _draw_operation(rng, split)
    if rng.random() < _own_share(split):
        user = _in_own_words(rng, split, expr)
    else:
        user = ask(rng, expr)
    formula = text(expr)
    code = formula.replace("/", "//")  # of whole numbers, and exact
    return Asked(user, formula, f"print({code})", value(expr))


def _own_share(split: Split) -> float:
    """Half of the held-out questions are in words that were never trained on."""
    return OWN_WORDING if split == "train" else 0.5


def _in_own_words(rng: Random, split: Split, expr: Op) -> str:
    frame = rng.choice(WORDS[split])
    mark = "?" if frame.startswith(("what", "how", "can", "would")) else ""
    space = " " if rng.random() < 0.62 else ""
    return dress(rng, frame.format(e=text(expr, space)), mark)


def _draw_operation(rng: Random, split: Split) -> Op:
    """An operation of the split with a result that is not too large."""
    while True:
        expr = _operation(rng)
        if abs(value(expr)) >= LARGEST:
            continue
        if split == "held_out" and is_held_out(expr):
            return expr
        if split == "train" and not is_held_out(expr) and may_be_trained(f"{text(expr)} ="):
            return expr


def _operation(rng: Random) -> Op:
    if rng.random() < FEW:
        return _with_result(rng, _of_few_digits(rng, rng.randrange(BEYOND + 1, 8)))
    sign = rng.choice(_SIGNS)
    a = _long(rng)
    if sign == "/":
        divisor = rng.randrange(2, 100)
        return Op("/", a * divisor, divisor)
    b = _number(rng)
    if rng.random() < 0.3:
        return Op(sign, b, a)
    return Op(sign, a, b)


def _with_result(rng: Random, result: int) -> Op:
    """A sum or a difference that is `result`, such as 123456 + 654321."""
    a = rng.randrange(1, result)
    if rng.random() < 0.5:
        return Op("+", a, result - a)
    return Op("-", result + a, a)


def _long(rng: Random) -> int:
    return _of_digits(rng, rng.randrange(BEYOND, 8))


def _number(rng: Random) -> int:
    """A long one, mostly."""
    if rng.random() < 0.25:
        return _of_digits(rng, rng.randrange(1, BEYOND))
    return _long(rng)


def _of_digits(rng: Random, digits: int) -> int:
    if rng.random() < FEW:
        return _of_few_digits(rng, digits)
    smallest = 10 ** (digits - 1)
    return rng.randrange(smallest, 10 * smallest)


def _of_few_digits(rng: Random, digits: int) -> int:
    """Such as 777777 and 4004: a digit, and itself or another again and again."""
    first = rng.randrange(1, 10)
    other = rng.randrange(10)
    found = first
    for _ in range(digits - 1):
        found = 10 * found + rng.choice((first, first, other))
    return found


# ---- the task ------------------------------------------------------------------------------------


def call_thoughts(formula: str, effort: Effort) -> str:
    match effort:
        case Effort.LOW:
            return "I should use Python."
        case Effort.MEDIUM:
            return f"This is {formula}. I should use Python."
        case Effort.HIGH:
            offered = "The numbers are large and Python is offered, so I should use Python."
            return f"The user asks for {formula}. {offered}"


def result_thoughts(seen: int, effort: Effort) -> str:
    match effort:
        case Effort.LOW:
            return ""
        case Effort.MEDIUM:
            return f"Python says {seen}."
        case Effort.HIGH:
            return f"Python says {seen}. I answer with that."


def python_turn(asked: Asked) -> Turn:
    """A turn that prints the value and answers with it."""
    call = Call(NAME, asked.code, printed(asked.code), is_code=True)
    think = partial(call_thoughts, asked.formula)
    review = partial(result_thoughts, asked.value)
    return Turn(asked.user, asked.answer, think, call, review)


def python_use(rng: Random, split: Split) -> Problem:
    """A question about large numbers with python on offer."""
    asked = draw_asked(rng, split)
    turn = python_turn(asked)
    expect = Expect(asked.value, calls=True, value=asked.value, evaluate=_printed_value)
    return Problem(NAME, split, (turn,), expect, builtin=(PRINTING,))
