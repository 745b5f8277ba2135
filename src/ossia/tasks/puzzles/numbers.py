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


def _draw_modular(rng: Random) -> tuple[str, Modular]:
    sign = rng.choice(_SIGNS)
    m = rng.randrange(3, 13)
    a = rng.randrange(100)
    b = rng.randrange(100)
    if sign == "-" and a < b:
        a, b = b, a
    return f"{min(a, b)} {sign} {max(a, b)} mod {m}", (sign, a, b, m)


def _build_modular(rng: Random, content: Modular) -> Puzzle:
    sign, a, b, m = content
    x = a % m
    y = b % m
    result = apply(sign, a, b) % m
    steps = [*_rest(a, m), *_rest(b, m), *_small_modular(sign, x, y, m)]
    if sign == "-":
        checked = [f"{result}+{y}={result + y}", *_rest(result + y, m), f"as {a}"]
    else:
        checked = _small_modular(sign, y, x, m)
    formula = f"({a} {sign} {b}) mod {m}"
    return Puzzle(
        asked(rng, f"modular {sign}", f=formula, a=a, b=b, m=m),
        final=f"{formula} = {result}",
        expect=Expect(number=result),
        steps=(*steps, f"so {result}"),
        lines=(f"{a} {sign} {b} modulo {m}:", *steps, f"so {result}"),
        check=", ".join(checked),
    )


def _small_modular(sign: Sign, x: int, y: int, m: int) -> list[str]:
    """x sign y for numbers below m, reduced."""
    if sign == "-" and x < y:
        return [f"{x}-{y}<0", f"{x}+{m}={x + m}", f"{x + m}-{y}={x + m - y}"]
    found = apply(sign, x, y)
    return [f"{x}{sign}{y}={found}", *_rest(found, m)]


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
    rest = number
    so_far = ""
    steps = []
    while rest:
        so_far = f"{rest % base}{so_far}"
        step = division_step(rest, base) if rest >= base else str(rest)
        steps.append(f"{step}->{so_far}")
        rest //= base
    return Puzzle(
        asked(rng, "to base", n=number, b=base),
        final=f"{number} in base {base} is {so_far}",
        expect=Expect(equals=so_far),
        steps=tuple(steps),
        lines=(f"{number} to base {base}:", *steps),
        check=", ".join(_horner(so_far, base)),
    )


def _build_from_base(rng: Random, content: tuple[int, int]) -> Puzzle:
    number, base = content
    digits = in_base(number, base)
    steps = (*_horner(digits, base), f"so {number}")
    return Puzzle(
        asked(rng, "from base", d=digits, b=base),
        final=f"{digits} in base {base} is {number}",
        expect=Expect(equals=str(number)),
        steps=steps,
        lines=(f"{digits} from base {base}:", *steps),
        check=f"{division_step(number, base)}, last digit {number % base}",
    )


def _horner(digits: str, base: int) -> list[str]:
    """The value of digits, from the left: times the base, plus the next digit."""
    value = int(digits[0])
    steps = [digits[0]]
    for digit in digits[1:]:
        moved = value * base
        found = moved + int(digit)
        steps.append(f"{value}*{base}={moved}, {moved}+{digit}={found}")
        value = found
    return steps


# ---- greatest common divisor ---------------------------------------------------------------------


