"""Arithmetic in words and signs: drawing an expression, asking for it in many ways, and the task
itself.

Knows expressions and their working. What is held out is the operation (its fact family), never the
phrasing.
"""

from __future__ import annotations

from functools import partial
from random import Random

from ossia.tasks.numbers.expressions import Expr, Op, Sign, in_split, text, value
from ossia.tasks.numbers.working import working
from ossia.tasks.problem import Expect, Problem, Split, Turn

MAX_RESULT = 1000  # of two-step expressions, intermediate values included; a few go to 9999

# ---- drawing -------------------------------------------------------------------------------------


def draw_number(rng: Random) -> int:
    """0..999, small numbers more often than their share."""
    kind = rng.random()
    if kind < 0.2:
        return int(rng.random() * 13)
    if kind < 0.72:
        return int(rng.random() * 100)
    return int(rng.random() * 900) + 100


def draw_operation(rng: Random, sign: Sign) -> Op:
    """One operation within the ranges of the task."""
    if sign == "*":
        return _draw_product(rng)
    if sign == "/":
        divisor = rng.randrange(2, 13)
        quotient = rng.randrange(1, 13) if rng.random() < 0.65 else rng.randrange(10, 100)
        return Op("/", divisor * quotient, divisor)
    a, b = draw_number(rng), draw_number(rng)
    if sign == "-" and a < b and rng.random() < 0.7:
        a, b = b, a
    return Op(sign, -a if rng.random() < 0.01 else a, b)


def _draw_product(rng: Random) -> Op:
    kind = rng.random()
    if kind < 0.42:
        a, b = rng.randrange(13), rng.randrange(13)
    elif kind < 0.84:
        a, b = rng.randrange(10, 100), rng.randrange(2, 10)
    elif kind < 0.98:
        a, b = rng.randrange(10, 100), rng.randrange(10, 100)
    else:
        a, b = rng.randrange(100, 1000), rng.randrange(2, 10)
    return Op("*", b, a) if rng.random() < 0.35 else Op("*", a, b)


def draw_one_step(rng: Random, split: Split) -> Op:
    while True:
        pick = rng.random()
        sign: Sign = "+" if pick < 0.33 else "-" if pick < 0.66 else "*" if pick < 0.9 else "/"
        expr = draw_operation(rng, sign)
        if in_split(expr, split):
            return expr


def draw_two_steps(rng: Random, split: Split) -> Op:
    while True:
        expr = _draw_two_steps(rng)
        if expr is not None and in_split(expr, split):
            return expr


def _draw_two_steps(rng: Random) -> Op | None:
    """One of the shapes a+b-c, a*b+c, a-b*c, (a+b)*c, c*(a-b), a*b*c, (a+b)/c, a/b+c; None if it
    went out of range.
    """
    size = rng.random()
    top = 12 if size < 0.4 else 99 if size < 0.92 else 999
    a, b, c = (
        int(rng.random() * (top + 1)),
        int(rng.random() * (top + 1)),
        int(rng.random() * (top + 1)),
    )
    shape = rng.random()
    first: Sign = "+" if rng.random() < 0.5 else "-"
    second: Sign = "+" if rng.random() < 0.5 else "-"
    expr: Op
    if shape < 0.4:
        expr = Op(second, Op(first, a, b), c)
    elif shape < 0.68:
        large = top > 12 and rng.random() < 0.4
        product = (
            _draw_product(rng) if large else Op("*", rng.randrange(1, 13), rng.randrange(1, 13))
        )
        expr = Op(second, product, c) if rng.random() < 0.5 else Op(second, a, product)
    elif shape < 0.88:
        factor, inner = rng.randrange(2, 10), Op(first, a, b)
        expr = Op("*", inner, factor) if rng.random() < 0.7 else Op("*", factor, inner)
    elif shape < 0.91:
        expr = Op("*", Op("*", rng.randrange(1, 13), rng.randrange(1, 13)), rng.randrange(1, 13))
    else:
        divisor, quotient = (
            rng.randrange(2, 13),
            rng.randrange(1, 13 if rng.random() < 0.7 else 100),
        )
        whole = divisor * quotient
        if shape < 0.95:
            expr = Op("/", Op("+", min(a, whole), whole - min(a, whole)), divisor)
        else:
            expr = Op(second, Op("/", whole, divisor), c)
    return expr if _is_in_range(rng, expr) else None


