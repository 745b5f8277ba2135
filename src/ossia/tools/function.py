"""A Python function as a tool: its signature becomes the JSON schema, its docstring the description."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pydantic

from ossia.errors import ToolError
from ossia.harmony import FunctionTool


@dataclass(frozen=True)
class PythonFunction:
    """A tool made by `from_function`."""

    function: FunctionTool
    arguments: type[pydantic.BaseModel]
    call: Callable[..., Any]

    def run(self, arguments: str) -> str:
        """Check the arguments against the signature, call, and give the result as text (JSON unless it is a string).

        Raises `ToolError` for arguments that do not fit and for anything that the function raises.
        """
        try:
            parsed = self.arguments.model_validate_json(arguments or "{}")
        except pydantic.ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors()
            )
            raise ToolError(f"invalid arguments for {self.function.name}: {problems}") from error
        values = {name: getattr(parsed, name) for name in type(parsed).model_fields}
        try:
            result = self.call(**values)
        except Exception as error:  # whatever a user's function raises is the model's to read
            raise ToolError(f"{type(error).__name__}: {error}") from error
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)


def from_function(call: Callable[..., Any], *, name: str | None = None) -> PythonFunction:
    """The tool that calls `call`. Parameters without annotation accept anything.

    Raises `ToolError` for a signature that JSON cannot call: positional-only or variadic parameters, or annotations
    that have no JSON schema.
    """
    name = name or str(getattr(call, "__name__", ""))
    if not name.isidentifier():
        raise ToolError(f"a tool needs a name that is an identifier, found {name!r}; pass name=...")
    fields: dict[str, Any] = {}
    try:
        hints = typing.get_type_hints(call, include_extras=True)
    except (NameError, TypeError) as error:
        raise ToolError(f"{name}: its annotations cannot be read: {error}") from error
    for parameter in inspect.signature(call).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ToolError(f"{name}: parameter {parameter} cannot be given by name")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints.get(parameter.name, Any), default)
    try:
        model = pydantic.create_model(name, __config__=pydantic.ConfigDict(extra="forbid"), **fields)
        schema = model.model_json_schema()
    except (pydantic.errors.PydanticUserError, TypeError, NameError) as error:
        raise ToolError(f"{name}: no JSON schema for its signature: {error}") from error
    function = FunctionTool(name, inspect.getdoc(call) or "", _tidy(schema) if fields else None)
    return PythonFunction(function, model, call)


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Without the titles that pydantic derives from names: they say nothing and cost the model tokens."""
    tidy = {k: v for k, v in schema.items() if k not in ("title", "additionalProperties")}
    properties = schema.get("properties", {})
    tidy["properties"] = {k: {a: b for a, b in v.items() if a != "title"} for k, v in properties.items()}
    return tidy
