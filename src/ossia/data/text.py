"""Pre-training text: the little world without any chat markup, so that fine-tuning only has to
teach the format.

Knows the tasks and their written methods; does not know tokens. Document i is a pure function of
(seed, i). Everything comes from the training split: no document has an equation that is held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random

from ossia.harmony import DeveloperContent, Effort
from ossia.harmony.content import developer_text
from ossia.tasks import TASKS, example_random
from ossia.tasks.numbers.arithmetic import (
    answer_sentence,
    ask,
    draw_number,
    draw_one_step,
    draw_two_steps,
    in_words,
)
from ossia.tasks.numbers.calculator import draw_large
from ossia.tasks.numbers.expressions import Op, in_split, operations, text, value
from ossia.tasks.numbers.stories import draw_story
from ossia.tasks.numbers.working import (
    PLACES,
    compared,
    difference_column,
    division_step,
    operation,
    product_column,
    sum_column,
    working,
)
from ossia.tasks.problem import Problem
from ossia.tasks.world.facts import draw_facts, fact_turn, story_of, unknown_turn
from ossia.tasks.world.names import code, made_up_name, made_up_word, person

EFFORTS = tuple(Effort)
WRITTEN = (Effort.MEDIUM, Effort.HIGH)
Make = Callable[[Random], str]


def documents(seed: int, start: int = 0) -> Iterator[tuple[str, int]]:
    """Endless (text, state); `start=state` continues after it. A document has 50 to 200 tokens."""
    index = start
    while True:
        made = document(seed, index)
        index += 1
        yield made, index


def document(seed: int, index: int) -> str:
    return draw(example_random(seed, "text", index))


def draw(rng: Random, kinds: Mapping[Make, int] | None = None) -> str:
    """A document of any kind, or of these by their shares."""
    chosen = KINDS if kinds is None else kinds
    makers = list(chosen)
    shares = list(chosen.values())
    make = rng.choices(makers, shares)[0]
    return make(rng)


# ---- equations and their working -----------------------------------------------------------------


def _draw(rng: Random, two: float = 0.25) -> Op:
    if rng.random() < two:
        return draw_two_steps(rng, "train")
    return draw_one_step(rng, "train")


def equations(rng: Random) -> str:
    """Bare equations, one per line."""
    space = " " if rng.random() < 0.5 else ""
    lines = []
    for _ in range(rng.randrange(6, 15)):
        expr = _draw(rng)
        formula = text(expr, space)
        lines.append(f"{formula}{space}={space}{value(expr)}")
    return "\n".join(lines)


def families(rng: Random) -> str:
    """An equation turned around in every way."""
    lines = []
    for _ in range(rng.randrange(2, 4)):
        expr = draw_one_step(rng, "train")
        a = value(expr.left)
        b = value(expr.right)
        c = value(expr)
        if expr.sign in "-/":
            a, c = c, a
        if expr.sign in "+-":
            there = "+"
            back = "-"
            turns = a >= 0
        else:
            there = "*"
            back = "/"
            turns = a * b != 0
        if turns:
            lines.append(f"{a}{there}{b}={c}")
            lines.append(f"{b}{there}{a}={c}")
            lines.append(f"{c}{back}{b}={a}")
            lines.append(f"{c}{back}{a}={b}")
    return "\n".join(lines) or "0+0=0"


def worked(rng: Random) -> str:
    """Questions with their working at one of the efforts and the answer."""
    effort = rng.choice(EFFORTS)
    if effort is Effort.HIGH:
        count = rng.randrange(1, 3)
    else:
        count = rng.randrange(2, 5)
    parts = []
    for _ in range(count):
        expr = _draw(rng, 0.3)
        question = ask(rng, expr)
        parts.append(f"{question}\n{working(expr, effort)}\n{answer_sentence(expr)}")
    return "\n\n".join(parts)


def operations_only(rng: Random) -> str:
    """Single operations worked out, without questions."""
    parts = []
    count = rng.randrange(2, 4)
    for _ in range(count):
        expr = draw_one_step(rng, "train")
        only = operations(expr)[0]
        effort = rng.choice(WRITTEN)
        parts.append(operation(*only, effort))
    return "\n".join(parts)


# ---- drills for the single steps -----------------------------------------------------------------


def places(rng: Random) -> str:
    """Reading digits at their places, and which of two numbers is larger."""
    lines = []
    for _ in range(rng.randrange(3, 7)):
        number = draw_number(rng)
        other = draw_number(rng)
        kind = rng.random()
        if kind < 0.4:
            digits = reversed(str(number))
            named = [f"{PLACES[i]} {digit}" for i, digit in enumerate(digits)]
            lines.append(f"{number}: {', '.join(named)}")
        elif kind < 0.6:
            expr = draw_one_step(rng, "train")
            lines.append(_digit_pairs(expr))
        elif kind < 0.8:
            found = compared(number, other, rng.random() < 0.5)
            lines.append(f"{number} - {other}: {', '.join(found)}")
        else:
            lines.append(f"{number} {in_words(number)}")
    return "\n".join(lines)


def _digit_pairs(expr: Op) -> str:
    """`348 + 75: ones 8+5, tens 4+7, hundreds 3+0`: the digits that the columns of working need."""
    a = abs(value(expr.left))
    b = abs(value(expr.right))
    count = len(str(max(a, b)))
    named = []
    for place in range(count):
        p = a // 10**place % 10
        q = b // 10**place % 10
        named.append(f"{PLACES[place]} {p}{expr.sign}{q}")
    return f"{a} {expr.sign} {b}: {', '.join(named)}"


def columns(rng: Random) -> str:
    """Single columns of sums, differences and products, each with its carry."""
    lines = []
    for _ in range(rng.randrange(5, 12)):
        p = rng.randrange(10)
        q = rng.randrange(10)
        carry = rng.randrange(2)
        so_far = str(rng.randrange(100)) if rng.random() < 0.5 else ""
        kind = rng.random()
        word = "carry"
        if kind < 0.35:
            total = p + q + carry
            line = sum_column(p, q, carry, rng.random() < 0.2 and not carry)
        elif kind < 0.7:
            word = "borrow"
            total = p - q - carry
            line = difference_column(p, q, carry, rng.random() < 0.2 and not carry)
        else:
            line, total = product_column([(p, q)], rng.randrange(9))
        lines.append(f"{line}->{total % 10}{so_far} {word} {abs(total // 10)}")
    return "\n".join(lines)


def tables(rng: Random) -> str:
    """Multiplication tables up to 12, and how often a number goes into another."""
    lines = []
    for _ in range(rng.randrange(5, 10)):
        b = rng.randrange(2, 13)
        if rng.random() < 0.5:
            a = rng.randrange(13)
            lines.append(f"{a}*{b}={a * b}")
        else:
            a = rng.randrange(10 * b)
            lines.append(division_step(a, b))
    return "\n".join(lines)


def sums_of_products(rng: Random) -> str:
    """Two-digit sums in one step, as the columns of products need them."""
    lines: list[str] = []
    while len(lines) < 8:
        p = rng.randrange(10) * rng.randrange(10)
        q = rng.randrange(10) * rng.randrange(10)
        carry = rng.randrange(9)
        if not in_split(Op("+", p, q), "train"):
            continue
        total = p + q + carry
        if rng.random() < 0.5:
            lines.append(f"{p}+{q}={p + q}, {p + q}+{carry}={total}")
        else:
            lines.append(f"{p}+{q}+{carry}={total}")
    return "\n".join(lines)


# ---- words ---------------------------------------------------------------------------------------


def solved(task: str) -> Make:
    """A task's user text, its analysis and its answer as plain paragraphs."""

    def make(rng: Random) -> str:
        parts = []
        for _ in range(rng.randrange(1, 3)):
            problem = TASKS[task](rng, "train")
            effort = rng.choice(EFFORTS)
            parts.append(_as_paragraph(problem, effort))
        return "\n\n".join(parts)

    return make


