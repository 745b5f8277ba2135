"""Conversations of several turns: going on with the last result, asking more about a story, or
something new.

Knows the other tasks. Only the last turn is the problem; the turns before it are its context.
"""

from __future__ import annotations

from random import Random

from ossia.tasks.numbers.arithmetic import ask, draw_number, draw_one_step, draw_two_steps, turn_for
from ossia.tasks.numbers.calculator import (
    calculator_turn,
    declare,
    draw_for_calculator,
    with_others,
)
from ossia.tasks.numbers.expressions import Op, Sign, in_split, value
from ossia.tasks.numbers.stories import story_turn
from ossia.tasks.problem import Expect, Problem, Split, Tool, Turn
from ossia.tasks.safety.scope import scope_turn
from ossia.tasks.world.facts import (
    BEFORE_FACTS,
    BETWEEN,
    draw_facts,
    fact_turn,
    story_of,
    unknown_turn,
)

_GO_ON: dict[str, tuple[str, ...]] = {
    "+": ("Now add {n}.", "Add {n}.", "And plus {n}?", "Plus {n}?", "plus {n}", "What about {n} more?",
          "And {n} more?", "Now add {n} to that.", "Add {n} to it.", "Add another {n}.", "and add {n}",
          "Now plus {n}", "+ {n}", "+{n}", "Then add {n}.", "What if I add {n}?", "Increase that by {n}.",
          "add {n} more",
          "And if you add {n}?"),
    "-": ("Now subtract {n}.", "Subtract {n}.", "And minus {n}?", "Minus {n}?", "minus {n}",
          "Take away {n}.", "- {n}", "Subtract {n} from that.", "Now take away {n}.", "What about {n} less?",
          "And {n} less?", "-{n}", "Then subtract {n}.", "Now minus {n}", "and subtract {n}",
          "Reduce that by {n}.",
          "What if I take away {n}?"),
    "*": ("And times {n}?", "Times {n}?", "times {n}", "Now multiply by {n}.", "Multiply that by {n}.",
          "* {n}", "x {n}", "Multiply it by {n}.", "And multiplied by {n}?", "Then multiply by {n}.",
          "Now times {n}", "*{n}",
          "What is that times {n}?"),
    "/": ("Now divide by {n}.", "Divide that by {n}.", "And divided by {n}?", "divided by {n}", "/ {n}",
          "Divide it by {n}.",
          "What is that divided by {n}?", "Then divide by {n}."),
}  # fmt: skip
_TWICE = ("Double it.", "Double that.", "And twice that?", "Now double it.", "And doubled?")
_HALF = ("Half of that?", "And half of it?", "Now halve it.", "What is half of that?")


def follow_up(rng: Random, split: Split) -> Problem:
    """Two to six turns, rarely fifteen; the last one is the problem."""
    luck = rng.random()
    count = 2 if luck < 0.45 else 3 if luck < 0.74 else 4 if luck < 0.87 else rng.randrange(5, 7)
    if luck > 0.97:
        count = rng.randrange(10, 16)
    kind = rng.random()
    if kind < 0.5:
        return _calculation(rng, split, count)
    if kind < 0.74:
        return _story(rng, split, min(count, 6))
    if kind < 0.86:
        return _with_calculator(rng, split, min(count, 6))
    return _mixed(rng, split, count)


def _problem(
    split: Split, turns: list[Turn], expect: Expect, tools: tuple[Tool, ...] = ()
) -> Problem:
    return Problem("multi-turn", split, tuple(turns), expect, tools)


def _split_at(index: int, count: int, split: Split) -> Split:
    """Context comes from the training split; only the last turn is held out."""
    return split if index == count - 1 else "train"


def go_on(rng: Random, start: int, split: Split) -> tuple[Op, str] | None:
    """An operation on the previous result, and how it is asked for; None if none fits after some
    tries.
    """
    for _ in range(60):
        pick = rng.random()
        sign: Sign = "+" if pick < 0.4 else "-" if pick < 0.72 else "*" if pick < 0.9 else "/"
        n = draw_number(rng) if sign in "+-" else rng.randrange(2, 13)
        if (sign == "/" and start % n) or (sign == "*" and len(str(abs(start))) > 3 - (n > 9)):
            continue
        expr = Op(sign, start, n)
        if abs(value(expr)) > 9999 or not in_split(expr, split):
            continue
        frames = _GO_ON[sign]
        if n == 2 and sign in "*/" and rng.random() < 0.5:
            frames = _TWICE if sign == "*" else _HALF
        return expr, rng.choice(frames).format(n=n)
    return None


