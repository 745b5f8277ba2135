"""Conversations of several turns: more steps from the last result, more questions about a story,
or something new.

Knows the other tasks. Only the last turn is the problem; the turns before it are its context.
"""

from __future__ import annotations

from random import Random

from ossia.tasks.numbers.arithmetic import (
    LARGEST_RESULT,
    ask,
    draw_number,
    draw_one_step,
    draw_two_steps,
    turn_for,
)
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
from ossia.tasks.words import Words
from ossia.tasks.world.facts import draw_facts, fact_turn, story_of, unknown_turn
from ossia.tasks.world.relations import WORDS as FACT_WORDS

WORDS = Words("followups")
READ = "I have read it. What is your question?"
TRIES = 60  # draws of an operation on the last result


def follow_up(rng: Random, split: Split) -> Problem:
    """Two to six turns, rarely fifteen; the last one is the problem."""
    count = _draw_count(rng)
    kind = rng.random()
    if kind < 0.5:
        return _calculation(rng, split, count)
    if kind < 0.74:
        return _story(rng, split, min(count, 6))
    if kind < 0.86:
        return _with_calculator(rng, split, min(count, 6))
    return _mixed(rng, split, count)


def _draw_count(rng: Random) -> int:
    luck = rng.random()
    if luck < 0.45:
        return 2
    if luck < 0.74:
        return 3
    if luck < 0.87:
        return 4
    few = rng.randrange(5, 7)
    if luck <= 0.97:
        return few
    return rng.randrange(10, 16)


def _problem(
    split: Split, turns: list[Turn], expect: Expect, tools: tuple[Tool, ...] = ()
) -> Problem:
    return Problem("multi-turn", split, tuple(turns), expect, tools)


def _split_at(index: int, count: int, split: Split) -> Split:
    """Context comes from the training split; only the last turn is held out."""
    last = count - 1
    return split if index == last else "train"


def go_on(rng: Random, start: int, split: Split) -> tuple[Op, str] | None:
    """An operation on the previous result, and how it is asked for; None if no try gives one."""
    for _ in range(TRIES):
        sign = _draw_sign(rng)
        if sign in "+-":
            n = draw_number(rng)
        else:
            n = rng.randrange(2, 13)
        if sign == "/" and start % n:
            continue
        if sign == "*" and not _is_short_product(start, n):
            continue
        expr = Op(sign, start, n)
        if abs(value(expr)) > LARGEST_RESULT or not in_split(expr, split):
            continue
        frames = WORDS.table("go on")[sign]
        if n == 2 and sign in "*/" and rng.random() < 0.5:
            frames = WORDS["twice" if sign == "*" else "half"]
        frame = rng.choice(frames)
        return expr, frame.format(n=n)
    return None


def _is_short_product(start: int, n: int) -> bool:
    """Whether the working of start * n stays short."""
    digits = len(str(abs(start)))
    most = 2 if n > 9 else 3
    return digits <= most


def _draw_sign(rng: Random) -> Sign:
    kind = rng.random()
    if kind < 0.4:
        return "+"
    if kind < 0.72:
        return "-"
    if kind < 0.9:
        return "*"
    return "/"


def _calculation(rng: Random, split: Split, count: int) -> Problem:
    """`What is 12 + 30?` ... `Now add 10.` ... `And times 2?`"""
    while True:
        turn, expr = _beginning(rng)
        turns = [turn]
        while len(turns) < count:
            wanted = _split_at(len(turns), count, split)
            found = _next_calculation(rng, value(expr), wanted)
            if found is None:
                break
            expr, user = found
            turns.append(turn_for(expr, user))
        else:
            expect = Expect(number=value(expr))
            return _problem(split, turns, expect)


def _next_calculation(rng: Random, start: int, split: Split) -> tuple[Op, str] | None:
    if rng.random() < 0.12:
        fresh = draw_one_step(rng, split)
        return fresh, ask(rng, fresh)
    return go_on(rng, start, split)


def _beginning(rng: Random) -> tuple[Turn, Op]:
    if rng.random() < 0.2:
        return story_turn(rng, "train")
    if rng.random() < 0.8:
        expr = draw_one_step(rng, "train")
    else:
        expr = draw_two_steps(rng, "train")
    user = ask(rng, expr)
    return turn_for(expr, user), expr


def _story(rng: Random, split: Split, count: int) -> Problem:
    """Facts in the first turn and questions about them in each."""
    most = rng.randrange(2, 7)
    facts = draw_facts(rng, max(count, most), split)
    opening = rng.choice(FACT_WORDS["before"])
    told = opening + story_of(rng, facts)
    before = told + rng.choice(FACT_WORDS["between"])
    turns: list[Turn] = []
    expect = Expect()
    if rng.random() < 0.15:  # the facts alone, to be asked about later
        read = Turn(told, READ, _read_thoughts)
        turns.append(read)
        before = ""
    *others, asked_last = facts
    rng.shuffle(others)
    for index in range(len(turns), count):
        if rng.random() < 0.16:
            turn, expect = unknown_turn(rng, facts, before)
        else:
            fact = others[index % len(others)]
            if index == count - 1:
                fact = asked_last
            turn, expect = fact_turn(rng, fact, before or rng.choice(WORDS["and"]), facts)
        turns.append(turn)
        before = ""
    return _problem(split, turns, expect)


def _read_thoughts(effort: object) -> str:
    return "There is no question yet."


def _with_calculator(rng: Random, split: Split, count: int) -> Problem:
    """A calculator on offer: chained calls, sometimes with a turn between them that needs none."""
    declared = declare(rng, two_steps=False)
    expr = draw_for_calculator(rng, "train", declared.takes_one_operation)
    user = ask(rng, expr)
    turn, expect, run = calculator_turn(expr, user, declared)
    turns = [turn]
    for index in range(1, count):
        wanted = _split_at(index, count, split)
        if rng.random() < 0.25:
            turn, expect = scope_turn(rng, wanted)
        else:
            found = None
            if rng.random() < 0.75:
                found = go_on(rng, value(expr), wanted)
            if found is None:
                expr = draw_for_calculator(rng, wanted, declared.takes_one_operation)
                user = ask(rng, expr)
            else:
                expr, user = found
            turn, expect, run = calculator_turn(expr, user, declared)
        turns.append(turn)
    own = Tool(declared.function, run)
    tools = with_others(rng, own)
    return _problem(split, turns, expect, tools)


def _mixed(rng: Random, split: Split, count: int) -> Problem:
    """Unrelated turns one after the other."""
    turns: list[Turn] = []
    expect = Expect()
    for index in range(count):
        wanted = _split_at(index, count, split)
        turn, expect = _any_turn(rng, wanted)
        turns.append(turn)
    return _problem(split, turns, expect)


def _any_turn(rng: Random, split: Split) -> tuple[Turn, Expect]:
    kind = rng.random()
    if kind < 0.35:
        expr = draw_one_step(rng, split)
        user = ask(rng, expr)
        return turn_for(expr, user), Expect(number=value(expr))
    if kind < 0.5:
        turn, expr = story_turn(rng, split)
        return turn, Expect(number=value(expr))
    if kind < 0.65:
        count = rng.randrange(1, 4)
        facts = draw_facts(rng, count, split)
        told = story_of(rng, facts)
        return fact_turn(rng, facts[-1], f"{told} ", facts)
    return scope_turn(rng, split)
