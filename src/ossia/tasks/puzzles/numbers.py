"""Puzzles about numbers: modular arithmetic, bases, greatest common divisors, chains of sums,
digits and lists.

Knows the single steps of the written methods (`working.py`). The symmetric variants of a puzzle (37
+ 48 and 48 + 37, a list in another order, a number and its digits in a base) share a key and with
it their split.
"""

from __future__ import annotations

from random import Random

from ossia.tasks.numbers.expressions import Sign, apply
from ossia.tasks.numbers.working import division_step
from ossia.tasks.problem import Expect
from ossia.tasks.puzzles.puzzle import Form, Puzzle, asked

Modular = tuple[Sign, int, int, int]

# ---- (a + b) mod m -------------------------------------------------------------------------------

_SIGNS: tuple[Sign, ...] = ("+", "-", "*")
_MODULAR = {
    "+": ("add {a} and {b} modulo {m}", "work out {a} plus {b} modulo {m}"),
    "-": ("subtract {b} from {a} modulo {m}", "work out {a} minus {b} modulo {m}"),
    "*": ("multiply {a} by {b} modulo {m}", "work out {a} times {b} modulo {m}"),
}


def _draw_modular(rng: Random) -> tuple[str, Modular]:
    sign, m = rng.choice(_SIGNS), rng.randrange(3, 13)
    a, b = rng.randrange(100), rng.randrange(100)
    if sign == "-" and a < b:
        a, b = b, a
    return f"{min(a, b)} {sign} {max(a, b)} mod {m}", (sign, a, b, m)


def _build_modular(rng: Random, content: Modular) -> Puzzle:
    sign, a, b, m = content
    x, y, result = a % m, b % m, apply(sign, a, b) % m
    steps = [*_rest(a, m), *_rest(b, m)]
    if sign == "-" and x < y:
        steps += [f"{x}-{y}<0", f"{x}+{m}={x + m}", f"{x + m}-{y}={x + m - y}"]
    else:
        steps += [f"{x}{sign}{y}={apply(sign, x, y)}", *_rest(apply(sign, x, y), m)]
    lines = (f"{a} {sign} {b} modulo {m}:", *steps, f"so {result}")
    if sign == "-":
        check = ", ".join([f"{result}+{y}={result + y}", *_rest(result + y, m), f"as {a}"])
    else:
        check = ", ".join([f"{y}{sign}{x}={apply(sign, y, x)}", *_rest(apply(sign, y, x), m)])
    formula = f"({a} {sign} {b}) mod {m}"
    question, mark = asked(
        rng,
        ("what is {f}", "how much is {f}", "{f}"),
        (*_MODULAR[sign], "compute {f}"),
        f=formula,
        a=a,
        b=b,
        m=m,
    )
    final = f"{formula} = {result}"
    return Puzzle(
        question, mark, final, Expect(number=result), (*steps, f"so {result}"), lines, check
    )


def _rest(a: int, m: int) -> list[str]:
    """How a is reduced modulo m; nothing to write if it is small."""
    return [division_step(a, m)] if a >= m else []


# ---- bases ---------------------------------------------------------------------------------------


def _draw_based(rng: Random) -> tuple[str, tuple[int, int]]:
    base = rng.choice((2, 2, 2, 3, 4, 5, 6, 7, 8, 9))
    number = rng.randrange(base, 64 if base == 2 else 200)
    return f"{number} in base {base}", (number, base)


def in_base(number: int, base: int) -> str:
    """The digits of a number >= 0 in a base of 2 to 10."""
    digits = ""
    while number >= base:
        digits = f"{number % base}{digits}"
        number //= base
    return f"{number}{digits}"


def _build_to_base(rng: Random, content: tuple[int, int]) -> Puzzle:
    number, base = content
    rest, so_far, steps = number, "", []
    while rest:
        so_far = f"{rest % base}{so_far}"
        steps.append(
            f"{division_step(rest, base)}->{so_far}" if rest >= base else f"{rest}->{so_far}"
        )
        rest //= base
    question, mark = asked(
        rng,
        (
            "what is {n} in base {b}",
            "how do you write {n} in base {b}",
            "what are the digits of {n} in base {b}",
        ),
        ("write {n} in base {b}", "convert {n} to base {b}", "turn {n} into base {b}"),
        n=number,
        b=base,
    )
    final = f"{number} in base {base} is {so_far}"
    head = f"{number} to base {base}:"
    check = ", ".join(_horner(so_far, base))
    return Puzzle(question, mark, final, Expect(equals=so_far), tuple(steps), (head, *steps), check)


