"""Integer expressions: their text, their value, and which split an operation belongs to.

Knows integers only; nothing of phrasing, messages or written working (`working.py`).

The split of one operation is that of its *fact family*: 37+48, 48+37, 85-37, 85-48 and 37-85 are
all held out or all trained on, and so are 12*7, 7*12, 84/7 and 84/12. Facts that the written
methods build upon are always trained on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ossia.tasks.problem import Split, split_of

Sign = Literal["+", "-", "*", "/"]
_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2}
_EQUATION = re.compile(r"(-?\d+) ?([+*/-]) ?(\d+) ?=")


@dataclass(frozen=True, slots=True)
class Op:
    """`left sign right`. Divisions are exact."""

    sign: Sign
    left: Expr
    right: Expr


Expr = int | Op


def value(expr: Expr) -> int:
    """The value; divisions must be exact (asserted)."""
    if isinstance(expr, int):
        return expr
    return apply(expr.sign, value(expr.left), value(expr.right))


def apply(sign: Sign, a: int, b: int) -> int:
    """a sign b for integers; a division must be exact (asserted)."""
    if sign == "+":
        return a + b
    if sign == "-":
        return a - b
    if sign == "*":
        return a * b
    quotient, rest = divmod(a, b)
    assert rest == 0, f"{a}/{b} is not exact"
    return quotient


def text(expr: Expr, space: str = " ") -> str:
    """`(3 + 4) * 5`, or `(3+4)*5` with space="". Parentheses only where they are needed."""
    if isinstance(expr, int):
        return str(expr)
    left = text(expr.left, space)
    right = text(expr.right, space)
    if isinstance(expr.left, Op) and _BINDS[expr.left.sign] < _BINDS[expr.sign]:
        left = f"({left})"
    if isinstance(expr.right, Op) and not _binds_on_the_right(expr.right.sign, expr.sign):
        right = f"({right})"
    return f"{left}{space}{expr.sign}{space}{right}"


def _binds_on_the_right(inner: Sign, outer: Sign) -> bool:
    """Whether `a outer (b inner c)` may be written without its parentheses."""
    if _BINDS[inner] > _BINDS[outer]:
        return True
    return inner == outer and outer in "+*"


def operations(expr: Expr) -> list[tuple[Sign, int, int]]:
    """The operations (sign, left value, right value) in the order in which they are worked out."""
    if isinstance(expr, int):
        return []
    done = operations(expr.left) + operations(expr.right)
    return [*done, (expr.sign, value(expr.left), value(expr.right))]


def magnitudes(sign: Sign, a: int, b: int) -> tuple[bool, int, Sign, int]:
    """The same operation on numbers >= 0, with the larger first: (whether the result is minus that,
    x, sign, y).
    """
    x = abs(a)
    y = abs(b)
    if sign in "*/":
        if sign == "*" and len(str(x)) < len(str(y)):
            x, y = y, x
        minus = (a < 0) != (b < 0) and a * b != 0
        return minus, x, sign, y
    adds = (sign == "+") == (b >= 0)
    if adds == (a >= 0):
        return a < 0, x, "+", y
    if x >= y:
        return a < 0, x, "-", y
    return a >= 0, y, "-", x


# ---- splits --------------------------------------------------------------------------------------


@lru_cache(maxsize=200_000)
def operation_split(sign: Sign, a: int, b: int) -> Split:
    """The split of one operation: that of its fact family. Small facts are always `train`."""
    _, x, plain, y = magnitudes(sign, a, b)
    match plain:
        case "*":
            return _product_split(x, y)
        case "/":
            return _product_split(x // y if y else 0, y)
        case "+":
            return _sum_split(x, y)
        case "-":
            return _sum_split(x - y, y)


def _product_split(x: int, y: int) -> Split:
    low = min(x, y)
    high = max(x, y)
    if high <= 12 or low == 0:
        return "train"
    return split_of(f"{low}*{high}")


def _sum_split(x: int, y: int) -> Split:
    low = min(x, y)
    high = max(x, y)
    if low <= 9 and high <= 199:
        return "train"
    return split_of(f"{low}+{high}")


def product_columns(x: int, y: int) -> list[list[tuple[int, int]]]:
    """The digit pairs of x * y by place, ones first; in a column from x's highest digit: 3*7, 4*5
    for 34 * 57.
    """
    xs = [int(digit) for digit in reversed(str(x))]
    ys = [int(digit) for digit in reversed(str(y))]
    columns: list[list[tuple[int, int]]] = [[] for _ in range(len(xs) + len(ys) - 1)]
    for i in reversed(range(len(xs))):
        for j, digit in enumerate(ys):
            columns[i + j].append((xs[i], digit))
    return columns


@lru_cache(maxsize=200_000)
def _may_be_written(sign: Sign, a: int, b: int) -> bool:
    """Whether an operation and all the sums that its written working holds are of the training
    split.
    """
    if operation_split(sign, a, b) != "train":
        return False
    if sign != "*":
        return True
    carry = 0
    for pairs in product_columns(abs(a), abs(b)):
        so_far, *rest = [p * q for p, q in pairs]
        for term in (*rest, carry):
            if operation_split("+", so_far, term) != "train":
                return False
            so_far += term
        carry = so_far // 10
    return True


def is_trained(expr: Expr) -> bool:
    """Whether `expr` may appear in training: every operation and, if there are several, the whole
    must be.
    """
    if isinstance(expr, int):
        return True
    parts = operations(expr)
    if not all(_may_be_written(*part) for part in parts):
        return False
    return len(parts) == 1 or split_of(text(expr, "")) == "train" or _is_small_chain(expr)


def is_held_out(expr: Expr) -> bool:
    """Whether `expr` can never have been trained on: its one operation, or the whole of several, is
    held out.
    """
    if isinstance(expr, int):
        return False
    parts = operations(expr)
    if len(parts) == 1:
        return operation_split(*parts[0]) == "held_out"
    return split_of(text(expr, "")) == "held_out" and not _is_small_chain(expr)


def in_split(expr: Expr, split: Split) -> bool:
    return is_trained(expr) if split == "train" else is_held_out(expr)


def _is_small_chain(expr: Op) -> bool:
    """Sums and differences of small numbers: the columns of the written methods look like them."""
    if expr.sign in "*/" or not _is_digit(expr.right):
        return False
    first = expr.left
    if isinstance(first, Op):
        if first.sign in "*/" or not _is_digit(first.right):
            return False
        first = first.left
    return isinstance(first, int) and abs(first) <= 19


def _is_digit(expr: Expr) -> bool:
    return isinstance(expr, int) and abs(expr) <= 9


# ---- equations in a text -------------------------------------------------------------------------


def equations(text: str) -> list[tuple[Sign, int, int]]:
    """(sign, a, b) of everything in a text that looks like `a sign b =`."""
    return [(sign, int(a), int(b)) for a, sign, b in _EQUATION.findall(text)]


def may_be_trained(*texts: str) -> bool:
    """Whether none of the texts writes an equation of the held-out split.

    Every generator of training text that writes equations asks here, so that the held-out ones stay
    unseen whatever the text is about.
    """
    found = [equation for text in texts for equation in equations(text)]
    return all(operation_split(*equation) == "train" for equation in found)
