"""Errors carry facts: which input is at fault, and a word for programs. No source reads their
text.
"""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import ossia
from ossia.errors import GrammarError, OssiaError, RequestError, blaming

SOURCE = Path(ossia.__file__).parent
READERS = {"startswith", "endswith", "partition", "rpartition", "split", "find", "index", "count"}
# Of other people's errors some have nothing but a text. Each is read in one place.
FOREIGN = {
    "harmony/grammar/compiling.py",  # llguidance: what is wrong with a schema
    "commands/main.py",  # torch: RuntimeError for want of memory on the CPU
}


def readings(tree: ast.AST) -> Iterator[int]:
    """Lines that look for words in an error's text: `in str(error)`, `str(error).startswith(...)`,
    and the same on `.message` and `.args`.
    """
    caught = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
            kinds = (ast.In, ast.NotIn, ast.Eq, ast.NotEq)
            compares = any(isinstance(op, kinds) for op in node.ops)
            if compares and any(is_text(each, caught) for each in asked):
                yield node.lineno
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                reads = function.attr in READERS and is_text(function.value, caught)
                searches = getattr(function.value, "id", "") == "re"
                if reads or (searches and any(is_text(each, caught) for each in node.args)):
                    yield node.lineno


def is_text(node: ast.expr, caught: set[str | None]) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="str" | "repr"), args=[ast.Name(id=name)]):
            return name in caught or name in ("error", "exc", "err")
        case ast.Attribute(value=ast.Name(id=name), attr="message" | "args"):
            return name in caught
        case ast.JoinedStr():
            parts = [each.value for each in node.values if isinstance(each, ast.FormattedValue)]
            return any(isinstance(part, ast.Name) and part.id in caught for part in parts)
    return False


def test_no_source_recognises_an_error_by_its_text() -> None:
    found = {
        f"{path.relative_to(SOURCE)}:{line}"
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).as_posix() not in FOREIGN
        for line in readings(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert not found, f"give the error a field or a code instead: {sorted(found)}"


@pytest.mark.parametrize(
    "line",
    [
        '"context" in str(error)',
        'str(error).startswith("messages[")',
        'error.message.partition(":")',
        're.search("memory", str(error))',
        'str(error) == "no memory"',
        '"context" in f"{error}"',
    ],
)
def test_the_test_sees_readings(line: str) -> None:
    source = f"try:\n    f()\nexcept ValueError as error:\n    print({line})\n"
    assert list(readings(ast.parse(source))) == [4]


def test_field_and_code() -> None:
    error = RequestError("temperature must be at least 0", "temperature", "too_cold")
    assert (str(error), error.field, error.code) == (
        "temperature must be at least 0",
        "temperature",
        "too_cold",
    )
    assert (RequestError("no").field, RequestError("no").code) == (None, None)
    assert GrammarError("a schema").code == "invalid_schema"
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.field, copied.code) == (str(error), error.field, error.code)


def test_blaming_names_a_field_where_none_is_named() -> None:
    with pytest.raises(OssiaError) as raised, blaming("tools"):
        raise GrammarError("two tools have one name")
    assert raised.value.field == "tools"
    with pytest.raises(OssiaError) as raised, blaming("tools"):
        raise GrammarError("not this one", "tool_choice")
    assert raised.value.field == "tool_choice"