def _build_from_base(rng: Random, content: tuple[int, int]) -> Puzzle:
    number, base = content
    digits = in_base(number, base)
    steps = _horner(digits, base)
    question, mark = asked(
        rng,
        (
            "which number is {d} in base {b}",
            "what number is {d} in base {b}",
            "what is the base {b} number {d}",
        ),
        (
            "convert {d} from base {b}",
            "read {d} in base {b}",
            "turn the base {b} number {d} into a usual number",
        ),
        d=digits,
        b=base,
    )
    final = f"{digits} in base {base} is {number}"
    lines = (f"{digits} from base {base}:", *steps, f"so {number}")
    check = f"{division_step(number, base)}, last digit {number % base}"
    return Puzzle(
        question, mark, final, Expect(equals=str(number)), (*steps, f"so {number}"), lines, check
    )


def _horner(digits: str, base: int) -> list[str]:
    """The value of digits, from the left: times the base, plus the next digit."""
    value = int(digits[0])
    steps = [digits[0]]
    for digit in digits[1:]:
        steps.append(
            f"{value}*{base}={value * base}, {value * base}+{digit}={value * base + int(digit)}"
        )
        value = value * base + int(digit)
    return steps


# ---- greatest common divisor ---------------------------------------------------------------------


def _draw_gcd(rng: Random) -> tuple[str, tuple[int, int]]:
    factor = rng.choice((1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12))
    a, b = factor * rng.randrange(1, 100 // factor), factor * rng.randrange(1, 100 // factor)
    return f"gcd {min(a, b)} {max(a, b)}", (a, b)


def _build_gcd(rng: Random, content: tuple[int, int]) -> Puzzle:
    a, b = content
    x, y, steps = max(a, b), min(a, b), []
    while y:
        steps.append(division_step(x, y))
        x, y = y, x % y
    question, mark = asked(
        rng,
        ("what is gcd({a}, {b})", "what is the greatest common divisor of {a} and {b}",
         "which is the largest number that divides {a} and {b}"),
        ("find the greatest common divisor of {a} and {b}", "compute gcd({a}, {b})"),
        a=a, b=b,
    )  # fmt: skip
    lines = (f"gcd({a}, {b}):", *steps, f"so {x}")
    check = f"{a // x}*{x}={a}, {b // x}*{x}={b}"
    return Puzzle(
        question, mark, f"gcd({a}, {b}) = {x}", Expect(number=x), (*steps, f"so {x}"), lines, check
    )


# ---- chains of sums ------------------------------------------------------------------------------

Chain = tuple[int, ...]  # signed terms


def _draw_chain(rng: Random) -> tuple[str, Chain]:
    """Four to seven terms, so that no chain is an expression of the arithmetic task."""
    top = 10 if rng.random() < 0.5 else 100
    terms = [rng.randrange(1, top)]
    total = terms[0]
    for _ in range(rng.randrange(3, 7)):
        term = rng.randrange(1, top)
        if rng.random() < 0.45 and term <= total:
            term = -term
        terms.append(term)
        total += term
    return f"chain {_chain_text(tuple(terms))}", tuple(terms)


def _chain_text(terms: Chain) -> str:
    return " ".join(
        [str(terms[0]), *[f"{'-' if term < 0 else '+'} {abs(term)}" for term in terms[1:]]]
    )


def _build_chain(rng: Random, terms: Chain) -> Puzzle:
    total, steps = terms[0], []
    for term in terms[1:]:
        steps.append(f"{total}{term:+d}={total + term}")
        total += term
    plus, minus = sum(t for t in terms if t > 0), -sum(t for t in terms if t < 0)
    formula = _chain_text(terms)
    question, mark = asked(
        rng,
        ("what is {f}", "how much is {f}", "{f}", "what do you get for {f}"),
        ("work out {f}", "add up {f}", "find the total of {f}"),
        f=formula,
    )
    lines = [f"{index}: {step}" for index, step in enumerate(steps, 1)]
    check = f"all plus {plus}, all minus {minus}, {plus}-{minus}={total}"
    return Puzzle(
        question,
        mark,
        f"{formula} = {total}",
        Expect(number=total),
        tuple(steps),
        tuple(lines),
        check,
    )


# ---- digits --------------------------------------------------------------------------------------


def _draw_digits(rng: Random) -> tuple[str, int]:
    number = rng.randrange(100, 10 ** rng.randrange(3, 7))
    return f"digits {number}", number


def _build_digits(rng: Random, number: int) -> Puzzle:
    digits = [int(digit) for digit in str(number)]
    total = sum(digits)
    question, mark = asked(
        rng,
        (
            "what is the sum of the digits of {n}",
            "what do the digits of {n} add up to",
            "what is the digit sum of {n}",
        ),
        ("add the digits of {n}", "find the digit sum of {n}"),
        n=number,
    )
    final = f"The digit sum of {number} is {total}"
    lines = (f"digits {' '.join(str(number))}", *_running(digits))
    check = f"from the end {', '.join(_running(digits[::-1]))}"
    return Puzzle(
        question, mark, final, Expect(number=total), tuple(_running(digits)), lines, check
    )


def _running(numbers: list[int]) -> list[str]:
    total, steps = numbers[0], []
    for number in numbers[1:]:
        steps.append(f"{total}+{number}={total + number}")
        total += number
    return steps


# ---- lists ---------------------------------------------------------------------------------------


def _draw_numbers(rng: Random) -> tuple[str, list[int]]:
    numbers = rng.sample(range(100 if rng.random() < 0.7 else 1000), rng.randrange(3, 8))
    return f"numbers {sorted(numbers)}", numbers


def _build_sorted(rng: Random, numbers: list[int]) -> Puzzle:
    down = rng.random() < 0.35
    wanted, word = sorted(numbers, reverse=down), "largest" if down else "smallest"
    left, lines = list(numbers), []
    for number in wanted:
        lines.append(f"left {' '.join(map(str, left))}: {word} {number}")
        left.remove(number)
    question, mark = asked(
        rng,
        ("what is the order of {n} from the {w}", "how do you sort {n} from the {w}"),
        (
            "sort {n} from the {w}",
            "put {n} in order, {w} first",
            "sort these numbers, {w} first: {n}",
        ),
        n=", ".join(map(str, numbers)),
        w=word,
    )
    listed = ", ".join(map(str, wanted))
    steps = (f"{word} {wanted[0]}", *[f"then {number}" for number in wanted[1:]])
    check = f"{(' > ' if down else ' < ').join(map(str, wanted))}, {len(wanted)} of {len(numbers)} numbers"
    return Puzzle(
        question, mark, f"Sorted: {listed}", Expect(equals=listed), steps, tuple(lines), check
    )


def _build_extreme(rng: Random, numbers: list[int]) -> Puzzle:
    large = rng.random() < 0.5
    word, sign = ("largest", ">") if large else ("smallest", "<")
    best, lines = numbers[0], [f"start {numbers[0]}"]
    for number in numbers[1:]:
        better = number > best if large else number < best
        lines.append(f"{number}{sign}{best} yes" if better else f"{number}{sign}{best} no")
        best = number if better else best
    question, mark = asked(
        rng,
        ("which is the {w} of {n}", "what is the {w} number of {n}", "which of {n} is the {w}"),
        ("find the {w} of {n}", "name the {w} number in {n}"),
        n=", ".join(map(str, numbers)),
        w=word,
    )
    others = [str(number) for number in numbers if number != best]
    check = f"{best}{sign} all of {' '.join(others)}"
    steps = (*[line for line in lines if not line.endswith("no")], f"so {best}")
    return Puzzle(
        question, mark, f"The {word} is {best}", Expect(number=best), steps, tuple(lines), check
    )


def _build_even(rng: Random, numbers: list[int]) -> Puzzle:
    even = [number for number in numbers if number % 2 == 0]
    count, lines = 0, []
    for number in numbers:
        count += number % 2 == 0
        lines.append(
            f"{number} ends in {number % 10}, {'even' if number % 2 == 0 else 'odd'}, {count}"
        )
    question, mark = asked(
        rng,
        ("how many of {n} are even", "how many even numbers are in {n}"),
        ("count the even numbers in {n}", "count how many of {n} are even"),
        n=", ".join(map(str, numbers)),
    )
    steps = (f"even {' '.join(map(str, even)) or 'none'}", f"so {count}")
    odd = len(numbers) - count
    check = f"odd {odd}, {count}+{odd}={len(numbers)} numbers"
    final = f"The count of even numbers is {count}"
    return Puzzle(question, mark, final, Expect(number=count), steps, tuple(lines), check)


NUMBER_FORMS = {
    "modular": Form(_draw_modular, _build_modular),
    "to base": Form(_draw_based, _build_to_base),
    "from base": Form(_draw_based, _build_from_base),
    "gcd": Form(_draw_gcd, _build_gcd),
    "chain": Form(_draw_chain, _build_chain),
    "digit sum": Form(_draw_digits, _build_digits),
    "sort numbers": Form(_draw_numbers, _build_sorted),
    "extreme": Form(_draw_numbers, _build_extreme),
    "count even": Form(_draw_numbers, _build_even),
}
