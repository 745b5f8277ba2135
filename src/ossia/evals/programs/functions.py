"""Answers that are functions: taken from a text, run in our sandbox, compared with what is right.

HumanEval+ and MBPP+ (arXiv 2305.01210): the function, called with the inputs of the file, must
return what the file's own solution returns. What an answer's
code prints is not taken for results, which come behind a word; code that finds the word can invent
results, and would still have to know which are right: nothing of that is in its process. A file's
`test` is in `tested`.
"""

from __future__ import annotations

import ast
import json
import math
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ossia.errors import DataError
from ossia.evals.answers import Mark, right_or_wrong
from ossia.evals.files import Row
from ossia.evals.questions import Answered, Question
from ossia.evals.texts import well_formed
from ossia.harmony import Message, Role
from ossia.tools.sandbox import Finished, Job, Limits, Rung, choose, run

HARNESS = Path(__file__).with_name("harness.py")
SECONDS_A_FUNCTION = 60.0  # with all its inputs
MEMORY = 2 << 30
MOST_OUTPUT = 1 << 25  # characters
CLOSE = 1e-6  # of floats where the file names no tolerance, as in EvalPlus
FUNCTION_PROMPT = (
    "Complete this Python function.\n\n```python\n{prompt}\n```\n\nAnswer with one block of code "
    "that holds the whole function and all that it needs."
)
PYTHON = ("python", "python3", "py")
LONGEST = 100_000  # bytes of a program that can be an argument of a command
NO_CODE = "it holds no code"
NO_RESULT = "what it returned is no result"
DEEPEST = 64  # collections in each other; the harness writes 60
Ended = Literal["returned", "raised", "missing"]


class Runner(Protocol):
    """Any thread may call."""

    def run(
        self,
        program: str,
        given: bytes,
        seconds: float,
    ) -> Finished:
        """Run a Python program that reads `given`."""


class Sandboxed:
    """In the best sandbox of this machine. Raises `SandboxError` if there is none."""

    def __init__(self, rung: Rung | None = None) -> None:
        self._rung = rung or choose()

    def run(
        self,
        program: str,
        given: bytes,
        seconds: float,
    ) -> Finished:
        if why := _unfit(program):
            return Finished("", "", 1, why)
        limits = Limits(memory=MEMORY, cpu_seconds=math.ceil(seconds) + 1)
        job = Job((self._rung.python, "-I", "-c", program), limits=limits)
        return run(self._rung, job, seconds=seconds, given=given, most=MOST_OUTPUT)


def _unfit(program: str) -> str:
    """Why a program cannot be the argument of a command; "" if it can."""
    data = program.encode("utf-8", "surrogatepass")
    if well_formed(program) != program or b"\0" in data:
        return "the program is no text: it holds a zero byte or half a character"
    return f"the program is longer than {LONGEST} bytes" if len(data) > LONGEST else ""


# ---- code in a text ------------------------------------------------------------------------------


def code_of(text: str, entry: str = "") -> str | None:
    """The last block of code; of several, the last that defines `entry`; or the text, if it is
    Python itself. Blocks that are labelled as Python come first, then those without a label, which
    may be sample output, then the others.
    """
    groups = [group for group in _blocks(text) if group]
    for group in groups:
        defining = [block for block in group if entry and defines(block, entry)]
        if defining:
            return defining[-1]
    if groups:
        return groups[0][-1]
    return text if _is_python(text) else None


def defines(code: str, entry: str) -> bool:
    return re.search(rf"\bdef\s+{re.escape(entry)}\s*\(", code) is not None


def _blocks(text: str) -> list[list[str]]:
    """What stands between lines of ```, the last one open or not: of Python, of no language, of
    another.
    """
    found: list[tuple[str, str]] = []
    language = ""
    inside: list[str] | None = None
    for line in text.split("\n"):
        mark = line.strip()
        if not mark.startswith("```"):
            if inside is not None:
                inside.append(line)
        elif inside is None:
            inside = []
            language = mark.strip("`").strip().lower().partition(" ")[0]
        else:
            found.append((language, "\n".join(inside)))
            inside = None
    if inside:
        found.append((language, "\n".join(inside)))
    groups: list[list[str]] = [[], [], []]
    for language, block in found:
        groups[_rank(language)].append(block)
    return groups


def _rank(language: str) -> int:
    if language in PYTHON:
        return 0
    return 2 if language else 1


def _is_python(text: str) -> bool:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(node, ast.Expr) for node in tree.body)