def _as_paragraph(problem: Problem, effort: Effort) -> str:
    lines = []
    if problem.instructions:
        lines.append(problem.instructions)
    for turn in problem.turns:
        lines.append(turn.user)
        if turn is problem.turns[-1]:
            lines.append(turn.think(effort))
        if turn.call is not None:
            lines.append(turn.call.arguments)
            lines.append(turn.call.result)
        lines.append(turn.final)
    return "\n".join(lines)


def restated(rng: Random) -> str:
    """Questions and stories, each with the expression that they ask for and no more."""
    lines = []
    for _ in range(rng.randrange(3, 7)):
        if rng.random() < 0.35:
            user, expr, _, _ = draw_story(rng, "train")
        else:
            expr = _draw_any(rng, 0.15)
            user = ask(rng, expr)
        if rng.random() < 0.8:
            said = text(expr)
        else:
            said = _as_arguments(expr)
        lines.append(f"{user}\n{said}")
    return "\n\n".join(lines)


def _draw_any(rng: Random, large: float) -> Op:
    if rng.random() < large:
        return draw_large(rng, "train")
    return _draw(rng, 0.4)


def _as_arguments(expr: Op) -> str:
    return f'{{"expression": "{text(expr, "")}"}}'


def copies(rng: Random) -> str:
    """Lists of words, names, codes and numbers that are said again."""
    makers = (made_up_word, made_up_name, code, person, _digits)
    lines = []
    for _ in range(rng.randrange(3, 7)):
        kind = rng.random()
        if kind < 0.25:
            expr = _draw_any(rng, 0.6)
            lines.append(f"{text(expr)}\n{_as_arguments(expr)}")
            continue
        items = []
        for _ in range(rng.randrange(1, 5)):
            make = rng.choice(makers)
            items.append(make(rng))
        said = " ".join(items)
        if kind < 0.6 or len(items) == 1:
            lines.append(f"{said}\n{said}")
        elif kind < 0.8:
            index = rng.randrange(len(items) - 1)
            lines.append(f"{said}. After {items[index]} comes {items[index + 1]}.")
        else:
            lines.append(f"{said} -> {said}")
    return "\n".join(lines)


