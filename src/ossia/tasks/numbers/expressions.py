"""Integer expressions: their text, their value, and which split an operation belongs to.

Knows integers only; nothing of phrasing, messages or written working (`working.py`).

The split of one operation is that of its *fact family*: 37+48, 48+37, 85-37, 85-48 and 37-85 are
all held out or all trained on, and so are 12*7, 7*12, 84/7 and 84/12. Facts that the written
methods build upon are always trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ossia.tasks.problem import Split, split_of

Sign = Literal["+", "-", "*", "/"]
_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2}


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
    left, right = text(expr.left, space), text(expr.right, space)
    if isinstance(expr.left, Op) and _BINDS[expr.left.sign] < _BINDS[expr.sign]:
        left = f"({left})"
    if isinstance(expr.right, Op) and not (
        _BINDS[expr.right.sign] > _BINDS[expr.sign]
        or (expr.sign == expr.right.sign and expr.sign in "+*")
    ):
        right = f"({right})"
    return f"{left}{space}{expr.sign}{space}{right}"


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
    if sign in "*/":
        swap = sign == "*" and len(str(abs(a))) < len(str(abs(b)))
        x, y = (b, a) if swap else (a, b)
        return (a < 0) != (b < 0) and a * b != 0, abs(x), sign, abs(y)
    x, y = abs(a), abs(b)
    adds = (sign == "+") == (b >= 0)
    if adds == (a >= 0):
        return a < 0, x, "+", y
    return ((a < 0), x, "-", y) if x >= y else ((a >= 0), y, "-", x)


@lru_cache(maxsize=200_000)
def operation_split(sign: Sign, a: int, b: int) -> Split:
    """The split of one operation: that of its fact family. Small facts are always `train`."""
    _, x, plain, y = magnitudes(sign, a, b)
    if plain in "*/":
        if plain == "/":
            x = x // y if y else 0
        low, high = min(x, y), max(x, y)
        return "train" if high <= 12 or low == 0 else split_of(f"{low}*{high}")
    if plain == "-":
        x -= y
    low, high = min(x, y), max(x, y)
    return "train" if low <= 9 and high <= 199 else split_of(f"{low}+{high}")


def product_columns(x: int, y: int) -> list[list[tuple[int, int]]]:
    """The digit pairs of x * y by place, ones first; in a column from x's highest digit: 3*7, 4*5
    for 34 * 57.
    """
    xs, ys = [int(d) for d in reversed(str(x))], [int(d) for d in reversed(str(y))]
    columns = range(len(xs) + len(ys) - 1)
    return [
        [(xs[i], ys[place - i]) for i in range(len(xs) - 1, -1, -1) if 0 <= place - i < len(ys)]
        for place in columns
    ]


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
    if expr.sign in "*/":
        return False
    left = expr.left if isinstance(expr.left, int) else None
    if isinstance(expr.left, Op):
        if (
            expr.left.sign in "*/"
            or not isinstance(expr.left.left, int)
            or not isinstance(expr.left.right, int)
        ):
            return False
        left = expr.left.left
        if abs(expr.left.right) > 9:
            return False
    return (
        left is not None
        and abs(left) <= 19
        and isinstance(expr.right, int)
        and abs(expr.right) <= 9
    )
