"""How an expression is worked out in writing: the analysis of an answer at low, medium and high
effort.

Knows expressions; does not know phrasing or messages. The methods are the school ones, written so
that every token is a small step for a small transformer whose tokens are single digits:

- A header such as `348 + 75:` restates the operation just before it is worked out. It is the only
  place with spaces around the sign, so the digits to work on are easy to find.
- Columns go from the ones upwards. A column names its two digits, the carry and the sum, each one
  table lookup: `4+7+1=12`. A digit that a shorter number lacks is written as 0, a carry of 0 as +0.
- Digits are written before anything is decided about them: `5-7<0` comes before `15-7=8`,
  `4 in 26:` before `6*4=24 rest 2`.
- The result so far follows `->`: one new digit and a copy of the previous result, so the answer is
  never assembled from scattered digits. `so` drops leading zeros and sets the sign.
- Differences begin by comparing the numbers from the top; if the second is larger, the operation is
  turned around: `35 - 90: 3-9<0, so -(90 - 35):`.
- Products go by columns as well (all pairs of digits whose places add up), quotients by long
  division.

low: the equation in one go. medium: the columns. high: every column also named by its place, its
carry written out, and a line that undoes the last operation.
"""

from __future__ import annotations

from ossia.harmony import Effort
from ossia.tasks.numbers.expressions import (
    Expr,
    Sign,
    apply,
    magnitudes,
    operations,
    product_columns,
    text,
    value,
)

PLACES = (
    "ones",
    "tens",
    "hundreds",
    "thousands",
    "ten-thousands",
    "hundred-thousands",
    "millions",
    "ten-millions",
)
Lines = list[str]


def working(expr: Expr, effort: Effort) -> str:
    """The analysis that works out `expr`."""
    if effort is Effort.LOW:
        formula = text(expr, "")
        return f"{formula}={value(expr)}"
    steps = operations(expr)
    blocks = [operation(*step, effort) for step in steps]
    if len(blocks) > 1:
        blocks.insert(0, f"{text(expr)}:")
    if effort is Effort.HIGH:
        last = steps[-1]
        line = check_line(*last)
        if line:
            blocks.append(line)
    return "\n".join(blocks)


def check_line(sign: Sign, a: int, b: int) -> str:
    """The inverse operation on the result, `check 85-48=37`; empty where it would be awkward."""
    result = apply(sign, a, b)
    if b < 0 or (sign == "*" and b == 0):
        return ""
    inverse = {"+": "-", "-": "+", "*": "/", "/": "*"}[sign]
    return f"check {result}{inverse}{b}={a}"


def operation(sign: Sign, a: int, b: int, effort: Effort) -> str:
    """One operation worked out at medium or high effort, without the check line."""
    high = effort is Effort.HIGH
    result = apply(sign, a, b)
    if _is_known(sign, a, b):
        return f"{a}{sign}{_bracketed(b)}={result}"
    minus, x, plain, y = magnitudes(sign, a, b)
    asked = f"{a} {sign} {_bracketed(b)}"
    opening: Lines = []
    if plain == "-":
        opening = compared(abs(a), abs(b), high)
        if x == y:
            opening.append("so 0")
            return f"{asked}: {', '.join(opening)}"
    rewritten = f"{x} {plain} {y}"
    if minus:
        rewritten = f"-({rewritten})"
    if rewritten == asked:
        head = f"{asked}:"
    elif opening:
        head = f"{asked}: {', '.join(opening)}, so {rewritten}:"
        opening = []
    else:
        head = f"{asked} = {rewritten}:"
    columns, raw = _METHODS[plain](x, y, high)
    if raw != str(result):
        columns.append(f"so {result}")
    if not high:
        line = ", ".join(opening + columns)
        return f"{head} {line}"
    if opening:
        head = f"{head} {', '.join(opening)}"
    return "\n".join([head, *columns])


def _is_known(sign: Sign, a: int, b: int) -> bool:
    """Facts that need no working: two single digits, times 0, 1 or 10, divided by 1 or 10."""
    if sign == "/":
        return b in (1, 10) or a == 0
    if sign == "*" and (a in (0, 1, 10) or b in (0, 1, 10)):
        return True
    return 0 <= a <= 9 and 0 <= b <= 9


def _bracketed(b: int) -> str:
    if b < 0:
        return f"({b})"
    return str(b)


def _digit_pairs(x: int, y: int, count: int) -> list[tuple[int, int]]:
    """`count` digits of both from the ones upwards, zeros where a number has none."""
    pairs = []
    for place in range(count):
        power = 10**place
        p = x // power % 10
        q = y // power % 10
        pairs.append((p, q))
    return pairs


# ---- single steps, which the drills in the pre-training text use as well -------------------------


def compared(a: int, b: int, named: bool) -> list[str]:
    """`hundreds 3-3=0`, `tens 5-7<0`: the digits from the top until they differ."""
    count = len(str(max(a, b)))
    pairs = _digit_pairs(a, b, count)
    found = []
    for place in reversed(range(count)):
        p, q = pairs[place]
        line = compared_digits(p, q)
        if named:
            line = f"{PLACES[place]} {line}"
        found.append(line)
        if p != q:
            break
    return found


