"""How an expression is worked out in writing: the analysis of an arithmetic answer at low, medium and high
effort.

Knows expressions; nothing of phrasing or messages. The methods are the school ones, written so that every
token is a small step for a small transformer whose tokens are single digits:

- A header such as `348 + 75:` restates the operation just before it is worked out. It is the only place
  with spaces around the sign, so the digits to work on are easy to find, and it is the only thing copied
  from far away.
- Columns go from the ones upwards. A column names its two digits, the carry and the sum, each one table
  lookup: `4+7+1=12`. A digit that a shorter number lacks is written as 0, a carry of 0 as +0.
- After `->` stands the result so far: the new digit and a copy of the previous one, so the answer is
  never assembled from scattered digits. `so` drops leading zeros and sets the sign.
- Signs are settled first, by rewriting: `35 - 90 = -(90 - 35):`, `-18 + 5 = -(18 - 5):`.
- Products go by columns as well (all pairs of digits whose places add up), quotients by long division.

low: the equation in one go. medium: the columns only. high: every column named, carries and single
products written out, which number is larger decided digit by digit, and a line that undoes the last
operation.
"""

from __future__ import annotations

from ossia.harmony import Effort
from ossia.tasks.expressions import (
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


def working(expr: Expr, effort: Effort) -> str:
    """The analysis that works out `expr`."""
    if effort is Effort.LOW:
        return f"{text(expr, '')}={value(expr)}"
    steps = operations(expr)
    blocks = [operation(*step, effort) for step in steps]
    if len(blocks) > 1:
        blocks.insert(0, f"{text(expr)}:")
    if effort is Effort.HIGH and (line := check_line(*steps[-1])):
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
    head = f"{a} {sign} {_bracketed(b)}"
    larger = _larger(abs(a), abs(b)) if plain == "-" else ""
    if larger and x == y:
        return f"{head}: {larger}->0" if high else f"{head}: 0"
    rewritten = f"{x} {plain} {y}" if not minus else f"-({x} {plain} {y})"
    if rewritten != head:
        compare = f"{head}: {larger}\n" if larger and high else ""
        head = f"{compare}{head} = {rewritten}:"
    else:
        head = f"{head}: {larger}" if larger and high else f"{head}:"
    columns, raw = _METHODS[plain](x, y, high)
    lines = [head, *columns] if high else [f"{head} {', '.join(columns)}"]
    if raw != str(result):
        lines.append(f"so {result}")
    return ("\n" if high else ", ").join(lines)


def _is_known(sign: Sign, a: int, b: int) -> bool:
    """Facts that are written down in one go: two single digits, times 0, 1 or 10, divided by 1 or 10."""
    if sign == "/":
        return b in (1, 10) or a == 0
    if sign == "*" and (a in (0, 1, 10) or b in (0, 1, 10)):
        return True
    return 0 <= a <= 9 and 0 <= b <= 9


def _bracketed(b: int) -> str:
    return f"({b})" if b < 0 else str(b)


def _digits(number: int, count: int) -> list[int]:
    """`count` digits from the ones upwards, zeros where the number has none."""
    return [number // 10**place % 10 for place in range(count)]


def _larger(a: int, b: int) -> str:
    """`hundreds 3=3, tens 5<7`: the digits from the top until they differ."""
    count = len(str(max(a, b)))
    found = []
    for place in range(count - 1, -1, -1):
        p, q = a // 10**place % 10, b // 10**place % 10
        found.append(f"{PLACES[place]} {p}{'=' if p == q else '<' if p < q else '>'}{q}")
        if p != q:
            break
    return ", ".join(found)


# Each method returns its columns and the result as it was put together, leading zeros included.


def _add(x: int, y: int, high: bool) -> tuple[list[str], str]:
    count = len(str(max(x, y)))
    lines, carry, done = [], 0, ""
    for place, (p, q) in enumerate(zip(_digits(x, count), _digits(y, count), strict=True)):
        total = p + q + carry
        line = f"{p}+{q}={total}->" if place == 0 else f"{p}+{q}+{carry}={total}->"
        last = place == count - 1
        done = f"{total if last else total % 10}{done}"
        carry = total // 10
        lines.append(_named(line + done, place, "carry", carry, last) if high else line + done)
    return lines, done


def _subtract(x: int, y: int, high: bool) -> tuple[list[str], str]:
    """x - y for x >= y. A column that would be negative has 10 added: `13-7=6`, and the next one is charged
    1.
    """
    count = len(str(x))
    lines, borrow, done = [], 0, ""
    for place, (p, q) in enumerate(zip(_digits(x, count), _digits(y, count), strict=True)):
        taken = q + borrow
        raised = 10 if p < taken else 0
        rest = p + raised - taken
        line = f"{p + raised}-{q}={rest}->" if place == 0 else f"{p + raised}-{q}-{borrow}={rest}->"
        last = place == count - 1
        done = f"{rest}{done}"
        borrow = raised // 10
        lines.append(_named(line + done, place, "borrow", borrow, last) if high else line + done)
    return lines, done


def _multiply(x: int, y: int, high: bool) -> tuple[list[str], str]:
    columns = product_columns(x, y)
    lines, carry, done = [], 0, ""
    for place, pairs in enumerate(columns):
        line, total = _product_column(pairs, carry, place, high)
        last = place == len(columns) - 1
        done = f"{total if last else total % 10}{done}"
        carry = total // 10
        line = f"{line}->{done}"
        lines.append(_named(line, place, "carry", carry, last) if high else line)
    return lines, done


def _product_column(pairs: list[tuple[int, int]], carry: int, place: int, high: bool) -> tuple[str, int]:
    """The sum of a column's products and the carry into it: in single steps at high effort, else in one."""
    products = [p * q for p, q in pairs]
    total = sum(products) + carry
    if place == 0:
        return f"{pairs[0][0]}*{pairs[0][1]}={total}", total
    if not high:
        return f"{'+'.join(map(str, products))}+{carry}={total}", total
    parts = [f"{p}*{q}={p * q}" for p, q in pairs]
    so_far = products[0]
    for term in [*products[1:], carry]:
        parts.append(f"{so_far}+{term}={so_far + term}")
        so_far += term
    return ", ".join(parts), total


def _divide(x: int, y: int, high: bool) -> tuple[list[str], str]:
    """Long division. A line holds what is divided, the multiple that fits, the rest, the quotient so far.

    It is named by the place of the digit that was brought down: `tens 13: 1*9=9 rest 4->1`.
    """
    lines, done, current = [], "", 0
    digits = str(x)
    for index, digit in enumerate(digits):
        current = current * 10 + int(digit)
        last = index == len(digits) - 1
        if not done and current < y and not last:
            continue  # the first part has as many digits as the divisor needs
        quotient, rest = divmod(current, y)
        done += str(quotient)
        line = f"{current}: {quotient}*{y}={quotient * y} rest {rest}->{done}"
        lines.append(f"{PLACES[len(digits) - 1 - index]} {line}" if high else line)
        current = rest
    return lines, done


def _named(line: str, place: int, word: str, carry: int, last: bool) -> str:
    """A column at high effort: its place in front and, unless it is the last, what it hands on."""
    return f"{PLACES[place]} {line}" if last else f"{PLACES[place]} {line} {word} {carry}"


_METHODS = {"+": _add, "-": _subtract, "*": _multiply, "/": _divide}
