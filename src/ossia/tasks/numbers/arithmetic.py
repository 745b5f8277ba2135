"""Arithmetic in words and signs: drawing an expression, asking for it in many ways, and the task
itself.

Knows expressions and their working. What is held out is the operation (its fact family), never the
phrasing, which is in texts/arithmetic.toml.
"""

from __future__ import annotations

from functools import partial
from random import Random

from ossia.tasks.numbers.expressions import Expr, Op, Sign, in_split, text, value
from ossia.tasks.numbers.working import working
from ossia.tasks.problem import Expect, Problem, Split, Turn
from ossia.tasks.words import Words, below

MAX_RESULT = 1000  # of two-step expressions, intermediate values included; a few go to 9999
LARGEST_RESULT = 9999
# digits of the smaller and of the larger factor for which the working stays short
SHORT_PRODUCTS = ([1, 1], [1, 2], [1, 3], [2, 2])
WORDS = Words("arithmetic")
# how many of these also take a noun, such as `the sum of 3 and 4`
QUESTIONS_FOR_NOUNS = 27
ORDERS_FOR_NOUNS = 20

# ---- drawing -------------------------------------------------------------------------------------


def draw_number(rng: Random) -> int:
    """0..999, small numbers more often than their share."""
    kind = rng.random()
    if kind < 0.2:
        return below(rng, 13)
    if kind < 0.72:
        return below(rng, 100)
    return below(rng, 900) + 100


def draw_operation(rng: Random, sign: Sign) -> Op:
    """One operation within the ranges of the task."""
    match sign:
        case "*":
            return _draw_product(rng)
        case "/":
            return _draw_quotient(rng)
        case _:
            return _draw_sum(rng, sign)


def _draw_sum(rng: Random, sign: Sign) -> Op:
    """A sum or a difference; its result is seldom negative."""
    a = draw_number(rng)
    b = draw_number(rng)
    if sign == "-" and a < b and rng.random() < 0.7:
        a, b = b, a
    if rng.random() < 0.01:
        a = -a
    return Op(sign, a, b)


def _draw_quotient(rng: Random) -> Op:
    divisor = rng.randrange(2, 13)
    low, high = (1, 13) if rng.random() < 0.65 else (10, 100)
    quotient = rng.randrange(low, high)
    return Op("/", divisor * quotient, divisor)


def _draw_product(rng: Random) -> Op:
    kind = rng.random()
    if kind < 0.42:
        first, second = (0, 13), (0, 13)
    elif kind < 0.84:
        first, second = (10, 100), (2, 10)
    elif kind < 0.98:
        first, second = (10, 100), (10, 100)
    else:
        first, second = (100, 1000), (2, 10)
    a = rng.randrange(*first)
    b = rng.randrange(*second)
    if rng.random() < 0.35:
        a, b = b, a
    return Op("*", a, b)


def draw_one_step(rng: Random, split: Split) -> Op:
    while True:
        expr = draw_operation(rng, _draw_sign(rng))
        if in_split(expr, split):
            return expr


def _draw_sign(rng: Random) -> Sign:
    pick = rng.random()
    if pick < 0.33:
        return "+"
    if pick < 0.66:
        return "-"
    return "*" if pick < 0.9 else "/"


def draw_two_steps(rng: Random, split: Split) -> Op:
    while True:
        expr = _two_steps(rng)
        if _is_in_range(rng, expr) and in_split(expr, split):
            return expr


def _two_steps(rng: Random) -> Op:
    """One of the shapes a+b-c, a*b+c, a-b*c, (a+b)*c, c*(a-b), a*b*c, (a+b)/c, a/b+c."""
    top = _largest_term(rng)
    a = below(rng, top + 1)
    b = below(rng, top + 1)
    c = below(rng, top + 1)
    shape = rng.random()
    first = _plus_or_minus(rng)
    second = _plus_or_minus(rng)
    if shape < 0.4:
        return Op(second, Op(first, a, b), c)
    if shape < 0.68:
        large = top > 12 and rng.random() < 0.4
        product = _draw_product(rng) if large else _small_product(rng)
        before = rng.random() < 0.5
        return Op(second, product, c) if before else Op(second, a, product)
    if shape < 0.88:
        factor = rng.randrange(2, 10)
        inner = Op(first, a, b)
        after = rng.random() < 0.7
        return Op("*", inner, factor) if after else Op("*", factor, inner)
    if shape < 0.91:
        return Op("*", _small_product(rng), rng.randrange(1, 13))
    divisor = rng.randrange(2, 13)
    largest = 13 if rng.random() < 0.7 else 100
    whole = divisor * rng.randrange(1, largest)
    if shape < 0.95:
        part = min(a, whole)
        return Op("/", Op("+", part, whole - part), divisor)
    return Op(second, Op("/", whole, divisor), c)