# ---- functions -----------------------------------------------------------------------------------


def function_question(row: Row, runner: Runner) -> Question:
    """HumanEval+ and MBPP+ in the layout with inputs. Raises `DataError`."""
    prompt = row.text("prompt")
    text = FUNCTION_PROMPT.format(prompt=prompt.strip("\n"))
    asked = (Message(Role.USER, text),)
    name = row.text("task_id").strip()
    task = _Function.of(row, prompt, runner)
    return Question(name, "", asked, task.solution, task.grade)


@dataclass
class _Function:
    runner: Runner
    prompt: str
    entry: str
    solution: str
    inputs: Sequence[Any]
    tolerance: float

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._right: list[Any] | None = None

    @classmethod
    def of(
        cls,
        row: Row,
        prompt: str,
        runner: Runner,
    ) -> _Function:
        inputs = [*_inputs(row, "base_input"), *_inputs(row, "plus_input")]
        if not inputs:
            raise DataError(f"{row.where}: there are no inputs", "base_input")
        return cls(
            runner,
            prompt,
            row.text("entry_point"),
            prompt + row.text("canonical_solution", "code"),
            inputs,
            _tolerance(row),
        )

    def grade(self, answered: Answered) -> Mark:
        code = code_of(answered.final, self.entry)
        if code is None:
            return Mark("unparsed", why=NO_CODE)
        right = self._expected()
        if isinstance(right, str):
            return Mark("failed", why=right)
        if not defines(code, self.entry):
            code = self.prompt + code
        found = call(self.runner, code, self.entry, self.inputs, SECONDS_A_FUNCTION)
        if isinstance(found, str):
            return Mark("wrong", why=found)
        return right_or_wrong(_all_same(right, found, self.tolerance))

    def _expected(self) -> list[Any] | str:
        """What the file's own solution returns, worked out once; or why nothing is known."""
        with self._lock:
            if self._right is not None:
                return self._right
            found = call(self.runner, self.solution, self.entry, self.inputs, SECONDS_A_FUNCTION)
            if isinstance(found, str):
                return f"the file's own solution: {found}"
            if not any(ended == "returned" for ended, *_ in found):
                return "the file's own solution returns nothing"
            self._right = found
            return found


def _tolerance(row: Row) -> float:
    value = row.get("atol") or 0.0
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{row.where}: 'atol' must be a number, found {value!r}", "atol") from error
    if not 0.0 <= found < math.inf:
        raise DataError(f"{row.where}: 'atol' must be a number from 0, found {value!r}", "atol")
    return found


def _inputs(row: Row, name: str) -> list[Any]:
    value = row.get(name)
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{row.where}: {name!r} is not JSON: {error}", name) from error
    value = value or []
    if not isinstance(value, list) or not all(isinstance(one, list) for one in value):
        raise DataError(f"{row.where}: {name!r} must be a list of lists of arguments", name)
    return value


def _all_same(
    right: Sequence[Any],
    found: Sequence[Any],
    tolerance: float,
) -> bool:
    """An input on which the right solution fails is outside of what is asked. One that returns
    nothing for any input works in place: then its arguments are what is compared.
    """
    if len(found) != len(right):
        return False
    in_place = all(ended != "returned" or wanted is None for ended, wanted, _ in right)
    for (ended, wanted, left), (how, value, own) in zip(right, found, strict=True):
        if ended != "returned":
            continue
        if how != "returned" or not same(wanted, value, tolerance):
            return False
        if in_place and not same(left, own, tolerance):
            return False
    return True


def call(
    runner: Runner,
    code: str,
    entry: str,
    inputs: Sequence[Any],
    seconds: float,
    *,
    written: bool = False,
) -> list[Any] | str:
    """[how it ended, what it returned, its arguments afterwards] of each input, as `harness.plain`
    writes values, None for arguments that are as before; or why there is nothing. Without an entry
    the code is only run. `written`: each input is a list of arguments and a dict of named ones, as
    `harness.plain` writes them.
    """
    task = {"code": code, "entry": entry, "inputs": list(inputs), "written": written}
    found = in_harness(runner, task, seconds)
    if isinstance(found, str):
        return found
    if not isinstance(found, list) or not found:
        return "it returned nothing"
    return found if all(map(_is_result, found)) else NO_RESULT


def _is_result(found: Any) -> bool:
    """[how it ended, a value, arguments]: code that runs beside the harness can write anything
    else.
    """
    match found:
        case [str(), value, left]:
            return _is_written(value) and _are_arguments(left)
    return False


