"""A tiny stack machine: named operations on whole numbers, deterministic, with a step limit and
plain error texts.

Knows nothing of tasks or messages except how a tool is declared. A program is text, one operation a
line (or set apart by `;`); `#` begins a comment. It can do nothing but compute and print, so it is
safe to run whatever a model writes.

    push 3      put a number on the stack        add sub mul div mod   of the two upper values
    dup         the upper value once more        lt eq                 1 if smaller / equal, else 0
    swap over   change two places; copy the 2nd  store a   load a      variables
    drop        take the upper value away        label a   jmp a       places in the program
    print       take it and print it             jz a                  take it, jump if it is 0
    halt        end
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from ossia.errors import ToolError
from ossia.harmony import FunctionTool
from ossia.tasks.numbers.expressions import Sign

STEP_LIMIT = 200
MAX_STEP_LIMIT = 10_000
MAX_CHARACTERS = 4000
MAX_STACK = 64
MAX_VALUE = 10**12
_NEEDS = {  # operations by how many values they need on the stack
    0: ("push", "load", "label", "jmp", "halt"),
    1: ("dup", "drop", "print", "store", "jz"),
    2: ("add", "sub", "mul", "div", "mod", "lt", "eq", "swap", "over"),
}
TAKES = {op: count for count, ops in _NEEDS.items() for op in ops}
NAMED = ("store", "load", "label", "jmp", "jz")  # operations that are followed by a name
SIGNS: Mapping[str, Sign] = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


@dataclass(frozen=True)
class Instruction:
    """One operation, its number or name, and its line in the text (from 1)."""

    op: str
    argument: str
    line: int

    def __str__(self) -> str:
        return f"{self.op} {self.argument}".rstrip()


@dataclass
class Outcome:
    """What running a program did. `error` is "" if it came to its end.

    `trace` holds (operation, the stack after it) for every step; `operations` the arithmetic that
    was done, as signs and numbers, which is what decides whether a program may be trained on.
    """

    printed: list[int] = field(default_factory=list)
    steps: int = 0
    error: str = ""
    trace: list[tuple[str, str]] = field(default_factory=list)
    operations: list[tuple[Sign, int, int]] = field(default_factory=list)

    @property
    def result(self) -> str:
        """What the tool answers: the printed numbers, or the error."""
        if self.error:
            return f"error: {self.error}"
        return " ".join(map(str, self.printed)) or "nothing was printed"


def parse(program: str) -> list[Instruction]:
    """The instructions of a program. Raises ToolError naming the line that is wrong."""
    if len(program) > MAX_CHARACTERS:
        raise ToolError(f"the program is longer than {MAX_CHARACTERS} characters")
    found = []
    for number, text in enumerate(program.replace(";", "\n").split("\n"), 1):
        words = text.partition("#")[0].split()
        if words:
            found.append(_instruction(words, number))
    if not found:
        raise ToolError("the program is empty")
    return found


def _instruction(words: list[str], line: int) -> Instruction:
    op, *arguments = words
    if op not in TAKES:
        raise ToolError(f"line {line}: there is no operation {op}")
    wanted = "nothing"
    if op == "push":
        wanted = "a number"
    elif op in NAMED:
        wanted = "a name"
    if len(arguments) != (0 if wanted == "nothing" else 1):
        raise ToolError(f"line {line}: {op} is followed by {wanted}")
    argument = "".join(arguments)
    if op == "push" and not _is_number(argument):
        raise ToolError(f"line {line}: {argument} is not a whole number")
    return Instruction(op, argument, line)


def _is_number(word: str) -> bool:
    digits = word.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= len(str(MAX_VALUE))


def run(program: str, limit: int = STEP_LIMIT, trace: bool = False) -> Outcome:
    """Run a program for at most `limit` steps. Errors are part of the outcome, never raised."""
    outcome = Outcome()
    try:
        _Machine(parse(program), outcome, trace).go(limit)
    except ToolError as error:
        outcome.error = str(error)
    return outcome


class _Machine:
    """A program that is being run."""

    def __init__(self, program: list[Instruction], outcome: Outcome, trace: bool) -> None:
        self.program = program
        self.outcome = outcome
        self.traced = trace
        self.stack: list[int] = []
        self.variables: dict[str, int] = {}
        self.labels = {i.argument: place for place, i in enumerate(program) if i.op == "label"}
        self.place = 0

    def go(self, limit: int) -> None:
        while self.place < len(self.program):
            instruction = self.program[self.place]
            if instruction.op == "halt":
                return
            if self.outcome.steps >= limit:
                raise ToolError(f"not finished after {limit} steps")
            self.outcome.steps += 1
            self.place += 1
            self._do(instruction)
            if self.traced:
                self.outcome.trace.append((str(instruction), " ".join(map(str, self.stack))))

    def _do(self, instruction: Instruction) -> None:
        op = instruction.op
        argument = instruction.argument
        line = instruction.line
        if len(self.stack) < TAKES[op]:
            values = "1 value" if TAKES[op] == 1 else f"{TAKES[op]} values"
            raise ToolError(f"line {line}: {op} needs {values}, the stack has {len(self.stack)}")
        if op == "push":
            self._push(int(argument), line)
        elif op in _PAIRS:
            b = self.stack.pop()
            a = self.stack.pop()
            if op in ("div", "mod") and b == 0:
                raise ToolError(f"line {line}: division by zero")
            if op in SIGNS:
                self.outcome.operations.append((SIGNS[op], a, b))
            self._push(_PAIRS[op](a, b), line)
        elif op == "print":
            self.outcome.printed.append(self.stack.pop())
        elif op in ("jmp", "jz"):
            self._jump(instruction)
        else:
            self._move(op, argument, line)

    def _move(self, op: str, argument: str, line: int) -> None:
        """Everything that takes values from one place to another."""
        stack = self.stack
        if op == "dup":
            self._push(stack[-1], line)
        elif op == "over":
            self._push(stack[-2], line)
        elif op == "swap":
            stack[-1], stack[-2] = stack[-2], stack[-1]
        elif op == "drop":
            stack.pop()
        elif op == "store":
            self.variables[argument] = stack.pop()
        elif op == "load":
            if argument not in self.variables:
                raise ToolError(f"line {line}: there is no variable {argument}")
            self._push(self.variables[argument], line)
        else:
            assert op == "label", op

    def _jump(self, instruction: Instruction) -> None:
        if instruction.argument not in self.labels:
            raise ToolError(f"line {instruction.line}: there is no label {instruction.argument}")
        if instruction.op == "jmp" or self.stack.pop() == 0:
            self.place = self.labels[instruction.argument]

    def _push(self, value: int, line: int) -> None:
        if abs(value) > MAX_VALUE:
            raise ToolError(f"line {line}: the number is too large")
        if len(self.stack) >= MAX_STACK:
            raise ToolError(f"line {line}: the stack is full")
        self.stack.append(value)


_PAIRS: Mapping[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "lt": lambda a, b: int(a < b),
    "eq": lambda a, b: int(a == b),
}


@lru_cache(maxsize=4096)
def result_of(program: str, limit: int = STEP_LIMIT) -> str:
    """What the tool answers for a program."""
    return run(program, limit).result


# ---- the tool ------------------------------------------------------------------------------------

RUN = FunctionTool(
    "run",
    "Runs a program of the stack machine and returns what it prints.",
    {
        "type": "object",
        "properties": {
            "program": {"type": "string"},
            "limit": {"type": "integer", "description": "steps at most"},
        },
        "required": ["program"],
    },
)


def read_program(arguments: str) -> tuple[str, int]:
    """(program, step limit) of a call. Raises ToolError if the arguments are not as RUN declares
    them.
    """
    try:
        data = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise ToolError("the arguments are not JSON") from error
    if not isinstance(data, dict) or not isinstance(data.get("program"), str):
        raise ToolError("run needs a program")
    limit = data.get("limit", STEP_LIMIT)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_STEP_LIMIT:
        raise ToolError(f"the limit must be a whole number from 1 to {MAX_STEP_LIMIT}")
    return data["program"], limit


def run_tool(arguments: str) -> str:
    """What the tool answers to a call's arguments. Every error comes back as text, `error: ...`."""
    try:
        return result_of(*read_program(arguments))
    except ToolError as error:
        return f"error: {error}"