def _largest_term(rng: Random) -> int:
    size = rng.random()
    if size < 0.4:
        return 12
    return 99 if size < 0.92 else 999


def _plus_or_minus(rng: Random) -> Sign:
    return "+" if rng.random() < 0.5 else "-"


def _small_product(rng: Random) -> Op:
    a = rng.randrange(1, 13)
    b = rng.randrange(1, 13)
    return Op("*", a, b)


def _is_in_range(rng: Random, expr: Op) -> bool:
    """Small intermediate values, rarely negative ones or larger ones, and only products that the
    working is short for.
    """
    parts = [part for part in (expr.left, expr.right, expr) if isinstance(part, Op)]
    if not all(map(_is_short, parts)):
        return False
    results = [value(part) for part in parts]  # that of the whole is the last
    if min(results[:-1], default=0) < 0 and rng.random() < 0.8:
        return False
    largest = max(map(abs, results))
    if largest <= MAX_RESULT:
        return True
    return largest <= LARGEST_RESULT and rng.random() < 0.05


def _is_short(part: Op) -> bool:
    if part.sign != "*":
        return True
    factors = (value(part.left), value(part.right))
    return sorted(len(str(abs(factor))) for factor in factors) in SHORT_PRODUCTS


# ---- asking --------------------------------------------------------------------------------------


