"""Tasks of a user: rows of a JSONL file, and a Python file that says what answers are worth.

    task = read_task(rows=Path("sums.jsonl"), code=Path("reward.py"))
    ask = task.ask(number, Effort.LOW)

A row is one problem, a JSON object with
  prompt        what the user says; or messages: [{"role": ..., "content": ...}, ...]
  answer        the right answer: a text, a number, or a list of those that are accepted
  instructions  for the developer message
  about         facts for reports: {"size": 3}
and whatever else `reward` wants to read. Only `prompt` is needed where there is a `reward`.

The Python file may define
  reward(row, outcome)   a number from 0 to 1, True or False; None if it cannot be said. `outcome`
                         has `final`, `calls`, `reason` and `counts` (`environment.Outcome`)
  tools                  functions (or `Tool`s) that the model may call; or tools(row)
  environment(row)       a whole `environment.Environment` instead, for state or further turns
  rows()                 the rows, instead of a file
or, instead of all of these,
  task                   a whole `ExternalTask`, such as those that `gyms.py` makes of the
                         environments of other libraries
Knows files and environments; no models.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

from ossia.errors import DataError, HarmonyError
from ossia.harmony import (
    Conversation,
    DeveloperContent,
    Effort,
    Message,
    Role,
    SystemContent,
)
from ossia.tasks.answers import answers_with
from ossia.tasks.environment import Ask, Environment, Outcome, Reward, as_reward
from ossia.tools import from_function
from ossia.tools.protocol import Tool

Row = Mapping[str, Any]
Rewards = Callable[[Row, Outcome], Any]


@dataclass(frozen=True)
class RowEnvironment:
    """A row that is asked once."""

    row: Row
    rewards: Rewards
    tools: tuple[Tool, ...] = ()

    def prompt(self, effort: Effort, system: SystemContent | None = None) -> tuple[Message, ...]:
        prompt = self.row["prompt"]
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        said = Conversation.from_chat(prompt, system=None).messages
        functions = tuple(t for tool in self.tools for t in tool.namespace.tools)
        instructions = self.row.get("instructions")
        head: list[Message] = []
        if system is not None:
            head.append(Message(Role.SYSTEM, system))
        if instructions or functions:
            head.append(Message(Role.DEVELOPER, DeveloperContent(instructions, functions)))
        return (*head, *said)

    def next(self, outcome: Outcome) -> None:
        return None

    def reward(self, outcome: Outcome) -> Reward:
        return as_reward(self.rewards(self.row, outcome))

    def gold(self, effort: Effort) -> tuple[Message, ...] | None:
        answers = answers_of(self.row)
        if not answers:
            return None
        return (Message(Role.ASSISTANT, answers[0], channel="final"),)


@dataclass(frozen=True)
class ExternalTask:
    """A user's task: `make` makes a fresh environment of a row."""

    name: str
    rows: tuple[Row, ...]
    make: Callable[[Row], Environment]

    def ask(self, number: int, effort: Effort, group: int = 0, seed: int | None = None) -> Ask:
        """The `number`-th row; after the last one they begin again."""
        row = self.rows[number % len(self.rows)]
        return Ask(
            partial(self.make, row),
            effort,
            group,
            seed,
            arm=f"{self.name}/{effort}",
            task=self.name,
            about=row.get("about") or {},
        )


def read_task(
    rows: Path | None = None, code: Path | None = None, name: str | None = None
) -> ExternalTask:
    """The task of a file of rows, of a Python file, or of both. Raises `DataError`, which names the
    file and the line.
    """
    if rows is None and code is None:
        raise DataError("a task needs a JSONL file of prompts, a Python file, or both")
    module = None if code is None else load_module(code)
    whole = getattr(module, "task", None)
    if isinstance(whole, ExternalTask):
        if rows is not None:
            raise DataError(f"{code} defines a whole task, which has its rows: leave out {rows}")
        return whole
    found = _rows(rows, code, module)
    own_environment = getattr(module, "environment", None)
    rewards = getattr(module, "reward", None)
    if code is not None and rewards is not None:
        _check_reward(rewards, code)
    source = rows or code
    assert source is not None
    name = name or source.stem
    if own_environment is not None:
        return ExternalTask(name, found, own_environment)
    if module is not None and rewards is None:
        raise DataError(
            f"{code} defines neither reward(row, outcome) nor environment(row) nor task; define "
            "one of them"
        )
    if rewards is None:
        _check_answers(found, source)
    tools = getattr(module, "tools", ())
    return ExternalTask(name, found, partial(_environment, rewards or compare, tools))


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a JSONL file; empty lines are left out. Raises `DataError` for the first line
    that is not a row.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON ({error}); mend or remove it") from error
        check_row(row, where)
        found.append(row)
    if not found:
        raise DataError(f"{path} has no rows; write one JSON object a line")
    return tuple(found)


