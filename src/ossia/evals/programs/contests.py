"""Answers that are programs for contests: LiveCodeBench (arXiv 2403.07974).

A program that reads and writes, or a method, for every case of the file; the first that goes wrong
ends it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from ossia.errors import DataError
from ossia.evals.answers import Mark
from ossia.evals.files import Row
from ossia.evals.programs.functions import NO_CODE, Runner, call, code_of, same
from ossia.evals.programs.packed import unpacked
from ossia.evals.questions import Answered, Question
from ossia.evals.texts import well_formed
from ossia.harmony import Message, Role

SECONDS_A_CASE = 6.0
CONTEST_PROMPT = (
    "{question}\n\nSolve this in Python. {how} Answer with one block of code that holds the whole "
    "program."
)
READS = "The program reads standard input and writes standard output."
STARTS = "Begin with this:\n\n```python\n{starter}\n```\n\n"


@dataclass(frozen=True)
class Case:
    """`given` and `wanted`: what is read and written, or arguments and result as JSON; these are
    also in `arguments` and, as `harness.plain` writes it, in `result`.
    """

    given: str
    wanted: str
    is_call: bool
    arguments: tuple[Any, ...] = ()
    result: Any = None


def contest_question(row: Row, runner: Runner) -> Question:
    """LiveCodeBench. Raises `DataError`."""
    question = row.text("question_content")
    starter = str(row.get("starter_code") or "").strip()
    how = STARTS.format(starter=starter) if starter else READS
    cases = [*_cases(row, "public_test_cases"), *_cases(row, "private_test_cases")]
    if not cases:
        raise DataError(f"{row.where}: there are no test cases", "private_test_cases")
    entry = _function_name(row)
    if not entry and any(case.is_call for case in cases):
        raise DataError(f"{row.where}: 'metadata' must name the function, as func_name", "metadata")

    def grade(answered: Answered) -> Mark:
        code = code_of(answered.final, entry)
        if code is None:
            return Mark("unparsed", why=NO_CODE)
        for number, case in enumerate(cases, 1):
            why = wrong_in(runner, code, entry, case)
            if why:
                return Mark("wrong", why=f"case {number} of {len(cases)}: {why}")
        return Mark("right", score=1.0)

    prompt = CONTEST_PROMPT.format(question=question.strip(), how=how)
    asked = (Message(Role.USER, prompt),)
    pairs = [[case.given, case.wanted] for case in cases]
    gold = json.dumps(pairs)
    return Question(row.text("question_id"), str(row.get("difficulty") or ""), asked, gold, grade)


def wrong_in(
    runner: Runner,
    code: str,
    entry: str,
    case: Case,
) -> str:
    """What is wrong with the code in one case; "" if nothing is."""
    if not case.is_call:
        done = runner.run(code, case.given.encode(), SECONDS_A_CASE)
        if done.reason or done.status:
            return done.reason or f"the process ended with {done.status}"
        return "" if same_output(case.wanted, done.out) else "it writes something else"
    found = call(runner, code, entry, [list(case.arguments)], SECONDS_A_CASE)
    if isinstance(found, str):
        return found
    ended, value, _ = found[0]
    if ended == "missing":
        return f"it has no {entry}"
    if ended != "returned":
        return str(value)
    return "" if same(case.result, value, kinds=False) else "it returns something else"


def same_output(wanted: str, found: str) -> bool:
    """Line by line and word by word, numbers by their values."""
    right_lines = [line.split() for line in wanted.strip().splitlines()]
    found_lines = [line.split() for line in found.strip().splitlines()]
    if list(map(len, right_lines)) != list(map(len, found_lines)):
        return False
    for right, own in zip(right_lines, found_lines, strict=True):
        if not all(_same_word(one, other) for one, other in zip(right, own, strict=True)):
            return False
    return True


def _same_word(right: str, found: str) -> bool:
    if right == found:
        return True
    try:
        return Decimal(right) == Decimal(found)
    except InvalidOperation:
        return False


def _as_plain(value: Any) -> Any:
    """JSON as `harness.plain` would write it."""
    match value:
        case bool() | None | str():
            return value
        case int():
            return ["int", str(value)]
        case float():
            return ["float", repr(value)]
        case list():
            return ["list", [_as_plain(one) for one in value]]
    pairs = [[_as_plain(key), _as_plain(one)] for key, one in value.items()]
    return ["dict", sorted(pairs, key=json.dumps)]


def _function_name(row: Row) -> str:
    value = row.get("metadata")
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{row.where}: 'metadata' is not JSON: {error}", "metadata") from error
    name = value.get("func_name") if isinstance(value, Mapping) else None
    return str(name) if name else ""


def _cases(row: Row, name: str) -> list[Case]:
    value = row.need(name)
    if isinstance(value, str):
        text = value if value.lstrip().startswith("[") else unpacked(value, row.where, name)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{row.where}: {name!r} is not JSON: {error}", name) from error
    cases = []
    for one in value if isinstance(value, list) else []:
        if not isinstance(one, Mapping) or not {"input", "output"} <= set(one):
            raise DataError(f"{row.where}: a case of {name!r} needs input and output", name)
        cases.append(_case(row, name, one))
    return cases


def _case(row: Row, name: str, one: Mapping[str, Any]) -> Case:
    given = well_formed(str(one["input"]))
    wanted = well_formed(str(one["output"]))
    if one.get("testtype") != "functional":
        return Case(given, wanted, False)
    try:
        arguments = [json.loads(line) for line in given.split("\n") if line.strip()]
        result = _as_plain(json.loads(wanted))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{row.where}: a case of {name!r} is not JSON: {error}", name) from error
    return Case(given, wanted, True, tuple(arguments), result)