def compared_digits(p: int, q: int) -> str:
    if p == q:
        return f"{p}-{q}=0"
    if p < q:
        return f"{p}-{q}<0"
    return f"{p}-{q}>0"


def sum_column(p: int, q: int, carry: int, first: bool = False) -> str:
    """`4+7+1=12`; the first column has no carry."""
    total = p + q + carry
    if first:
        return f"{p}+{q}={total}"
    return f"{p}+{q}+{carry}={total}"


def difference_column(p: int, q: int, borrow: int, first: bool = False) -> str:
    """`7-4-1=2`, or `3-4-1<0, 13-4-1=8` where ten has to be borrowed."""
    taken = f"-{q}" if first else f"-{q}-{borrow}"
    rest = p - q - borrow
    if rest >= 0:
        return f"{p}{taken}={rest}"
    return f"{p}{taken}<0, {p + 10}{taken}={rest + 10}"


def product_column(pairs: list[tuple[int, int]], carry: int) -> tuple[str, int]:
    """(`3*7=21, 4*5=20, 21+20=41, 41+2=43`, the total): products, their sum, the carry if any."""
    products = [p * q for p, q in pairs]
    parts = [f"{p}*{q}={p * q}" for p, q in pairs]
    total, *terms = products
    if carry:
        terms.append(carry)
    for term in terms:
        parts.append(f"{total}+{term}={total + term}")
        total += term
    column = ", ".join(parts)
    return column, total


def division_step(current: int, divisor: int) -> str:
    """`4 in 26: 6*4=24 rest 2`."""
    quotient, rest = divmod(current, divisor)
    product = quotient * divisor
    return f"{divisor} in {current}: {quotient}*{divisor}={product} rest {rest}"


# ---- the methods ---------------------------------------------------------------------------------
# Each returns its columns and the result as it was put together, leading zeros included.


def _add(x: int, y: int, high: bool) -> tuple[Lines, str]:
    count = len(str(max(x, y)))
    sheet = _Sheet(high, "carry")
    for place, (p, q) in enumerate(_digit_pairs(x, y, count)):
        column = sum_column(p, q, sheet.carry, place == 0)
        total = p + q + sheet.carry
        sheet.write(column, total, last=place == count - 1)
    return sheet.lines, sheet.done


def _subtract(x: int, y: int, high: bool) -> tuple[Lines, str]:
    """x - y for x >= y."""
    count = len(str(x))
    sheet = _Sheet(high, "borrow")
    for place, (p, q) in enumerate(_digit_pairs(x, y, count)):
        column = difference_column(p, q, sheet.carry, place == 0)
        total = p - q - sheet.carry
        sheet.write(column, total, last=place == count - 1)
    return sheet.lines, sheet.done


def _multiply(x: int, y: int, high: bool) -> tuple[Lines, str]:
    columns = product_columns(x, y)
    sheet = _Sheet(high, "carry")
    for place, pairs in enumerate(columns):
        column, total = product_column(pairs, sheet.carry)
        sheet.write(column, total, last=place == len(columns) - 1)
    return sheet.lines, sheet.done


def _divide(x: int, y: int, high: bool) -> tuple[Lines, str]:
    """Long division. A line is named by the place of the digit that was brought down."""
    lines: Lines = []
    done = ""
    current = 0
    last = len(str(x)) - 1
    for index, digit in enumerate(str(x)):
        current = current * 10 + int(digit)
        if not done and current < y and index < last:
            continue  # the first part has as many digits as the divisor needs
        done += str(current // y)
        line = f"{division_step(current, y)}->{done}"
        lines.append(f"{PLACES[last - index]} {line}" if high else line)
        current %= y
    return lines, done


class _Sheet:
    """The columns as they are written, from the ones upwards, and the result so far."""

    def __init__(self, named: bool, word: str) -> None:
        self.lines: Lines = []
        self.done = ""
        self.carry = 0  # or what was borrowed
        self._named = named
        self._word = word

    def write(self, column: str, total: int, last: bool) -> None:
        """A column and its total, of which the last digit stays here and the rest is handed on."""
        self.done = f"{total % 10}{self.done}"
        self.carry = abs(total // 10)
        handed_on = self._named and (self.carry or not last)
        self._add_line(column, f" {self._word} {self.carry}" if handed_on else "")
        if last and self.carry:  # nothing is left to add it to
            self.done = f"{self.carry}{self.done}"
            self._add_line(str(self.carry), "")

    def _add_line(self, column: str, handed_on: str) -> None:
        line = f"{column}->{self.done}{handed_on}"
        if self._named:
            line = f"{PLACES[len(self.lines)]} {line}"
        self.lines.append(line)


_METHODS = {"+": _add, "-": _subtract, "*": _multiply, "/": _divide}