def check_row(row: Any, where: str) -> None:
    """Raises `DataError` for what is not a row."""
    if not isinstance(row, dict):
        raise DataError(f"{where} is not an object; write {{'prompt': ..., 'answer': ...}}")
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        _check_messages(prompt, where)
    elif not isinstance(prompt, str) or not prompt.strip():
        has = ", ".join(map(repr, row)) or "nothing"
        raise DataError(f"{where} has no text under 'prompt' (it has {has})")
    if not _is_answer(row.get("answer")):
        raise DataError(
            f"{where}: 'answer' must be a text, a number or a list of these, "
            f"found {row['answer']!r:.60}"
        )
    instructions = row.get("instructions")
    if not (instructions is None or isinstance(instructions, str)):
        raise DataError(f"{where}: 'instructions' must be a text, found {instructions!r:.60}")
    if not isinstance(row.get("about") or {}, dict):
        raise DataError(f"{where}: 'about' must be an object, found {row['about']!r:.60}")


def _check_messages(prompt: list[Any], where: str) -> None:
    try:
        said = Conversation.from_chat(prompt, system=None).messages
    except (HarmonyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: 'prompt' is no list of chat messages: {error}") from error
    if not said or said[-1].role is not Role.USER:
        raise DataError(f"{where}: the last message of 'prompt' must be the user's")


def _is_answer(answer: Any) -> bool:
    if isinstance(answer, list):
        return bool(answer) and all(map(_is_one_answer, answer))
    return answer is None or _is_one_answer(answer)


def _is_one_answer(answer: Any) -> bool:
    is_number = isinstance(answer, int | float) and not isinstance(answer, bool)
    if is_number and not math.isfinite(answer):
        return False
    return is_number or (isinstance(answer, str) and bool(answer.strip()))


def answers_of(row: Row) -> list[str]:
    """The accepted answers, as texts."""
    answer = row.get("answer")
    given = answer if isinstance(answer, list) else [answer]
    return [str(each) for each in given if each is not None]


def compare(row: Row, outcome: Outcome) -> bool:
    """Whether the final text commits itself to one of the accepted answers: a number by its value,
    wherever it stands as the last one, not in a list; a text as all that follows the last `:`, `=`
    or `is`.
    """
    return any(answers_with(outcome.final, answer) for answer in answers_of(row))


def load_module(path: Path) -> ModuleType:
    """The Python file as a module. Raises `DataError` with the line at fault."""
    name = f"ossia_task_{blake2b(str(path.resolve()).encode(), digest_size=6).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise DataError(f"{path} is not a Python file; give one that defines reward(row, outcome)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses in it look for their module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise DataError(f"{path} cannot be loaded: {_place(error, path)}") from error
    return module


def _place(error: BaseException, path: Path) -> str:
    """What went wrong, and in which line of the file."""
    line = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).resolve() == path.resolve():
            line = trace.tb_lineno
        trace = trace.tb_next
    said = f"{type(error).__name__}: {error}"
    return said if line is None else f"line {line}: {said}"


def _rows(rows: Path | None, code: Path | None, module: ModuleType | None) -> tuple[Row, ...]:
    if rows is not None:
        return read_rows(rows)
    make = getattr(module, "rows", None)
    if make is None:
        raise DataError(f"{code} defines no rows(); define it, or give a JSONL file of prompts too")
    try:
        given = make()
        found = list(given)
    except (Exception, SystemExit) as error:
        said = _place(error, code) if code is not None else str(error)
        raise DataError(f"{code}: rows() must give a list of rows; {said}") from error
    for number, row in enumerate(found):
        check_row(row, f"{code}: rows()[{number}]")
    if not found:
        raise DataError(f"{code}: rows() gives no rows")
    return tuple(found)


def _check_answers(rows: Sequence[Row], path: Path) -> None:
    for number, row in enumerate(rows, 1):
        if row.get("answer") is None:
            raise DataError(
                f"{path}, row {number} has no 'answer'; add it, or give a Python file with "
                "reward(row, outcome)"
            )


def _check_reward(rewards: Any, code: Path) -> None:
    """Raises `DataError` for what cannot be called with a row and an outcome."""
    wanted = f"{code}: write `def reward(row, outcome)`"
    if not callable(rewards):
        raise DataError(f"{wanted}; reward is {rewards!r:.60}")
    if inspect.iscoroutinefunction(rewards):
        raise DataError(f"{wanted}, without async; `asyncio.run(...)` inside it may wait")
    try:
        inspect.signature(rewards).bind({}, None)
    except TypeError as error:
        raise DataError(f"{wanted}: two are given, a row and an outcome, and {error}") from error


def _environment(rewards: Rewards, tools: Any, row: Row) -> RowEnvironment:
    given = tools(row) if callable(tools) else tools
    made = tuple(from_function(tool) if callable(tool) else tool for tool in given)
    for tool in made:
        if not hasattr(tool, "namespace"):
            raise DataError(f"`tools` are functions, or of ossia.tools; found {tool!r:.60}")
    return RowEnvironment(row, rewards, made)
