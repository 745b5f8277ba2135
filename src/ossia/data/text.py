"""Pre-training text: the little world without any chat markup, so that fine-tuning only has to
teach the format.

Knows the tasks and their written methods; no tokens. Document i is a pure function of (seed, i).
Everything comes from the training split: an equation that is held out stands in no document.
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
from ossia.tasks.world.facts import draw_facts, fact_turn, story_of, unknown_turn
from ossia.tasks.world.names import code, made_up_name, made_up_word, person

EFFORTS = tuple(Effort)
WRITTEN = (Effort.MEDIUM, Effort.HIGH)
Make = Callable[[Random], str]


def documents(seed: int, start: int = 0) -> Iterator[tuple[str, int]]:
    """Endless (text, state); `start=state` goes on with the next one. A document is some 50 to 200
    tokens long.
    """
    index = start
    while True:
        yield document(seed, index), index + 1
        index += 1


def document(seed: int, index: int) -> str:
    return draw(example_random(seed, "text", index))


def draw(rng: Random, kinds: Mapping[Make, int] | None = None) -> str:
    """A document of any kind, or of these by their shares."""
    chosen = KINDS if kinds is None else kinds
    make = rng.choices(list(chosen), list(chosen.values()))[0]
    return make(rng)


# ---- equations and their working -----------------------------------------------------------------


def _draw(rng: Random, two: float = 0.25) -> Op:
    return draw_two_steps(rng, "train") if rng.random() < two else draw_one_step(rng, "train")


def equations(rng: Random) -> str:
    """Bare equations, one per line."""
    space = " " if rng.random() < 0.5 else ""
    found = [_draw(rng) for _ in range(rng.randrange(6, 15))]
    return "\n".join([f"{text(e, space)}{space}={space}{value(e)}" for e in found])


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
        sums = expr.sign in "+-"
        there, back = ("+", "-") if sums else ("*", "/")
        if (sums and a >= 0) or (not sums and a * b):
            lines += [f"{a}{there}{b}={c}", f"{b}{there}{a}={c}"]
            lines += [f"{c}{back}{b}={a}", f"{c}{back}{a}={b}"]
    return "\n".join(lines) or "0+0=0"


def worked(rng: Random) -> str:
    """Questions with their working at one of the three grains and the answer."""
    effort = rng.choice(EFFORTS)
    parts = []
    for _ in range(rng.randrange(1, 3) if effort is Effort.HIGH else rng.randrange(2, 5)):
        expr = _draw(rng, 0.3)
        parts.append(f"{ask(rng, expr)}\n{working(expr, effort)}\n{answer_sentence(expr)}")
    return "\n\n".join(parts)


def operations_only(rng: Random) -> str:
    """Single operations worked out, without questions."""
    parts = []
    for _ in range(rng.randrange(2, 4)):
        expr = draw_one_step(rng, "train")
        parts.append(operation(*operations(expr)[0], rng.choice(WRITTEN)))
    return "\n".join(parts)


# ---- drills for the single steps -----------------------------------------------------------------


def places(rng: Random) -> str:
    """Reading digits at their places, and which of two numbers is larger."""
    lines = []
    for _ in range(rng.randrange(3, 7)):
        number = draw_number(rng)
        other = draw_number(rng)
        named = [f"{PLACES[i]} {digit}" for i, digit in enumerate(reversed(str(number)))]
        kind = rng.random()
        if kind < 0.4:
            lines.append(f"{number}: {', '.join(named)}")
        elif kind < 0.6:
            lines.append(_digit_pairs(draw_one_step(rng, "train")))
        elif kind < 0.8:
            found = compared(number, other, rng.random() < 0.5)
            lines.append(f"{number} - {other}: {', '.join(found)}")
        else:
            lines.append(f"{number} {in_words(number)}")
    return "\n".join(lines)


def _digit_pairs(expr: Op) -> str:
    """`348 + 75: ones 8+5, tens 4+7, hundreds 3+0`: what the columns of the written methods look
    up.
    """
    a, b = abs(value(expr.left)), abs(value(expr.right))
    count = max(len(str(a)), len(str(b)))
    pairs = zip(str(a).zfill(count)[::-1], str(b).zfill(count)[::-1], strict=True)
    named = [f"{PLACES[i]} {p}{expr.sign}{q}" for i, (p, q) in enumerate(pairs)]
    return f"{a} {expr.sign} {b}: {', '.join(named)}"


def columns(rng: Random) -> str:
    """Single columns of sums, differences and products, each with what it hands on."""
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
            lines.append(division_step(rng.randrange(10 * b), b))
    return "\n".join(lines)


def sums_of_products(rng: Random) -> str:
    """Two-digit sums in one step, as the columns of products need them."""
    lines: list[str] = []
    while len(lines) < 8:
        p, q = rng.randrange(10) * rng.randrange(10), rng.randrange(10) * rng.randrange(10)
        carry = rng.randrange(9)
        if not in_split(Op("+", p, q), "train"):
            continue
        if rng.random() < 0.5:
            lines.append(f"{p}+{q}={p + q}, {p + q}+{carry}={p + q + carry}")
        else:
            lines.append(f"{p}+{q}+{carry}={p + q + carry}")
    return "\n".join(lines)


# ---- words ---------------------------------------------------------------------------------------


def solved(task: str) -> Make:
    """A task's user text, its analysis and its answer as plain paragraphs."""

    def make(rng: Random) -> str:
        parts = []
        for _ in range(rng.randrange(1, 3)):
            problem = TASKS[task](rng, "train")
            effort = rng.choice(EFFORTS)
            given = [problem.instructions] if problem.instructions else []
            for turn in problem.turns:
                given.append(turn.user)
                if turn is problem.turns[-1]:
                    given.append(turn.think(effort))
                if turn.call is not None:
                    given += [turn.call.arguments, turn.call.result]
                given.append(turn.final)
            parts.append("\n".join(given))
        return "\n\n".join(parts)

    return make