def _is_in_range(rng: Random, expr: Op) -> bool:
    """Small intermediate values, rarely negative ones or larger ones, and only products that the
    working is short for.
    """
    largest, negative = 0, False
    for part in (expr.left, expr.right, expr):
        if isinstance(part, Op):
            result = value(part)
            largest, negative = (
                max(largest, abs(result)),
                negative or (result < 0 and part is not expr),
            )
            sizes = sorted((len(str(abs(value(part.left)))), len(str(abs(value(part.right))))))
            if part.sign == "*" and sizes not in ([1, 1], [1, 2], [1, 3], [2, 2]):
                return False
    if negative and rng.random() < 0.8:
        return False
    return largest <= MAX_RESULT or (largest <= 9999 and rng.random() < 0.05)


# ---- asking --------------------------------------------------------------------------------------

# {e} is the expression.
_BARE = ("{e}", "{e} =", "{e}=", "{e} = ?", "{e}=?", "{e}?", "{e} ?")
_QUESTIONS = (
    "what is {e}", "what is {e}", "what is {e}", "what is {e}", "what's {e}", "whats {e}", "how much is {e}",
    "what does {e} equal", "what does {e} make", "what do you get for {e}", "what is the result of {e}",
    "what is the value of {e}", "what is the answer to {e}", "can you compute {e}", "can you calculate {e}",
    "can you tell me what {e} is", "could you tell me {e}", "could you work out {e}",
    "do you know what {e} is", "do you know {e}", "how much does {e} make", "can you solve {e}",
    "would you calculate {e}", "what will {e} be", "can you please compute {e}",
    "could you please tell me what {e} is", "what do I get for {e}", "so what is {e}", "and what is {e}",
    "{e} is what", "{e} equals what", "{e} is how much", "{e} makes what", "how many is {e}",
    "what number is {e}", "what would {e} be", "can you do {e}", "how much would {e} be",
)  # fmt: skip
_ORDERS = (
    "compute {e}", "compute {e}", "calculate {e}", "calculate {e}", "calculate: {e}", "compute: {e}",
    "solve {e}", "solve: {e}", "work out {e}", "evaluate {e}", "find {e}", "tell me {e}",
    "tell me what {e} is", "give me {e}", "tell me the result of {e}", "find the value of {e}",
    "give me the answer to {e}", "I need {e}", "do {e}", "I want to know {e}", "I want to know what {e} is",
    "let me know what {e} is", "simplify {e}", "figure out {e}", "I would like to know {e}", "determine {e}",
    "show me {e}", "help me with {e}", "try {e}", "answer this: {e}", "work this out: {e}",
    "quick question: {e}", "math: {e}", "question: what is {e}", "I have to calculate {e}",
    "my homework is {e}", "next one: {e}", "solve this: {e}", "the problem is {e}", "find out what {e} is",
    "please compute {e}", "please tell me {e}", "please calculate {e}", "calc {e}",
    "work out the following: {e}", "what is the following: {e}", "please solve {e}",
    "compute the following: {e}", "I wonder what {e} is",
)  # fmt: skip
# Ways to say one operation that need no frame around them, and (as a noun) ways that do.
_SAID: dict[str, tuple[str, ...]] = {
    "+": ("add {a} and {b}", "add {a} and {b}", "add {a} to {b}", "add {a} + {b}", "sum {a} and {b}",
          "sum up {a} and {b}", "add up {a} and {b}", "add together {a} and {b}",
          "add the numbers {a} and {b}", "increase {a} by {b}",
          "put {a} and {b} together", "take {a} and add {b}", "start with {a} and add {b}"),
    "-": ("subtract {b} from {a}", "subtract {b} from {a}", "take {b} from {a}", "take {b} away from {a}",
          "take away {b} from {a}", "reduce {a} by {b}", "decrease {a} by {b}", "take {a} and subtract {b}",
          "start with {a} and take away {b}", "remove {b} from {a}", "deduct {b} from {a}"),
    "*": ("multiply {a} by {b}", "multiply {a} by {b}", "multiply {a} and {b}", "multiply {a} with {b}",
          "take {a} times {b}",
          "multiply the numbers {a} and {b}", "take {a} and multiply it by {b}"),
    "/": ("divide {a} by {b}", "divide {a} by {b}", "split {a} by {b}", "take {a} and divide it by {b}",
          "split {a} into {b} equal parts"),
}  # fmt: skip
_IF_ORDERED = (
    "can you {e}", "can you {e}", "could you {e}", "what do you get if you {e}", "what do I get if I {e}",
    "what if I {e}", "if I {e}, what do I get", "if you {e}, what is the result", "what is it if you {e}",
    "would you {e}", "what happens if I {e}", "what do I have if I {e}", "how much is it if you {e}",
)  # fmt: skip
_NOUNS: dict[str, tuple[str, ...]] = {
    "+": ("the sum of {a} and {b}", "the total of {a} and {b}", "{a} and {b} together", "{a} and {b}",
          "{a} added to {b}", "{b} more than {a}", "{a} increased by {b}", "the sum {a} + {b}",
          "{a} and {b} added up",
          "{a} with {b} added"),
    "-": ("the difference between {a} and {b}", "the difference of {a} and {b}", "{a} take away {b}",
          "{a} less {b}",
          "{b} less than {a}", "{a} decreased by {b}", "{a} reduced by {b}", "{b} subtracted from {a}"),
    "*": ("the product of {a} and {b}", "the product of {a} and {b}", "{a} multiplied by {b}",
          "the product {a} * {b}"),
    "/": ("the quotient of {a} and {b}", "{a} divided by {b}", "{a} split by {b}"),
}  # fmt: skip
_WORDS: dict[str, tuple[str, ...]] = {
    "+": ("plus",), "-": ("minus", "minus", "minus", "minus", "take away"),
    "*": ("times", "times", "times", "multiplied by", "x"), "/": ("divided by", "divided by", "over"),
}  # fmt: skip
_SIGNS: dict[str, tuple[str, ...]] = {
    "+": ("+",), "-": ("-",) * 9 + ("−",), "*": ("*", "*", "*", "x", "x", "×", "×", "X", "·"),
    "/": ("/", "/", "/", "÷", ":"),
}  # fmt: skip
_GREETINGS = ("Hi! ", "Hello! ", "Hey, ", "Hi, ", "Hello, ", "Good morning! ", "Hi there! ", "Hey! ", "Ok, ",
              "Okay, ", "Well, ", "Please ", "Now ", "Hi. ", "Hello. ", "Good evening. ", "Sorry, ",
              "Excuse me, ")  # fmt: skip
