"""A Python function as a tool: its schema, what calling it gives, what cannot be a tool."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pydantic
import pytest

from ossia.errors import ToolError
from ossia.harmony import schema_to_typescript
from ossia.tools import from_function


def weather(
    city: str, days: int = 1, unit: Literal["C", "F"] = "C", hours: list[int] | None = None
) -> Any:
    """The weather.

    For a city and some days.
    """
    return {"city": city, "days": days, "unit": unit, "hours": hours}


def test_signature_and_docstring_become_the_declaration() -> None:
    tool = from_function(weather)
    assert tool.function.name == "weather"
    assert tool.function.description == "The weather.\n\nFor a city and some days."
    assert tool.function.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "default": 1},
            "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
            "hours": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["city"],
    }
    shown = schema_to_typescript(tool.function.parameters)
    assert 'unit?: "C" | "F", // default: C' in shown and "hours?: number[]" in shown


def test_without_parameters_without_docstring_under_another_name() -> None:
    tool = from_function(lambda: 7, name="seven")
    assert (tool.function.name, tool.function.description, tool.function.parameters) == (
        "seven",
        "",
        None,
    )
    assert tool.run("{}") == tool.run("") == "7"


def test_descriptions_and_limits_of_parameters() -> None:
    def roll(sides: Annotated[int, pydantic.Field(description="how many", ge=2)]) -> int:
        return sides

    tool = from_function(roll)
    assert tool.function.parameters is not None
    assert tool.function.parameters["properties"] == {
        "sides": {"type": "integer", "description": "how many", "minimum": 2}
    }
    with pytest.raises(ToolError, match="sides: Input should be greater than or equal to 2"):
        tool.run('{"sides": 1}')


def test_defaults_hold_and_arguments_are_converted() -> None:
    tool = from_function(weather)
    assert json.loads(tool.run('{"city": "Ulm"}')) == {
        "city": "Ulm",
        "days": 1,
        "unit": "C",
        "hours": None,
    }
    given = json.loads(tool.run('{"city": "Ulm", "days": "3", "unit": "F", "hours": [1, 2]}'))
    assert given == {"city": "Ulm", "days": 3, "unit": "F", "hours": [1, 2]}
    assert json.loads(tool.run('{"city": "Ulm", "hours": null}'))["hours"] is None


def test_names_that_pydantic_has_plans_for() -> None:
    def odd(
        json: str, model_config: int = 1, _private: int = 2, schema: int = 3, self: int = 4
    ) -> str:
        return f"{json} {model_config} {_private} {schema} {self}"

    tool = from_function(odd)
    assert tool.function.parameters is not None
    names = ["json", "model_config", "_private", "schema", "self"]
    assert list(tool.function.parameters["properties"]) == names
    assert tool.run('{"json": "x", "_private": 9}') == "x 1 9 3 4"


def test_keyword_only_and_unannotated_parameters() -> None:
    def f(a, *, b=2):  # type: ignore[no-untyped-def]
        return [a, b]

    assert from_function(f).run('{"a": {"any": 1}, "b": null}') == '[{"any": 1}, null]'


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("nonsense", "Invalid JSON"),
        ("[1]", "arguments: Input should be an object"),
        ("{}", "city: Field required"),
        ('{"city": 3}', "city: Input should be a valid string"),
        ('{"city": "Ulm", "planet": "Mars"}', "planet: Extra inputs are not permitted"),
        ('{"city": "Ulm", "unit": "K"}', "unit: Input should be 'C' or 'F'"),
        ('{"city": "Ulm", "hours": [1, "x"]}', "hours.1: Input should be a valid integer"),
    ],
)
def test_arguments_that_do_not_fit(arguments: str, said: str) -> None:
    with pytest.raises(ToolError, match="invalid arguments for weather: .*" + said):
        from_function(weather).run(arguments)


def test_whatever_a_function_raises_is_told() -> None:
    def broken(x: int) -> float:
        return 1 / x

    with pytest.raises(ToolError, match="ZeroDivisionError: division by zero"):
        from_function(broken).run('{"x": 0}')

    def circular() -> list[Any]:
        made: list[Any] = []
        made.append(made)
        return made

    with pytest.raises(ToolError, match="Circular"):
        from_function(circular).run("{}")


def test_results_are_text_or_json() -> None:
    results: dict[str, Any] = {"ü": "ü", "null": None, '{"ü": [1.5]}': {"ü": [1.5]}, '"{1}"': {1}}
    for text, value in results.items():
        assert from_function(lambda value=value: value, name="f").run("") == text


class Opaque:
    pass


def positional(a: int, /) -> None: ...
def variadic(*a: int) -> None: ...
def keywords(**a: int) -> None: ...
def unknown(a: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821
def opaque(a: Opaque) -> None: ...
async def later(a: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (positional, "positional: parameter a: 'int' cannot be given by name"),
        (variadic, "cannot be given by name"),
        (keywords, "cannot be given by name"),
        (unknown, "unknown: its signature cannot be read: name 'Nowhere' is not defined"),
        (opaque, "opaque: no JSON schema for its signature: Unable to generate"),
        (later, "later: is a coroutine function"),
        (lambda: 1, "needs a name that is an identifier, found '<lambda>'"),
        (functools.partial(weather, "Ulm"), "needs a name"),
        (int, "int: its signature cannot be read"),
    ],
)
def test_what_cannot_be_a_tool(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(ToolError, match=said) as error:
        from_function(function)
    assert "\n" not in str(error.value)