def _calculation(rng: Random, split: Split, count: int) -> Problem:
    """`What is 12 + 30?` ... `Now add 10.` ... `And times 2?`"""
    while True:
        if rng.random() < 0.2:
            turn, expr = story_turn(rng, "train")
        else:
            expr = (
                draw_one_step(rng, "train") if rng.random() < 0.8 else draw_two_steps(rng, "train")
            )
            turn = turn_for(expr, ask(rng, expr))
        turns, start = [turn], value(expr)
        for index in range(1, count):
            wanted = _split_at(index, count, split)
            fresh = rng.random() < 0.12
            new = draw_one_step(rng, wanted) if fresh else None
            found = (new, ask(rng, new)) if new is not None else go_on(rng, start, wanted)
            if found is None:
                break
            turns.append(turn_for(*found))
            start = value(found[0])
        else:
            return _problem(split, turns, Expect(number=start))


def _story(rng: Random, split: Split, count: int) -> Problem:
    """Facts in the first turn and questions about them in each."""
    facts = draw_facts(rng, max(count, rng.randrange(2, 7)), split)
    told = rng.choice(BEFORE_FACTS) + story_of(rng, facts)
    before = told + rng.choice(BETWEEN)
    turns: list[Turn] = []
    expect = Expect()
    if rng.random() < 0.15:  # the facts alone, to be asked about later
        turns.append(Turn(told, READ, _read_thoughts))
        before = ""
    others = facts[:-1]
    rng.shuffle(others)
    for index in range(len(turns), count):
        last = index == count - 1
        if rng.random() < 0.16:
            turn, expect = unknown_turn(rng, facts, before)
        else:
            fact = facts[-1] if last else others[index % len(others)]
            turn, expect = fact_turn(rng, fact, before or rng.choice(_AND))
        turns.append(turn)
        before = ""
    return _problem(split, turns, expect)


READ = "I have read it. What is your question?"
_AND = ("", "", "", "", "And ", "and ", "Ok, ", "Now, ", "Thanks. ", "Good. ")


def _read_thoughts(effort: object) -> str:
    return "There is no question yet."


def _with_calculator(rng: Random, split: Split, count: int) -> Problem:
    """A calculator on offer: chained calls, sometimes with a turn in between that does not need it."""
    declared = declare(rng, two_steps=False)
    expr = draw_for_calculator(rng, "train", declared.takes_one_operation)
    turn, expect, run = calculator_turn(expr, ask(rng, expr), declared)
    turns, start = [turn], value(expr)
    for index in range(1, count):
        wanted = _split_at(index, count, split)
        if rng.random() < 0.25:
            turn, expect = scope_turn(rng, wanted)
        else:
            found = go_on(rng, start, wanted) if rng.random() < 0.75 else None
            if found is None:
                expr = draw_for_calculator(rng, wanted, declared.takes_one_operation)
                found = expr, ask(rng, expr)
            turn, expect, run = calculator_turn(*found, declared)
            start = value(found[0])
        turns.append(turn)
    return _problem(split, turns, expect, with_others(rng, Tool(declared.function, run)))


def _mixed(rng: Random, split: Split, count: int) -> Problem:
    """Unrelated turns one after the other."""
    turns: list[Turn] = []
    expect = Expect()
    for index in range(count):
        turn, expect = _any_turn(rng, _split_at(index, count, split))
        turns.append(turn)
    return _problem(split, turns, expect)


def _any_turn(rng: Random, split: Split) -> tuple[Turn, Expect]:
    kind = rng.random()
    if kind < 0.35:
        expr = draw_one_step(rng, split)
        return turn_for(expr, ask(rng, expr)), Expect(number=value(expr))
    if kind < 0.5:
        turn, expr = story_turn(rng, split)
        return turn, Expect(number=value(expr))
    if kind < 0.65:
        facts = draw_facts(rng, rng.randrange(1, 4), split)
        return fact_turn(rng, facts[-1], story_of(rng, facts) + " ")
    return scope_turn(rng, split)
