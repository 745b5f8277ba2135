"""The calculator tool: right, and safe with whatever text it is given."""

from __future__ import annotations

import json

import pytest

from ossia.errors import ToolError
from ossia.tasks.numbers.calculator import calculate, evaluate, expression_of


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("2+3*4", 14), ("(2+3)*4", 20), ("84/7", 12), ("7/2", 3.5), ("-5-3", -8), ("2**10", 1024),
        ("2^10", 1024), ("12 \N{MULTIPLICATION SIGN} 3", 36), ("12 ÷ 3", 4), ("1,000+1", 1001),
        ("7 % 4", 3), ("7 // 2", 3), ("37+48=", 85), ("+5", 5),
        ("999999*999999", 999998000001), ("0.5*4", 2.0),
    ],
)  # fmt: skip
def test_values(expression: str, result: float) -> None:
    assert evaluate(expression) == result


@pytest.mark.parametrize(
    "expression",
    [
        "", "x", "1+", "__import__('os').system('true')", "abs(-1)", "(1).real", "[1][0]", "'a'*9",
        "True",
        "None", "1 if 1 else 2",
        "lambda: 1", "1<2", "1e400", "1/0", "1%0", "1//0", "9**9**9", "2**100", "(-8)**0.5",
        "9" * 201, "1+" * 150 + "1",
        "(" * 90 + "1" + ")" * 90, "1\n2", "1; 2", "a:=1", "f'{1}'", "1j", "...", "~1", "1 << 99",
        "\x00",
          "10**64*10**64*10**64*10**64",
    ],
)  # fmt: skip
def test_refuses(expression: str) -> None:
    if expression.startswith("(((("):
        # parentheses are free; what is refused is depth of operations
        assert evaluate(expression) == 1
        return
    with pytest.raises(ToolError):
        evaluate(expression)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ToolError):
        evaluate("-" * 120 + "1")


def test_calculate_answers_in_text() -> None:
    assert calculate('{"expression": "37*48"}') == "1776"
    assert calculate('{"a": 84, "b": 7, "op": "/"}') == "12"
    assert calculate('{"a": -84, "b": 7, "operation": "add"}') == "-77"
    assert calculate('{"expression": "1/0"}') == "error: division by zero"
    for bad in (
        "",
        "{",
        "[]",
        "3",
        '{"expression": 3}',
        '{"other": "1"}',
        '{"a": 1, "b": 2, "op": "**"}',
    ):
        assert calculate(bad).startswith("error: ")
    assert calculate(json.dumps({"a": "__import__('os')", "b": 1, "op": "+"})).startswith("error: ")


def test_expression_of_names_the_tool() -> None:
    with pytest.raises(ToolError, match="calc needs an expression"):
        expression_of("calc", "{}")