def _draw_gcd(rng: Random) -> tuple[str, tuple[int, int]]:
    factor = rng.choice((1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12))
    a = factor * rng.randrange(1, 100 // factor)
    b = factor * rng.randrange(1, 100 // factor)
    return f"gcd {min(a, b)} {max(a, b)}", (a, b)


def _build_gcd(rng: Random, content: tuple[int, int]) -> Puzzle:
    a, b = content
    x = max(a, b)
    y = min(a, b)
    steps = []
    while y:
        steps.append(division_step(x, y))
        x, y = y, x % y
    steps.append(f"so {x}")
    return Puzzle(
        asked(rng, "gcd", a=a, b=b),
        final=f"gcd({a}, {b}) = {x}",
        expect=Expect(number=x),
        steps=tuple(steps),
        lines=(f"gcd({a}, {b}):", *steps),
        check=f"{a // x}*{x}={a}, {b // x}*{x}={b}",
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
    text = str(terms[0])
    for term in terms[1:]:
        text += f" - {-term}" if term < 0 else f" + {term}"
    return text


def _build_chain(rng: Random, terms: Chain) -> Puzzle:
    total = terms[0]
    steps = []
    for term in terms[1:]:
        steps.append(f"{total}{term:+d}={total + term}")
        total += term
    plus = sum(term for term in terms if term > 0)
    minus = plus - total
    formula = _chain_text(terms)
    return Puzzle(
        asked(rng, "chain", f=formula),
        final=f"{formula} = {total}",
        expect=Expect(number=total),
        steps=tuple(steps),
        lines=tuple([f"{index}: {step}" for index, step in enumerate(steps, 1)]),
        check=f"all plus {plus}, all minus {minus}, {plus}-{minus}={total}",
    )


# ---- digits --------------------------------------------------------------------------------------


def _draw_digits(rng: Random) -> tuple[str, int]:
    number = rng.randrange(100, 10 ** rng.randrange(3, 7))
    return f"digits {number}", number


def _build_digits(rng: Random, number: int) -> Puzzle:
    digits = [int(digit) for digit in str(number)]
    total = sum(digits)
    steps = _running(digits)
    return Puzzle(
        asked(rng, "digit sum", n=number),
        final=f"The digit sum of {number} is {total}",
        expect=Expect(number=total),
        steps=tuple(steps),
        lines=(f"digits {' '.join(str(number))}", *steps),
        check=f"from the end {', '.join(_running(digits[::-1]))}",
    )


def _running(numbers: list[int]) -> list[str]:
    total = numbers[0]
    steps = []
    for number in numbers[1:]:
        steps.append(f"{total}+{number}={total + number}")
        total += number
    return steps


# ---- lists ---------------------------------------------------------------------------------------


def _draw_numbers(rng: Random) -> tuple[str, list[int]]:
    top = 100 if rng.random() < 0.7 else 1000
    numbers = rng.sample(range(top), rng.randrange(3, 8))
    return f"numbers {sorted(numbers)}", numbers


def _listed(numbers: list[int], between: str = ", ") -> str:
    return between.join(map(str, numbers))


def _build_sorted(rng: Random, numbers: list[int]) -> Puzzle:
    down = rng.random() < 0.35
    word, sign = ("largest", " > ") if down else ("smallest", " < ")
    wanted = sorted(numbers, reverse=down)
    left = list(numbers)
    lines = []
    for number in wanted:
        lines.append(f"left {_listed(left, ' ')}: {word} {number}")
        left.remove(number)
    return Puzzle(
        asked(rng, "sort numbers", n=_listed(numbers), w=word),
        final=f"Sorted: {_listed(wanted)}",
        expect=Expect(equals=_listed(wanted)),
        steps=(f"{word} {wanted[0]}", *[f"then {number}" for number in wanted[1:]]),
        lines=tuple(lines),
        check=f"{_listed(wanted, sign)}, {len(wanted)} of {len(numbers)} numbers",
    )


def _build_extreme(rng: Random, numbers: list[int]) -> Puzzle:
    large = rng.random() < 0.5
    word, sign = ("largest", ">") if large else ("smallest", "<")
    best = numbers[0]
    lines = [f"start {best}"]
    steps = [*lines]
    for number in numbers[1:]:
        better = number > best if large else number < best
        line = f"{number}{sign}{best} {'yes' if better else 'no'}"
        lines.append(line)
        if better:
            steps.append(line)
            best = number
    others = [number for number in numbers if number != best]
    return Puzzle(
        asked(rng, "extreme", n=_listed(numbers), w=word),
        final=f"The {word} is {best}",
        expect=Expect(number=best),
        steps=(*steps, f"so {best}"),
        lines=tuple(lines),
        check=f"{best}{sign} all of {_listed(others, ' ')}",
    )


def _build_even(rng: Random, numbers: list[int]) -> Puzzle:
    even: list[int] = []
    lines = []
    for number in numbers:
        odd = number % 2
        if not odd:
            even.append(number)
        lines.append(f"{number} ends in {number % 10}, {'odd' if odd else 'even'}, {len(even)}")
    count = len(even)
    others = len(numbers) - count
    return Puzzle(
        asked(rng, "count even", n=_listed(numbers)),
        final=f"The count of even numbers is {count}",
        expect=Expect(number=count),
        steps=(f"even {_listed(even, ' ') or 'none'}", f"so {count}"),
        lines=tuple(lines),
        check=f"odd {others}, {count}+{others}={len(numbers)} numbers",
    )


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
