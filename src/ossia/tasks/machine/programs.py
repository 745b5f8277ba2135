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
from ossia.tasks.machine.machine import SIGNS, Outcome, run
from ossia.tasks.numbers.expressions import Expr, Op, is_trained, operation_split, text
from ossia.tasks.problem import Expect, Problem, Split, Turn, split_of

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


# ---- drawing: each returns (lines, purpose) ----

Drawn = tuple[list[str], str]


def _expression(rng: Random) -> Drawn:
    expr = draw_expression(rng)
    return [*compiled(expr), "print"], text(expr)


def draw_expression(rng: Random) -> Op:
    """One or two operations that may be trained on, whatever the split: a program's split is that
    of its text.
    """
    while True:
        top = 13 if rng.random() < 0.5 else 60
        a, b, c = (rng.randrange(top) for _ in range(3))
        expr = Op("+" if rng.random() < 0.5 else "-", a, b)
        if rng.random() < 0.7:
            expr = (
                Op("*", expr, c % 10) if rng.random() < 0.5 else Op("+", Op("*", a % 13, b % 13), c)
            )
        if is_trained(expr):
            return expr


def _shuffle(rng: Random) -> Drawn:
    """Numbers that are moved about and combined."""
    lines = [f"push {rng.randrange(10)}" for _ in range(2)]
    height = 2
    for _ in range(rng.randrange(2, 7)):
        ops = (
            ["push"] + ["dup"] * (height > 0) + ["swap", "over", "add", "sub", "mul"] * (height > 1)
        )
        op = rng.choice(ops)
        lines.append(f"push {rng.randrange(10)}" if op == "push" else op)
        height += {"push": 1, "dup": 1, "over": 1, "swap": 0}.get(op, -1)
    lines += ["print"] * rng.randrange(1, height + 1)
    return lines, "the upper values of the stack"


def _sum_up_to(rng: Random) -> Drawn:
    n = rng.randrange(2, 7)
    loop = [
        "label more",
        "load n",
        "jz end",
        "load s",
        "load n",
        "add",
        "store s",
        *_counted("n"),
        "jmp more",
    ]
    return [
        f"push {n}",
        "store n",
        "push 0",
        "store s",
        *loop,
        "label end",
        "load s",
        "print",
    ], f"the sum of 1 to {n}"


def _counted(name: str) -> list[str]:
    return [f"load {name}", "push 1", "sub", f"store {name}"]


def _count_down(rng: Random) -> Drawn:
    n = rng.randrange(2, 8)
    lines = [
        f"push {n}",
        "label more",
        "dup",
        "jz end",
        "dup",
        "print",
        "push 1",
        "sub",
        "jmp more",
        "label end",
    ]
    return lines, f"the numbers from {n} down to 1"


def _power(rng: Random) -> Drawn:
    base, n = rng.randrange(2, 6), rng.randrange(2, 5)
    loop = [
        "label more",
        "load n",
        "jz end",
        f"push {base}",
        "mul",
        *_counted("n"),
        "jmp more",
        "label end",
    ]
    return [f"push {n}", "store n", "push 1", *loop, "print"], f"{base} to the power of {n}"


def _larger(rng: Random) -> Drawn:
    a, b = rng.randrange(100), rng.randrange(100)
    lines = [
        f"push {a}",
        f"push {b}",
        "over",
        "over",
        "lt",
        "jz first",
        "swap",
        "label first",
        "drop",
        "print",
    ]
    return lines, f"the larger of {a} and {b}"


def _gcd(rng: Random) -> Drawn:
    factor = rng.randrange(1, 10)
    a, b = factor * rng.randrange(1, 10), factor * rng.randrange(1, 10)
    loop = [
        "label more",
        "dup",
        "jz end",
        "store b",
        "load b",
        "mod",
        "load b",
        "swap",
        "jmp more",
        "label end",
    ]
    return [
        f"push {a}",
        f"push {b}",
        *loop,
        "drop",
        "print",
    ], f"the greatest common divisor of {a} and {b}"


def _rest(rng: Random) -> Drawn:
    a, b = rng.randrange(10, 100), rng.randrange(2, 13)
    return [f"push {a}", f"push {b}", "mod", "print"], f"{a} mod {b}"


_MAKERS: dict[Callable[[Random], Drawn], int] = {
    _expression: 30, _shuffle: 22, _sum_up_to: 8, _count_down: 8, _power: 8, _larger: 9, _gcd: 8, _rest: 7,
}  # fmt: skip
_KINDS, _SHARES = tuple(_MAKERS), tuple(_MAKERS.values())


def draw_program(rng: Random, split: Split, purpose: bool = False, short: bool = False) -> Program:
    """A program of the split that ends without an error and prints something.

    `purpose`: only programs whose purpose tells all there is to know. `short`: no loops.
    """
    while True:
        make = _expression if short and purpose else rng.choices(_KINDS, _SHARES)[0]
        if (purpose and make is _shuffle) or (short and make not in (_expression, _shuffle, _rest)):
            continue
        lines, does = make(rng)
        if not is_of(split, "; ".join(lines)):
            continue
        outcome = run("\n".join(lines), trace=True)
        assert not outcome.error, f"{outcome.error} in {lines}"
        large = max(map(abs, outcome.printed)) > MAX_PRINTED
        if large or (
            split == "train"
            and any(operation_split(*done) != "train" for done in outcome.operations)
        ):
            continue
        return Program(tuple(lines), does, outcome)


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
    if effort is Effort.LOW:
        return f"prints {printed}"
    trace = program.outcome.trace
    if effort is Effort.MEDIUM:
        kept = [
            stack for index, (op, stack) in enumerate(trace, 1) if index % 3 == 0 or op == "print"
        ]
        return ", ".join([*[stack or "empty" for stack in kept], f"prints {printed}"])
    count = len(program.outcome.printed)
    numbers = "1 number" if count == 1 else f"{count} numbers"
    return "\n".join([*_trace_lines(program), f"check {len(trace)} steps, {numbers}: {printed}"])


def _trace_lines(program: Program) -> list[str]:
    return [f"{op} | {stack or 'empty'}" for op, stack in program.outcome.trace]


_ASK = ("What does this program print? {p}", "What is printed by {p}", "Trace this program: {p}",
        "Read the program. What does it print? {p}", "Which numbers does this print? {p}")  # fmt: skip


def program_tracing(rng: Random, split: Split) -> Problem:
    """A program whose output is to be found by reading it; no tool is offered."""
    program = draw_program(rng, split)
    while len(program.outcome.trace) > MAX_TRACE:
        program = draw_program(rng, split)
    user = rng.choice(_ASK).format(p=program.short)
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
        source, printed = (
            wrong if rng.random() < 0.5 else wrong.replace("; ", "\n"),
            run(wrong).result,
        )
        return f"{source}\n{printed}"
    if len(program.outcome.trace) <= MAX_TRACE and rng.random() < 0.5:
        source = f"{source}\ntrace\n" + "\n".join(_trace_lines(program))
    return f"{source}\nprints {program.outcome.result}"
