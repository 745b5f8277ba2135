"""Arithmetic in words and signs: drawing an expression, asking for it in many ways, and the task
itself.

Knows expressions and their working. Operations (their fact families) are held out, never phrasings,
which are in texts/arithmetic.toml.
"""

from __future__ import annotations

from functools import partial
from random import Random

from ossia.tasks.numbers.expressions import Expr, Op, Sign, in_split, text, value
from ossia.tasks.numbers.working import working
from ossia.tasks.problem import Expect, Problem, Split, Turn
from ossia.tasks.words import Words, below, sentence

MAX_RESULT = 1000  # of two-step expressions, intermediate values included; a few go to 9999
LARGEST_RESULT = 9999
# digits of the smaller and the larger factor of products with a short working
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
    if rng.random() < 0.65:
        quotient = rng.randrange(1, 13)
    else:
        quotient = rng.randrange(10, 100)
    return Op("/", divisor * quotient, divisor)


def _draw_product(rng: Random) -> Op:
    kind = rng.random()
    if kind < 0.42:
        a = rng.randrange(0, 13)
        b = rng.randrange(0, 13)
    elif kind < 0.84:
        a = rng.randrange(10, 100)
        b = rng.randrange(2, 10)
    elif kind < 0.98:
        a = rng.randrange(10, 100)
        b = rng.randrange(10, 100)
    else:
        a = rng.randrange(100, 1000)
        b = rng.randrange(2, 10)
    if rng.random() < 0.35:
        return Op("*", b, a)
    return Op("*", a, b)


def draw_one_step(rng: Random, split: Split) -> Op:
    while True:
        sign = _draw_sign(rng)
        expr = draw_operation(rng, sign)
        if in_split(expr, split):
            return expr


def _draw_sign(rng: Random) -> Sign:
    kind = rng.random()
    if kind < 0.33:
        return "+"
    if kind < 0.66:
        return "-"
    if kind < 0.9:
        return "*"
    return "/"


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
        inner = Op(first, a, b)
        return Op(second, inner, c)
    if shape < 0.68:
        large = top > 12 and rng.random() < 0.4
        product = _draw_product(rng) if large else _small_product(rng)
        if rng.random() < 0.5:
            return Op(second, product, c)
        return Op(second, a, product)
    if shape < 0.88:
        factor = rng.randrange(2, 10)
        inner = Op(first, a, b)
        if rng.random() < 0.7:
            return Op("*", inner, factor)
        return Op("*", factor, inner)
    if shape < 0.91:
        product = _small_product(rng)
        factor = rng.randrange(1, 13)
        return Op("*", product, factor)
    return _two_steps_of_a_quotient(rng, shape, second, a, c)


def _two_steps_of_a_quotient(rng: Random, shape: float, sign: Sign, a: int, c: int) -> Op:
    divisor = rng.randrange(2, 13)
    largest = 13 if rng.random() < 0.7 else 100
    whole = divisor * rng.randrange(1, largest)
    if shape < 0.95:
        part = min(a, whole)
        dividend = Op("+", part, whole - part)
        return Op("/", dividend, divisor)
    quotient = Op("/", whole, divisor)
    return Op(sign, quotient, c)


def _largest_term(rng: Random) -> int:
    size = rng.random()
    if size < 0.4:
        return 12
    if size < 0.92:
        return 99
    return 999


def _plus_or_minus(rng: Random) -> Sign:
    return "+" if rng.random() < 0.5 else "-"


def _small_product(rng: Random) -> Op:
    a = rng.randrange(1, 13)
    b = rng.randrange(1, 13)
    return Op("*", a, b)


def _is_in_range(rng: Random, expr: Op) -> bool:
    """Whether values are small, rarely negative or larger, and the working of products is short."""
    parts = [part for part in (expr.left, expr.right, expr) if isinstance(part, Op)]
    if not all(map(_is_short, parts)):
        return False
    results = [value(part) for part in parts]
    *intermediate, _ = results
    negative = any(result < 0 for result in intermediate)
    if negative and rng.random() < 0.8:
        return False
    largest = max(map(abs, results))
    if largest <= MAX_RESULT:
        return True
    return largest <= LARGEST_RESULT and rng.random() < 0.05