def restated(rng: Random) -> str:
    """Questions and stories, each with nothing but the expression that they ask for."""
    lines = []
    for _ in range(rng.randrange(3, 7)):
        if rng.random() < 0.35:
            user, expr, _, _ = draw_story(rng, "train")
        else:
            expr = draw_large(rng, "train") if rng.random() < 0.15 else _draw(rng, 0.4)
            user = ask(rng, expr)
        plain = rng.random() < 0.8
        lines.append(f"{user}\n{text(expr) if plain else _as_arguments(expr)}")
    return "\n\n".join(lines)


def _as_arguments(expr: Op) -> str:
    return f'{{"expression": "{text(expr, "")}"}}'


def copies(rng: Random) -> str:
    """Lists of words, names, codes and numbers that are said again."""
    lines = []
    for _ in range(rng.randrange(3, 7)):
        kind = rng.random()
        if kind < 0.25:
            expr = draw_large(rng, "train") if rng.random() < 0.6 else _draw(rng, 0.4)
            lines.append(f"{text(expr)}\n{_as_arguments(expr)}")
            continue
        makers = (made_up_word, made_up_name, code, person, _digits)
        items = [rng.choice(makers)(rng) for _ in range(rng.randrange(1, 5))]
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
    return str(rng.randrange(10 ** rng.randrange(1, 10)))


def repeated_facts(rng: Random) -> str:
    """A small text of facts, and each of them said once more."""
    facts = draw_facts(rng, rng.randrange(2, 6), "train")
    again = [fact.sentence for fact in facts]
    rng.shuffle(again)
    return f"{story_of(rng, facts)}\n{' '.join(again)}"


def questions(rng: Random) -> str:
    """A small text of facts and many questions about it: what it takes to learn to read them out of
    the context.
    """
    facts = draw_facts(rng, rng.randrange(2, 8), "train")
    asked = []
    for fact in facts * rng.randrange(1, 3):
        turn, _ = fact_turn(rng, fact) if rng.random() < 0.9 else unknown_turn(rng, facts)
        asked.append(f"{turn.user}\n{turn.final}")
    rng.shuffle(asked)
    return "\n".join([story_of(rng, facts), *asked])


def calls(rng: Random) -> str:
    """What a calculator is asked and what it answers."""
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


word_problems, facts = solved("word problems"), solved("facts")
several_turns, out_of_scope = solved("multi-turn"), solved("scope")

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
# the same of single steps, of which every answer with working is made
STEPS: Mapping[Make, int] = {tables: 40, operations_only: 30, worked: 15, calls: 15}
