"""Answers that are functions which have to pass a file's own test: HumanEval, MBPP, and the
layouts of HumanEval+ and MBPP+ with a `test`.

The test and the answer's code never meet in one process: whoever runs beside a test can say that it
passed. The test runs alone and writes down with what it calls the function; the function is called
with that, in a sandbox of its own; then the test runs again with what came of it. Most tests need
two rounds, those that call the function with its own results need more. Until a result is there,
the file's own solution gives one.
"""

from __future__ import annotations

import ast
import builtins
import json
import threading
from dataclasses import dataclass, field
from typing import Any

from ossia.errors import DataError
from ossia.evals.answers import Mark
from ossia.evals.files import Row
from ossia.evals.programs.functions import (
    FUNCTION_PROMPT,
    NO_CODE,
    SECONDS_A_FUNCTION,
    Runner,
    call,
    code_of,
    defines,
    in_harness,
)
from ossia.evals.questions import Answered, Question
from ossia.harmony import Message, Role

MOST_ROUNDS = 40
SHOWN = 3  # lines of a test in the prompt
WORDS_PROMPT = (
    "{prompt}\n\nThe Python function is called `{entry}`, and has to pass tests like these:\n\n"
    "```python\n{examples}\n```\n\nAnswer with one block of code that holds the whole function and "
    "all that it needs."
)


def tested_question(row: Row, runner: Runner) -> Question:
    """Raises `DataError`."""
    prompt = row.text("prompt", "text")
    test = _test(row)
    solution = _solution(row, prompt)
    entry = str(row.get("entry_point") or "").strip() or _called(test, solution)
    if not entry:
        raise DataError(
            f"{row.where}: there is no 'entry_point', and the test calls no function that is not "
            "its own: name the function in a column 'entry_point'",
            "entry_point",
        )
    is_code = _tree(prompt) is not None
    check = Test(runner, prompt if is_code else "", entry, test, solution)
    text = FUNCTION_PROMPT.format(prompt=prompt.strip("\n"))
    if not is_code:
        examples = [line for line in test.splitlines() if line.startswith("assert")]
        text = WORDS_PROMPT.format(
            prompt=prompt.strip(), entry=entry, examples="\n".join(examples[:SHOWN])
        )
    asked = (Message(Role.USER, text),)
    return Question(row.text("task_id").strip(), "", asked, test, check.grade)


@dataclass
class Test:
    """`prompt`: the code that it is, "" where it is words. `solution`: the file's own, "" for none;
    it also has the helpers that some tests call.
    """

    runner: Runner
    prompt: str
    entry: str
    test: str
    solution: str
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _broken: str | None = None  # why the file's own solution fails; "" if it passes

    def grade(self, answered: Answered) -> Mark:
        code = code_of(answered.final, self.entry)
        if code is None:
            return Mark("unparsed", why=NO_CODE)
        if not defines(code, self.entry) and self.prompt:
            code = self.prompt + code
        why = self.wrong_in(code)
        if not why:
            return Mark("right", score=1.0)
        if broken := self._own_fails():
            return Mark("failed", why=f"the file's own solution: {broken}")
        return Mark("wrong", why=why)

    def wrong_in(self, code: str) -> str:
        """Why code does not pass; "" if it does."""
        known: list[Any] = []
        for _ in range(MOST_ROUNDS):
            task = {
                "test": self.test,
                "before": self.solution or self.prompt,
                "solution": self.solution,
                "entry": self.entry,
                "checks": "def check(" in self.test,
                "known": known,
            }
            found = in_harness(self.runner, task, SECONDS_A_FUNCTION)
            if isinstance(found, str):
                return f"the test: {found}"
            calls = found["calls"]
            if not found["waits"]:
                return str(found["raised"])
            if not calls:
                return "the test calls it with what cannot be sent to another process"
            results = call(self.runner, code, self.entry, calls, SECONDS_A_FUNCTION, written=True)
            if isinstance(results, str):
                return results
            if results[0][0] == "missing":
                return f"it has no {self.entry}"
            if len(results) != len(calls):
                return str(results[0][1])
            known = [list(pair) for pair in zip(calls, results, strict=True)]
        return f"the test is not over after {MOST_ROUNDS} rounds"

    def _own_fails(self) -> str:
        """Why the file's own solution does not pass its test; worked out once."""
        with self._lock:
            if self._broken is None:
                self._broken = self.wrong_in(self.solution) if self.solution else ""
            return self._broken


def _test(row: Row) -> str:
    """In one text: `test`, or MBPP's lists of statements with what they import."""
    if row.has("test"):
        return row.text("test")
    before = [*_lines(row, "test_imports"), *_lines(row, "test_setup_code")]
    tests = [*_lines(row, "test_list"), *_lines(row, "challenge_test_list")]
    if not tests:
        row.need("test", "test_list")  # names the columns that there are
        raise DataError(f"{row.where}: 'test_list' is empty", "test_list")
    return "\n".join([*before, *tests]) + "\n"


def _lines(row: Row, name: str) -> list[str]:
    """A list of texts, one text, or the text of a list."""
    value = row.get(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(value)
                break
            except (ValueError, SyntaxError, RecursionError):
                continue
    if value is None or value == "":
        return []
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise DataError(f"{row.where}: {name!r} must be a list of texts", name)
    return lines


def _solution(row: Row, prompt: str) -> str:
    """The file's own: a whole one, or the body that goes on with the prompt."""
    if not row.has("canonical_solution", "code"):
        return ""
    text = row.text("canonical_solution", "code")
    is_whole = _tree(text) is not None and "def " in text and _tree(prompt) is None
    return text if is_whole else f"{prompt}{text}"


def _tree(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _called(test: str, solution: str) -> str:
    """The function that a test calls and doesn't define: the solution's, else the first."""
    tree = _tree(test)
    if tree is None:
        return ""
    own = set(dir(builtins))
    called = []
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                own.add(name)
            case ast.alias(name=name, asname=other):
                own.add(other or name.partition(".")[0])
            case ast.Call(func=ast.Name(id=name)):
                called.append(name)
    wanted = [name for name in called if name not in own]
    defined = [name for name in wanted if defines(solution, name)]
    return next(iter(defined or wanted), "")