def _is_short(part: Op) -> bool:
    if part.sign != "*":
        return True
    digits = [len(str(abs(value(factor)))) for factor in (part.left, part.right)]
    return sorted(digits) in SHORT_PRODUCTS


# ---- asking --------------------------------------------------------------------------------------


def in_words(number: int) -> str:
    """0..9999 in English words: 348 -> `three hundred forty-eight`."""
    small = WORDS["numbers"]
    if number < len(small):
        return small[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        said = WORDS["tens"][tens]
        between = "-"
    elif number < 1000:
        hundreds, rest = divmod(number, 100)
        said = f"{in_words(hundreds)} hundred"
        between = " "
    else:
        thousands, rest = divmod(number, 1000)
        said = f"{in_words(thousands)} thousand"
        between = " "
    if rest == 0:
        return said
    return said + between + in_words(rest)


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
    names = WORDS.table("word")
    said = {sign: rng.choice(names[sign]) for sign in "+-*/"}
    for sign, name in said.items():
        words = words.replace(f" {sign} ", f" {name} ")
    if style > 0.97:
        return _spell(words)
    return words


def _signed(rng: Random, formula: str) -> str:
    for sign in "*/":
        if sign in formula:
            written = rng.choice(WORDS.table("sign")[sign])
            formula = formula.replace(sign, written)
    if "-" in formula and formula[0] != "-" and rng.random() < 0.06:
        formula = formula.replace("-", "\N{MINUS SIGN}")
    return formula


def _spell(words: str) -> str:
    """The text with numbers up to 99 as words."""
    spelled = []
    for word in words.split(" "):
        if word.isdigit() and int(word) < 100:
            word = in_words(int(word))
        spelled.append(word)
    return " ".join(spelled)


def ask(rng: Random, expr: Op) -> str:
    """A user's message that asks for the value of `expr`."""
    kind = rng.random()
    plain = isinstance(expr.left, int) and isinstance(expr.right, int)
    if plain and kind < 0.3:
        return _ask_in_words(rng, expr)
    if not plain and kind < 0.14:
        orders = _as_orders(rng, expr)
        if orders:
            mark = _maybe(rng, 0.6, ".")
            return dress(rng, orders, mark)
    said = say(rng, expr)
    if kind < 0.45:
        bare = rng.choice(WORDS["bare"]).format(e=said)
        if rng.random() < 0.9:
            return bare
        return rng.choice(WORDS["greetings"]) + bare
    if kind < 0.8:
        question = rng.choice(WORDS["questions"])
        return dress(rng, question.format(e=said), "?")
    order = rng.choice(WORDS["orders"])
    mark = _maybe(rng, 0.5, ".")
    return dress(rng, order.format(e=said), mark)


def _maybe(rng: Random, share: float, mark: str) -> str:
    return mark if rng.random() < share else ""


def _ask_in_words(rng: Random, expr: Op) -> str:
    a = expr.left
    b = expr.right
    assert isinstance(a, int)
    assert isinstance(b, int)
    names = {"a": str(a), "b": str(b)}
    if rng.random() >= 0.96:
        names = {"a": _word(a), "b": _word(b)}
    if b == 2 and rng.random() < 0.4 and expr.sign in "*/":
        noun = f"twice {a}" if expr.sign == "*" else f"half of {a}"
        return _ask_for(rng, noun)
    if rng.random() < 0.45:
        orders = WORDS.table("order")[expr.sign]
        order = rng.choice(orders)
        return _ask_to_do(rng, order.format(**names))
    nouns = WORDS.table("noun")[expr.sign]
    # "the difference between 5 and 12" would have two readings
    first = 2 if expr.sign == "-" and a < b else 0
    number = rng.randrange(first, len(nouns))
    noun = nouns[number].format(**names)
    return _ask_for(rng, noun)


def _word(number: int) -> str:
    if 0 <= number < 10000:
        return in_words(number)
    return str(number)


def _ask_to_do(rng: Random, order: str) -> str:
    if rng.random() < 0.25:
        frame = rng.choice(WORDS["questions around orders"])
        question = frame.format(e=order)
        return dress(rng, question, "?")
    mark = _maybe(rng, 0.6, ".")
    return dress(rng, order, mark)


def _ask_for(rng: Random, noun: str) -> str:
    """A question for a noun: `the sum of 3 and 4`."""
    luck = rng.random()
    if luck < 0.15:
        bare = noun
        if rng.random() < 0.5:
            bare = noun.removeprefix("the ")
        if luck < 0.08:
            return dress(rng, bare, "?")
        mark = "." if luck < 0.1 else ""
        return dress(rng, bare, mark)
    if luck < 0.75:
        questions = WORDS["questions"][:QUESTIONS_FOR_NOUNS]
        question = rng.choice(questions).format(e=noun)
        return dress(rng, question, "?")
    orders = WORDS["orders"][:ORDERS_FOR_NOUNS]
    order = rng.choice(orders).format(e=noun)
    mark = _maybe(rng, 0.6, ".")
    return dress(rng, order, mark)


def _as_orders(rng: Random, expr: Op) -> str:
    """`Start with 12, add 30, then subtract 5`; "" if it is not worked out from left to right."""
    inner = expr.left
    if not isinstance(inner, Op) or not isinstance(expr.right, int):
        return ""
    then = WORDS.table("then")
    last = rng.choice(then[expr.sign]).format(n=expr.right)
    joint = rng.choice(WORDS["joints"])
    half = rng.random() < 0.5
    if half and isinstance(inner.left, int) and isinstance(inner.right, int):
        orders = WORDS.table("order")[inner.sign]
        begin = rng.choice(orders).format(a=inner.left, b=inner.right)
    else:
        start = rng.choice(WORDS["starts"]).format(n=inner.left)
        middle = rng.choice(then[inner.sign]).format(n=inner.right)
        begin = start + middle
    return begin + joint + last


def dress(rng: Random, text: str, mark: str) -> str:
    """Capitals, the final mark, a greeting or a thank-you: the variety of people's messages."""
    luck = rng.random()
    if mark != "?" and rng.random() < 0.07:
        text = f"please {text.removeprefix('please ')}"
    elif luck > 0.993:
        return text.upper() + mark
    if luck < 0.06:
        before = rng.choice(WORDS["greetings"])
        if before[-2] in ".!" and luck >= 0.02:
            text = sentence(text)
        text = before + text
    elif luck < 0.13:
        after = rng.choice(WORDS["thanks"])
        ended = mark if after[1].isupper() else ""
        return sentence(text) + ended + after
    if rng.random() < 0.24:
        return text + _maybe(rng, 0.5, mark)
    return sentence(text) + _maybe(rng, 0.9, mark)


# ---- the task ------------------------------------------------------------------------------------


def answer_sentence(expr: Expr) -> str:
    return f"{text(expr)} = {value(expr)}"


def turn_for(expr: Op, user: str) -> Turn:
    """A turn that asks for `expr` and is answered by working it out."""
    answer = answer_sentence(expr)
    think = partial(working, expr)
    return Turn(user, answer, think)


def arithmetic_question(rng: Random, split: Split) -> Problem:
    """One question about an expression of one or two operations."""
    if rng.random() < 0.62:
        expr = draw_one_step(rng, split)
    else:
        expr = draw_two_steps(rng, split)
    user = ask(rng, expr)
    turn = turn_for(expr, user)
    expect = Expect(number=value(expr))
    return Problem("arithmetic", split, (turn,), expect)
