"""Pre-training text: the little world without any chat markup, so that fine-tuning only has to teach the
format.

Knows the tasks and their written methods; no tokens. Document i is a pure function of (seed, i).
Everything comes from the training split: an equation that is held out stands in no document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random

from ossia.harmony import DeveloperContent, Effort
from ossia.harmony.content import developer_text
from ossia.tasks import TASKS, example_random
from ossia.tasks.arithmetic import answer_sentence, ask, draw_number, draw_one_step, draw_two_steps, in_words
from ossia.tasks.expressions import Op, in_split, operations, text, value
from ossia.tasks.facts import draw_facts, story_of
from ossia.tasks.names import code, made_up_name, made_up_word, person
from ossia.tasks.working import PLACES, operation, working

EFFORTS = tuple(Effort)
WRITTEN = (Effort.MEDIUM, Effort.HIGH)


def documents(seed: int, start: int = 0) -> Iterator[tuple[str, int]]:
    """Endless (text, state); `start=state` goes on with the next one. A document is some 50 to 200 tokens
    long.
    """
    index = start
    while True:
        yield document(seed, index), index + 1
        index += 1


def document(seed: int, index: int) -> str:
    rng = example_random(seed, "text", index)
    make = rng.choices(list(KINDS), list(KINDS.values()))[0]
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
        a, b, c = value(expr.left), value(expr.right), value(expr)
        if expr.sign in "-/":
            a, c = c, a
        if expr.sign in "+-":
            lines += [f"{a}+{b}={c}", f"{b}+{a}={c}", f"{c}-{b}={a}", f"{c}-{a}={b}"] if a >= 0 else []
        elif a * b:
            lines += [f"{a}*{b}={c}", f"{b}*{a}={c}", f"{c}/{b}={a}", f"{c}/{a}={b}"]
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
        number, other = draw_number(rng), draw_number(rng)
        named = [f"{PLACES[i]} {digit}" for i, digit in enumerate(reversed(str(number)))]
        kind = rng.random()
        if kind < 0.4:
            lines.append(f"{number}: {', '.join(named)}")
        elif kind < 0.6:
            lines.append(_digit_pairs(draw_one_step(rng, "train")))
        elif kind < 0.8:
            mark = "<" if number < other else ">" if number > other else "="
            lines.append(f"{number} {mark} {other}")
        else:
            lines.append(f"{number} {in_words(number)}")
    return "\n".join(lines)


def _digit_pairs(expr: Op) -> str:
    """`348 + 75: ones 8+5, tens 4+7, hundreds 3+0`: what the columns of the written methods look up."""
    a, b = abs(value(expr.left)), abs(value(expr.right))
    count = max(len(str(a)), len(str(b)))
    pairs = zip(str(a).zfill(count)[::-1], str(b).zfill(count)[::-1], strict=True)
    named = [f"{PLACES[i]} {p}{expr.sign}{q}" for i, (p, q) in enumerate(pairs)]
    return f"{a} {expr.sign} {b}: {', '.join(named)}"


def columns(rng: Random) -> str:
    """Single columns of sums, differences and products, each with what it hands on."""
    lines = []
    for _ in range(rng.randrange(5, 12)):
        p, q, carry = rng.randrange(10), rng.randrange(10), rng.randrange(2)
        so_far = str(rng.randrange(100)) if rng.random() < 0.5 else ""
        kind = rng.random()
        if kind < 0.4:
            total = p + q + carry
            lines.append(f"{p}+{q}+{carry}={total}->{total % 10}{so_far} carry {total // 10}")
        elif kind < 0.75:
            raised = 10 if p < q + carry else 0
            rest = p + raised - q - carry
            lines.append(f"{p + raised}-{q}-{carry}={rest}->{rest}{so_far} borrow {raised // 10}")
        else:
            carry, product = rng.randrange(9), p * q
            total = product + carry
            lines.append(
                f"{p}*{q}={product}, {product}+{carry}={total}->{total % 10}{so_far} carry {total // 10}"
            )
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
            current = rng.randrange(10 * b)
            lines.append(f"{current}: {current // b}*{b}={current // b * b} rest {current % b}")
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


def solved(task: str) -> Callable[[Random], str]:
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


def copies(rng: Random) -> str:
    """Lists of words, names and codes that are said again."""
    lines = []
    for _ in range(rng.randrange(2, 5)):
        makers = (made_up_word, made_up_name, code, person)
        items = [rng.choice(makers)(rng) for _ in range(rng.randrange(2, 6))]
        said = " ".join(items)
        kind = rng.random()
        if kind < 0.5:
            lines.append(f"{said}\n{said}")
        elif kind < 0.75:
            index = rng.randrange(len(items) - 1)
            lines.append(f"{said}. After {items[index]} comes {items[index + 1]}.")
        else:
            lines.append(f"{said}. Again: {said}.")
    return "\n".join(lines)


def repeated_facts(rng: Random) -> str:
    """A small text of facts, and each of them said once more."""
    facts = draw_facts(rng, rng.randrange(2, 6), "train")
    again = [fact.sentence for fact in facts]
    rng.shuffle(again)
    return f"{story_of(rng, facts)}\n{' '.join(again)}"


def calls(rng: Random) -> str:
    """What a calculator is asked and what it answers."""
    lines = []
    for _ in range(rng.randrange(1, 4)):
        problem = TASKS["calculator"](rng, "train")
        turn = problem.turns[-1]
        assert turn.call is not None
        thoughts = turn.think(rng.choice(EFFORTS))
        if rng.random() < 0.4:
            lines.append(
                developer_text(DeveloperContent(tools=tuple(tool.function for tool in problem.tools)))
            )
        lines.append(f"{turn.user}\n{thoughts}\n{turn.call.arguments}\n{turn.call.result}\n{turn.final}")
    return "\n\n".join(lines)


KINDS: Mapping[Callable[[Random], str], int] = {  # in percent
    equations: 6, families: 2, worked: 29, operations_only: 14,
    places: 4, columns: 6, tables: 8, sums_of_products: 4,
    solved("word problems"): 7, solved("facts"): 7, solved("multi-turn"): 3, solved("scope"): 3,
    copies: 2, repeated_facts: 2, calls: 3,
}  # fmt: skip
