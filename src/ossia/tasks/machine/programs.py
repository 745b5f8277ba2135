"""Programs for the stack machine: drawn ones with the purpose they serve, as text to read and as
problems to trace.

Knows the machine and expressions. A training program does no arithmetic that the arithmetic task
holds out; which programs are held out is decided by their text, comments left out (`is_of`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from ossia.harmony import Effort
from ossia.tasks.machine.machine import SIGNS, TAKES, Outcome, run
from ossia.tasks.numbers.expressions import Expr, Op, is_trained, operation_split, text
from ossia.tasks.problem import Expect, Problem, Split, Turn, split_of
from ossia.tasks.words import Words

WORDS = Words("machine")
MAX_TRACE = 60  # steps of a program whose trace is written
MAX_PRINTED = 9999
_SUM = re.compile(r"push \d+; push \d+; (add|sub); print")
_OF_SIGN = {sign: op for op, sign in SIGNS.items()}


@dataclass(frozen=True)
class Program:
    """Operations in order, what they compute in words, and what running them does."""

    lines: tuple[str, ...]
    purpose: str
    outcome: Outcome

    @property
    def short(self) -> str:
        """On one line, as in a question or a call."""
        return "; ".join(self.lines)

    @property
    def long(self) -> str:
        """One operation a line, as in a file."""
        return "\n".join(self.lines)


def compiled(expr: Expr) -> tuple[str, ...]:
    """The operations that leave the value of an expression on the stack: postfix notation."""
    if isinstance(expr, int):
        return (f"push {expr}",)
    return (*compiled(expr.left), *compiled(expr.right), _OF_SIGN[expr.sign])


def is_of(split: Split, program: str) -> bool:
    """Whether a program, on one line, may be drawn for the split.

    A lone sum or difference is never held out: such a program goes on with a number that was looked
    up, and there the fact decides the split.
    """
    return split_of(program) == split and (split == "train" or not _SUM.fullmatch(program))


# ---- drawing -------------------------------------------------------------------------------------

Drawn = tuple[str, str]  # operations set apart by `; `, and their purpose
LOOP_OVER_N = "load n; push 1; sub; store n; jmp more; label end"


def _expression(rng: Random) -> Drawn:
    expr = draw_expression(rng)
    return "; ".join([*compiled(expr), "print"]), text(expr)


def draw_expression(rng: Random) -> Op:
    """One or two operations that may be trained on, whatever the split: a program's split is that
    of its text.
    """
    while True:
        top = 13 if rng.random() < 0.5 else 60
        a, b, c = (rng.randrange(top) for _ in range(3))
        expr = Op("+" if rng.random() < 0.5 else "-", a, b)
        if rng.random() < 0.7:
            multiplied = rng.random() < 0.5
            product = Op("*", a % 13, b % 13)
            expr = Op("*", expr, c % 10) if multiplied else Op("+", product, c)
        if is_trained(expr):
            return expr


def _shuffle(rng: Random) -> Drawn:
    """Numbers that are moved about and combined."""
    lines = [f"push {rng.randrange(10)}" for _ in range(2)]
    height = 2
    for _ in range(rng.randrange(2, 7)):
        op = rng.choice(_possible(height))
        height += _GROWTH[op]
        lines.append(f"push {rng.randrange(10)}" if op == "push" else op)
    lines += ["print"] * rng.randrange(1, height + 1)
    return "; ".join(lines), "the upper values of the stack"


# how the stack grows by each operation
_GROWTH = {"push": 1, "dup": 1, "swap": 0, "over": 1, "add": -1, "sub": -1, "mul": -1}


def _possible(height: int) -> list[str]:
    """Operations for which a stack of this height has enough values."""
    return [op for op in _GROWTH if TAKES[op] <= height]


def _sum_up_to(rng: Random) -> Drawn:
    n = rng.randrange(2, 7)
    begin = f"push {n}; store n; push 0; store s"
    loop = "label more; load n; jz end; load s; load n; add; store s"
    return f"{begin}; {loop}; {LOOP_OVER_N}; load s; print", f"the sum of 1 to {n}"


def _count_down(rng: Random) -> Drawn:
    n = rng.randrange(2, 8)
    loop = "label more; dup; jz end; dup; print; push 1; sub; jmp more; label end"
    return f"push {n}; {loop}", f"the numbers from {n} down to 1"


def _power(rng: Random) -> Drawn:
    base = rng.randrange(2, 6)
    n = rng.randrange(2, 5)
    begin = f"push {n}; store n; push 1"
    loop = f"label more; load n; jz end; push {base}; mul"
    return f"{begin}; {loop}; {LOOP_OVER_N}; print", f"{base} to the power of {n}"


def _larger(rng: Random) -> Drawn:
    a = rng.randrange(100)
    b = rng.randrange(100)
    choose = "over; over; lt; jz first; swap; label first; drop; print"
    return f"push {a}; push {b}; {choose}", f"the larger of {a} and {b}"


def _gcd(rng: Random) -> Drawn:
    factor = rng.randrange(1, 10)
    a = factor * rng.randrange(1, 10)
    b = factor * rng.randrange(1, 10)
    loop = "label more; dup; jz end; store b; load b; mod; load b; swap; jmp more; label end"
    does = f"the greatest common divisor of {a} and {b}"
    return f"push {a}; push {b}; {loop}; drop; print", does


def _rest(rng: Random) -> Drawn:
    a = rng.randrange(10, 100)
    b = rng.randrange(2, 13)
    return f"push {a}; push {b}; mod; print", f"{a} mod {b}"


_MAKERS: dict[Callable[[Random], Drawn], int] = {  # in percent
    _expression: 30,
    _shuffle: 22,
    _sum_up_to: 8,
    _count_down: 8,
    _power: 8,
    _larger: 9,
    _gcd: 8,
    _rest: 7,
}
_WITHOUT_LOOPS = (_expression, _shuffle, _rest)


def draw_program(rng: Random, split: Split, purpose: bool = False, short: bool = False) -> Program:
    """A program of the split that ends without an error and prints something.

    `purpose`: only programs whose purpose tells all there is to know. `short`: no loops.
    """
    makers = list(_MAKERS)
    weights = list(_MAKERS.values())
    while True:
        make = _expression if short and purpose else rng.choices(makers, weights)[0]
        if purpose and make is _shuffle:
            continue
        if short and make not in _WITHOUT_LOOPS:
            continue
        source, does = make(rng)
        if not is_of(split, source):
            continue
        outcome = run(source, trace=True)
        assert not outcome.error, f"{outcome.error} in {source}"
        if max(map(abs, outcome.printed)) > MAX_PRINTED:
            continue
        if split == "held_out" or _only_trained(outcome):
            return Program(tuple(source.split("; ")), does, outcome)


def _only_trained(outcome: Outcome) -> bool:
    return all(operation_split(*done) == "train" for done in outcome.operations)


def broken(rng: Random, program: Program) -> str:
    """The program on one line with one mistake in it, so that running it gives an error."""
    lines = list(program.lines)
    mistake = rng.randrange(4)
    if mistake == 0:
        lines.insert(0, rng.choice(("add", "drop", "print", "mul")))
    elif mistake == 1:
        place = rng.randrange(len(lines))
        lines[place] = lines[place] + rng.choice((" now", " 1 2"))
    elif mistake == 2:
        lines.insert(rng.randrange(len(lines)), rng.choice(("plus", "times", "say", "pop", "goto")))
    else:
        lines[-1:] = ["push 0", "div", "print"]
    return "; ".join(lines)


# ---- tracing -------------------------------------------------------------------------------------


def traced(program: Program, effort: Effort) -> str:
    """The analysis of what a program prints: nothing but that, the stack after some steps, or after
    every step.
    """
    printed = program.outcome.result
    trace = program.outcome.trace
    match effort:
        case Effort.LOW:
            return f"prints {printed}"
        case Effort.MEDIUM:
            shown = []
            for index, (op, stack) in enumerate(trace, 1):
                if index % 3 == 0 or op == "print":
                    shown.append(stack or "empty")
            return ", ".join([*shown, f"prints {printed}"])
        case Effort.HIGH:
            count = len(program.outcome.printed)
            numbers = "1 number" if count == 1 else f"{count} numbers"
            check = f"check {len(trace)} steps, {numbers}: {printed}"
            return "\n".join([*_trace_lines(program), check])


def _trace_lines(program: Program) -> list[str]:
    return [f"{op} | {stack or 'empty'}" for op, stack in program.outcome.trace]


def program_tracing(rng: Random, split: Split) -> Problem:
    """A program whose output is to be found by reading it; no tool is offered."""
    program = draw_program(rng, split)
    while len(program.outcome.trace) > MAX_TRACE:
        program = draw_program(rng, split)
    user = rng.choice(WORDS["trace"]).format(p=program.short)
    printed = program.outcome.result
    turn = Turn(user, f"It prints: {printed}", partial(traced, program))
    about = {"steps": program.outcome.steps}
    return Problem("machine", split, (turn,), Expect(equals=printed), about=about)


def machine_text(rng: Random) -> str:
    """A document: a program, mostly with what it is for, and what running it does."""
    program = draw_program(rng, "train")
    source = program.long if rng.random() < 0.75 else program.short
    if rng.random() < 0.6:
        source = f"# {program.purpose}\n{source}"
    if rng.random() < 0.15:
        wrong = broken(rng, program)
        source = wrong if rng.random() < 0.5 else wrong.replace("; ", "\n")
        return f"{source}\n{run(wrong).result}"
    if len(program.outcome.trace) <= MAX_TRACE and rng.random() < 0.5:
        source = "\n".join([source, "trace", *_trace_lines(program)])
    return f"{source}\nprints {program.outcome.result}"
