"""Integer expressions: their text, their value, and which split an operation belongs to.

Knows integers only; does not know phrasing, messages or written working (`working.py`).

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
_EQUATION = re.compile(r"(-?(?<!\d)\d++) ?([+*/-]) ?(\d++) ?=")


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
    sign = expr.sign
    left = text(expr.left, space)
    right = text(expr.right, space)
    if isinstance(expr.left, Op) and _BINDS[expr.left.sign] < _BINDS[sign]:
        left = f"({left})"
    if isinstance(expr.right, Op) and not _binds_on_the_right(expr.right.sign, sign):
        right = f"({right})"
    return f"{left}{space}{sign}{space}{right}"


def _binds_on_the_right(inner: Sign, outer: Sign) -> bool:
    """Whether `a outer (b inner c)` may be written without its parentheses."""
    if _BINDS[inner] > _BINDS[outer]:
        return True
    return inner == outer and outer in "+*"


def operations(expr: Expr) -> list[tuple[Sign, int, int]]:
    """The operations (sign, left value, right value) in the order in which they are worked out."""
    if isinstance(expr, int):
        return []
    found = operations(expr.left)
    found += operations(expr.right)
    left = value(expr.left)
    right = value(expr.right)
    found.append((expr.sign, left, right))
    return found


def magnitudes(sign: Sign, a: int, b: int) -> tuple[bool, int, Sign, int]:
    """The same operation on numbers >= 0, with the larger first.

    (Whether the result is minus that, x, sign, y).
    """
    x = abs(a)
    y = abs(b)
    if sign in "*/":
        minus = a * b < 0
        if sign == "*" and len(str(x)) < len(str(y)):
            return minus, y, sign, x
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
            quotient = x // y if y else 0
            return _product_split(quotient, y)
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
    """The digit pairs of x * y by place, ones first.

    In a column they begin with x's highest digit: 3*7, 4*5 for 34 * 57.
    """
    xs = [int(digit) for digit in reversed(str(x))]
    ys = [int(digit) for digit in reversed(str(y))]
    count = len(xs) + len(ys) - 1
    columns: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for i in reversed(range(len(xs))):
        for j, digit in enumerate(ys):
            pair = (xs[i], digit)
            columns[i + j].append(pair)
    return columns


@lru_cache(maxsize=200_000)
def _may_be_written(sign: Sign, a: int, b: int) -> bool:
    """Whether an operation and all sums in its written working are of the training split."""
    if operation_split(sign, a, b) != "train":
        return False
    if sign != "*":
        return True
    carry = 0
    for pairs in product_columns(abs(a), abs(b)):
        first, *terms = [p * q for p, q in pairs]
        terms.append(carry)
        so_far = first
        for term in terms:
            if operation_split("+", so_far, term) != "train":
                return False
            so_far += term
        carry = so_far // 10
    return True


def is_trained(expr: Expr) -> bool:
    """Whether `expr` may appear in training.

    Every operation must be of training, and, if there are several, the whole.
    """
    if isinstance(expr, int):
        return True
    parts = operations(expr)
    if not all(_may_be_written(*part) for part in parts):
        return False
    return len(parts) == 1 or _split_of_several(expr) == "train"


def is_held_out(expr: Expr) -> bool:
    """Whether `expr` can never have been trained on.

    That is so if its one operation, or the whole of several, is held out.
    """
    if isinstance(expr, int):
        return False
    parts = operations(expr)
    if len(parts) > 1:
        return _split_of_several(expr) == "held_out"
    only = parts[0]
    return operation_split(*only) == "held_out"


def _split_of_several(expr: Op) -> Split:
    if _is_small_chain(expr):
        return "train"
    return split_of(text(expr, ""))


def in_split(expr: Expr, split: Split) -> bool:
    if split == "train":
        return is_trained(expr)
    return is_held_out(expr)


def _is_small_chain(expr: Op) -> bool:
    """Sums and differences of small numbers: the columns of written working look like them."""
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
    found = []
    for a, sign, b in _EQUATION.findall(text):
        found.append((sign, int(a), int(b)))
    return found


def may_be_trained(*texts: str) -> bool:
    """Whether none of the texts writes an equation of the held-out split.

    Every generator of training text that writes equations must ask here, so that the held-out ones
    stay unseen whatever the text is about.
    """
    for text in texts:
        for equation in equations(text):
            if operation_split(*equation) != "train":
                return False
    return True