def in_words(number: int) -> str:
    """0..9999 in English words: 348 -> `three hundred forty-eight`."""
    small = WORDS["numbers"]
    if number < len(small):
        return small[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        word = WORDS["tens"][tens]
        return f"{word}-{small[ones]}" if ones else word
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    many, rest = divmod(number, size)
    said = f"{in_words(many)} {name}"
    return f"{said} {in_words(rest)}" if rest else said


def say(rng: Random, expr: Expr) -> str:
    """An expression as people write it: `12*7`, `12 x 7`, `12 times 7`; precedence is kept."""
    if isinstance(expr, int):
        return str(expr)
    style = rng.random()
    if style < 0.62:
        space = " " if rng.random() < 0.62 else ""
        return _signed(rng, text(expr, space))
    words = text(expr)
    if "(" in words:
        return _signed(rng, words)
    said = {f" {sign} ": f" {rng.choice(WORDS.table('word')[sign])} " for sign in "+-*/"}
    for sign, word in said.items():
        words = words.replace(sign, word)
    return _spell(words) if style > 0.97 else words


def _signed(rng: Random, formula: str) -> str:
    for sign in "*/":
        if sign in formula:
            formula = formula.replace(sign, rng.choice(WORDS.table("sign")[sign]))
    if "-" in formula and formula[0] != "-" and rng.random() < 0.06:
        formula = formula.replace("-", "\N{MINUS SIGN}")
    return formula


def _spell(words: str) -> str:
    """Numbers as words where they are small enough."""

    def spelled(word: str) -> str:
        small = word.isdigit() and int(word) < 100
        return in_words(int(word)) if small else word

    return " ".join(map(spelled, words.split(" ")))


def ask(rng: Random, expr: Op) -> str:
    """A user's message that asks for the value of `expr`."""
    kind = rng.random()
    plain = isinstance(expr.left, int) and isinstance(expr.right, int)
    if plain and kind < 0.3:
        return _ask_in_words(rng, expr)
    if not plain and kind < 0.14 and (steps := _as_orders(rng, expr)):
        return dress(rng, steps, _maybe(rng, 0.6, "."))
    said = say(rng, expr)
    if kind < 0.45:
        bare = rng.choice(WORDS["bare"]).format(e=said)
        return bare if rng.random() < 0.9 else rng.choice(WORDS["greetings"]) + bare
    if kind < 0.8:
        return dress(rng, rng.choice(WORDS["questions"]).format(e=said), "?")
    order = rng.choice(WORDS["orders"]).format(e=said)
    return dress(rng, order, _maybe(rng, 0.5, "."))


def _maybe(rng: Random, share: float, mark: str) -> str:
    return mark if rng.random() < share else ""


def _ask_in_words(rng: Random, expr: Op) -> str:
    a, b = expr.left, expr.right
    assert isinstance(a, int) and isinstance(b, int)
    spelled = rng.random() >= 0.96
    names = {"a": _word(a), "b": _word(b)} if spelled else {"a": str(a), "b": str(b)}
    if b == 2 and rng.random() < 0.4 and expr.sign in "*/":
        noun = f"twice {a}" if expr.sign == "*" else f"half of {a}"
    elif rng.random() < 0.45:
        return _ask_to_do(rng, rng.choice(WORDS.table("order")[expr.sign]).format(**names))
    else:
        nouns = WORDS.table("noun")[expr.sign]
        # "the difference between 5 and 12" would have two readings
        first = 2 if expr.sign == "-" and a < b else 0
        noun = nouns[rng.randrange(first, len(nouns))].format(**names)
    return _ask_for(rng, noun)


def _word(number: int) -> str:
    return in_words(number) if 0 <= number < 10000 else str(number)


def _ask_to_do(rng: Random, order: str) -> str:
    if rng.random() < 0.25:
        frame = rng.choice(WORDS["questions around orders"])
        return dress(rng, frame.format(e=order), "?")
    return dress(rng, order, _maybe(rng, 0.6, "."))


def _ask_for(rng: Random, noun: str) -> str:
    """For what a noun names: `the sum of 3 and 4`."""
    luck = rng.random()
    if luck < 0.15:
        bare = noun.removeprefix("the ") if rng.random() < 0.5 else noun
        if luck < 0.08:
            return dress(rng, bare, "?")
        return dress(rng, bare, "." if luck < 0.1 else "")
    if luck < 0.75:
        question = rng.choice(WORDS["questions"][:QUESTIONS_FOR_NOUNS])
        return dress(rng, question.format(e=noun), "?")
    order = rng.choice(WORDS["orders"][:ORDERS_FOR_NOUNS])
    return dress(rng, order.format(e=noun), _maybe(rng, 0.6, "."))


def _as_orders(rng: Random, expr: Op) -> str:
    """`Start with 12, add 30, then subtract 5`, for expressions that are worked out from left to
    right.
    """
    inner = expr.left
    if not isinstance(inner, Op) or not isinstance(expr.right, int):
        return ""
    then = WORDS.table("then")
    last = rng.choice(then[expr.sign]).format(n=expr.right)
    joint = rng.choice(WORDS["joints"])
    if rng.random() < 0.5 and isinstance(inner.left, int) and isinstance(inner.right, int):
        order = rng.choice(WORDS.table("order")[inner.sign])
        return order.format(a=inner.left, b=inner.right) + joint + last
    start = rng.choice(WORDS["starts"]).format(n=inner.left)
    middle = rng.choice(then[inner.sign]).format(n=inner.right)
    return start + middle + joint + last


def dress(rng: Random, sentence: str, mark: str) -> str:
    """Capitals, the final mark, a greeting or a thank-you: what varies between people who ask the
    same thing.
    """
    luck = rng.random()
    if mark != "?" and rng.random() < 0.07:
        sentence = f"please {sentence.removeprefix('please ')}"
    elif luck > 0.993:
        return sentence.upper() + mark
    if luck < 0.06:
        before = rng.choice(WORDS["greetings"])
        if before[-2] in ".!" and luck >= 0.02:
            sentence = _capital(sentence)
        sentence = before + sentence
    elif luck < 0.13:
        after = rng.choice(WORDS["thanks"])
        ended = mark if after[1].isupper() else ""
        return _capital(sentence) + ended + after
    if rng.random() < 0.24:
        return sentence + _maybe(rng, 0.5, mark)
    return _capital(sentence) + _maybe(rng, 0.9, mark)


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


# ---- the task ------------------------------------------------------------------------------------


def answer_sentence(expr: Expr) -> str:
    return f"{text(expr)} = {value(expr)}"


def turn_for(expr: Op, user: str) -> Turn:
    """A turn that asks for `expr` and is answered by working it out."""
    return Turn(user, answer_sentence(expr), partial(working, expr))


def arithmetic_question(rng: Random, split: Split) -> Problem:
    """One question about an expression of one or two operations."""
    draw = draw_one_step if rng.random() < 0.62 else draw_two_steps
    expr = draw(rng, split)
    turn = turn_for(expr, ask(rng, expr))
    return Problem("arithmetic", split, (turn,), Expect(number=value(expr)))