_THANKS = (" Thanks!", " Thank you.", " thanks", " please", ", please", " Please answer.", " Thank you!",
           " Be quick.",
           " Show your work.", " I need it for school.", " Can you help?", " Think carefully.")  # fmt: skip

NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_TENS = (
    "", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)  # fmt: skip


def in_words(number: int) -> str:
    """0..9999 in English words: 348 -> `three hundred forty-eight`."""
    if number <= 20:
        return NUMBER_WORDS[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{NUMBER_WORDS[ones]}" if ones else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    many, rest = divmod(number, size)
    return f"{in_words(many)} {name}" + (f" {in_words(rest)}" if rest else "")


def say(rng: Random, expr: Expr) -> str:
    """An expression as people write it: `12*7`, `12 x 7`, `12 times 7`; precedence is kept."""
    if isinstance(expr, int):
        return str(expr)
    style = rng.random()
    if style < 0.62:
        return _signed(rng, text(expr, " " if rng.random() < 0.62 else ""))
    words = text(expr)
    if "(" in words:
        return _signed(rng, words)
    said = {f" {sign} ": f" {rng.choice(_WORDS[sign])} " for sign in "+-*/"}
    for sign, word in said.items():
        words = words.replace(sign, word)
    return _spell(rng, words) if style > 0.97 else words


def _signed(rng: Random, formula: str) -> str:
    for sign in "*/":
        if sign in formula:
            formula = formula.replace(sign, rng.choice(_SIGNS[sign]))
    if "-" in formula and formula[0] != "-" and rng.random() < 0.06:
        formula = formula.replace("-", "\N{MINUS SIGN}")
    return formula


def _spell(rng: Random, words: str) -> str:
    """Numbers as words where they are small enough."""
    return " ".join(
        [in_words(int(w)) if w.isdigit() and int(w) < 100 else w for w in words.split(" ")]
    )


def ask(rng: Random, expr: Op) -> str:
    """A user's message that asks for the value of `expr`."""
    kind = rng.random()
    plain = isinstance(expr.left, int) and isinstance(expr.right, int)
    if plain and kind < 0.3:
        return _ask_in_words(rng, expr)
    if not plain and kind < 0.14 and (steps := _as_orders(rng, expr)):
        return dress(rng, steps, "." if rng.random() < 0.6 else "")
    said = say(rng, expr)
    if kind < 0.45:
        bare = rng.choice(_BARE).format(e=said)
        return bare if rng.random() < 0.9 else rng.choice(_GREETINGS) + bare
    if kind < 0.8:
        return dress(rng, rng.choice(_QUESTIONS).format(e=said), "?")
    return dress(rng, rng.choice(_ORDERS).format(e=said), "." if rng.random() < 0.5 else "")


def _ask_in_words(rng: Random, expr: Op) -> str:
    a, b = expr.left, expr.right
    assert isinstance(a, int) and isinstance(b, int)
    names = {"a": a, "b": b} if rng.random() < 0.96 else {"a": _word(a), "b": _word(b)}
    if b == 2 and rng.random() < 0.4 and expr.sign in "*/":
        noun = f"twice {a}" if expr.sign == "*" else f"half of {a}"
    elif rng.random() < 0.45:
        order = rng.choice(_SAID[expr.sign]).format(**names)
        if rng.random() < 0.25:
            return dress(rng, rng.choice(_IF_ORDERED).format(e=order), "?")
        return dress(rng, order, "." if rng.random() < 0.6 else "")
    else:
        nouns = _NOUNS[expr.sign]
        # "the difference between 5 and 12" would have two readings
        first = 2 if expr.sign == "-" and a < b else 0
        noun = nouns[rng.randrange(first, len(nouns))].format(**names)
    luck = rng.random()
    if luck < 0.15:
        bare = noun.removeprefix("the ") if rng.random() < 0.5 else noun
        return dress(rng, bare, "?" if luck < 0.08 else "." if luck < 0.1 else "")
    if luck < 0.75:
        return dress(rng, rng.choice(_QUESTIONS[:27]).format(e=noun), "?")
    return dress(rng, rng.choice(_ORDERS[:20]).format(e=noun), "." if rng.random() < 0.6 else "")


def _word(number: int | str) -> str:
    return in_words(int(number)) if 0 <= int(number) < 10000 else str(number)


_THEN = {
    "+": ("add {n}", "plus {n}", "add {n}"), "-": ("subtract {n}", "take away {n}", "minus {n}"),
    "*": ("multiply by {n}", "multiply the result by {n}", "times {n}"),
    "/": ("divide by {n}", "divide the result by {n}"),
}  # fmt: skip


def _as_orders(rng: Random, expr: Op) -> str:
    """`Start with 12, add 30, then subtract 5`, for expressions that are worked out from left to
    right.
    """
    inner = expr.left
    if not isinstance(inner, Op) or not isinstance(expr.right, int):
        return ""
    last = rng.choice(_THEN[expr.sign]).format(n=expr.right)
    joint = rng.choice((", then ", " and then ", ", and ", " and ", ". Then "))
    if rng.random() < 0.5 and isinstance(inner.left, int) and isinstance(inner.right, int):
        return rng.choice(_SAID[inner.sign]).format(a=inner.left, b=inner.right) + joint + last
    start = rng.choice(
        ("start with {n}, ", "take {n}, ", "begin with {n}, ", "{n}, ", "start at {n}, ")
    ).format(n=inner.left)
    return start + rng.choice(_THEN[inner.sign]).format(n=inner.right) + joint + last


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
        before = rng.choice(_GREETINGS)
        sentence = before + (
            sentence
            if before[-2] not in ".!" or luck < 0.02
            else sentence[0].upper() + sentence[1:]
        )
    elif luck < 0.13:
        after = rng.choice(_THANKS)
        return sentence[0].upper() + sentence[1:] + (mark if after[1].isupper() else "") + after
    if rng.random() < 0.24:
        return sentence + (mark if rng.random() < 0.5 else "")
    return sentence[0].upper() + sentence[1:] + (mark if rng.random() < 0.9 else "")


# ---- the task ------------------------------------------------------------------------------------


def answer_sentence(expr: Expr) -> str:
    return f"{text(expr)} = {value(expr)}"


def turn_for(expr: Op, user: str) -> Turn:
    """A turn that asks for `expr` and is answered by working it out."""
    return Turn(user, answer_sentence(expr), partial(working, expr))


def arithmetic_question(rng: Random, split: Split) -> Problem:
    """One question about an expression of one or two operations."""
    expr = draw_one_step(rng, split) if rng.random() < 0.62 else draw_two_steps(rng, split)
    return Problem(
        "arithmetic", split, (turn_for(expr, ask(rng, expr)),), Expect(number=value(expr))
    )