def _are_arguments(left: Any) -> bool:
    match left:
        case None:
            return True
        case ["list", [["list", list()], ["dict", list(named)]]]:
            return _is_written(left) and all(map(_is_named, named))
    return False


def _is_named(pair: Any) -> bool:
    match pair:
        case [str(), _]:
            return True
    return False


def _is_written(value: Any, depth: int = 0) -> bool:
    """Whether `harness.plain` writes values so."""
    if value is None or isinstance(value, bool | str):
        return True
    if depth > DEEPEST:
        return False
    match value:
        case ["int", str(text)]:
            return re.fullmatch(r"-?[0-9]+", text) is not None
        case ["float" | "complex" as kind, str(text)]:
            return _reads(complex if kind == "complex" else float, text)
        case ["list" | "tuple" | "set", list(parts)]:
            return all(_is_written(part, depth + 1) for part in parts)
        case ["dict", list(pairs)]:
            return all(_is_pair(pair, depth + 1) for pair in pairs)
        case ["bytes" | "other", str()] | ["deep"]:
            return True
    return False


def _is_pair(found: Any, depth: int) -> bool:
    match found:
        case [key, value]:
            return _is_written(key, depth) and _is_written(value, depth)
    return False


def _reads(kind: Callable[[str], object], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def in_harness(runner: Runner, task: Mapping[str, Any], seconds: float) -> Any:
    """What the harness says of a task; or a text, why it says nothing."""
    word = secrets.token_hex(16)
    program = HARNESS.read_text(encoding="utf-8")
    given = json.dumps({**task, "word": word}).encode()
    done = runner.run(program, given, seconds)
    _, there, rest = done.out.rpartition(word)
    if not there:
        return done.reason or f"the process ended with {done.status}"
    try:
        return json.loads(rest)
    except (ValueError, RecursionError):
        return "what it returned is too large"


def same(
    right: Any,
    found: Any,
    tolerance: float = 0.0,
    *,
    kinds: bool = True,
) -> bool:
    """Of two values as `harness.plain` writes them: equal, floats within a tolerance. `kinds`:
    whether a tuple differs from a list.
    """
    if right == found:
        return True
    numbers = [_number_of(right), _number_of(found)]
    if numbers[0] is not None and numbers[1] is not None:
        return _close(numbers[0], numbers[1], tolerance)
    if not (isinstance(right, list) and isinstance(found, list)):
        return type(right) is type(found) and right == found
    kind = right[0]
    if kind != found[0] and (kinds or {kind, found[0]} != {"list", "tuple"}):
        return False
    if kind == "complex":
        return abs(complex(right[1]) - complex(found[1])) <= max(tolerance, CLOSE)
    if kind not in ("list", "tuple", "set", "dict") or len(right[1]) != len(found[1]):
        return False
    pairs = zip(_parts(right), _parts(found), strict=True)
    return all(same(one, other, tolerance, kinds=kinds) for one, other in pairs)


def _parts(value: Any) -> list[Any]:
    """Of a collection; a set's and a dict's in an order in which 2.0 stands where 2 would."""
    kind, parts = value
    if kind == "dict":
        return [part for pair in sorted(parts, key=_place) for part in pair]
    return sorted(parts, key=_place) if kind == "set" else list(parts)


def _place(value: Any) -> str:
    return json.dumps(_canonical(value))


def _canonical(value: Any) -> Any:
    number = _number_of(value)
    if isinstance(number, float) and number.is_integer():
        return ["int", str(int(number))]
    if number is not None:
        return ["int", str(number)] if isinstance(number, int) else value
    return [_canonical(one) for one in value] if isinstance(value, list) else value


def _number_of(value: Any) -> int | float | None:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, list) and value and value[0] == "int":
        return int(value[1]) if len(value[1]) < 4000 else None
    if isinstance(value, list) and value and value[0] == "float":
        return float(value[1])
    return None


def _close(
    right: float,
    found: float,
    tolerance: float,
) -> bool:
    if isinstance(right, int) and isinstance(found, int):
        return right == found
    if right != right or found != found:
        return right != right and found != found  # not a number
    if right == found:
        return True
    try:
        wanted = float(right)
        other = float(found)
    except OverflowError:
        return False  # a whole number beyond every float
    if math.isinf(wanted) or math.isinf(other):
        return False
    return abs(wanted - other) <= max(tolerance, CLOSE, CLOSE * abs(wanted))