def _digits(rng: Random) -> str:
    """A number of one to nine digits."""
    digits = rng.randrange(1, 10)
    return str(rng.randrange(10**digits))


def repeated_facts(rng: Random) -> str:
    """A small text of facts, and each of them said once more."""
    count = rng.randrange(2, 6)
    facts = draw_facts(rng, count, "train")
    again = [fact.sentence for fact in facts]
    rng.shuffle(again)
    told = story_of(rng, facts)
    return f"{told}\n{' '.join(again)}"


def questions(rng: Random) -> str:
    """A small text of facts and many questions about it: for learning to read from the context."""
    count = rng.randrange(2, 8)
    facts = draw_facts(rng, count, "train")
    asked = []
    for fact in facts * rng.randrange(1, 3):
        if rng.random() < 0.9:
            turn, _ = fact_turn(rng, fact)
        else:
            turn, _ = unknown_turn(rng, facts)
        asked.append(f"{turn.user}\n{turn.final}")
    rng.shuffle(asked)
    told = story_of(rng, facts)
    return "\n".join([told, *asked])


def calls(rng: Random) -> str:
    """Calls of a calculator, with its results."""
    lines = []
    for _ in range(rng.randrange(1, 4)):
        problem = TASKS["calculator"](rng, "train")
        turn = problem.turns[-1]
        assert turn.call is not None
        thoughts = turn.think(rng.choice(EFFORTS))
        if rng.random() < 0.4:
            functions = tuple(tool.function for tool in problem.tools)
            lines.append(developer_text(DeveloperContent(tools=functions)))
        said = [turn.user, thoughts, turn.call.arguments, turn.call.result, turn.final]
        lines.append("\n".join(said))
    return "\n\n".join(lines)


word_problems = solved("word problems")
facts = solved("facts")
several_turns = solved("multi-turn")
out_of_scope = solved("scope")

KINDS: Mapping[Make, int] = {  # in percent
    worked: 30,
    operations_only: 12,
    restated: 8,
    tables: 4,
    columns: 4,
    equations: 2,
    places: 3,
    sums_of_products: 2,
    families: 1,
    facts: 5,
    questions: 9,
    word_problems: 8,
    copies: 2,
    repeated_facts: 1,
    calls: 5,
    several_turns: 3,
    out_of_scope: 1,
}
# the same for the single steps of answers with working
STEPS: Mapping[Make, int] = {tables: 40, operations_only: 30, worked: 15, calls: 15}
