"""A Python function as a tool: its signature becomes the JSON schema, its docstring the
description.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pydantic

from ossia.errors import ToolError
from ossia.harmony import FunctionTool, ToolNamespace
from ossia.harmony.messages import FUNCTIONS
from ossia.tools.kinds import FUNCTION, ToolKind
from ossia.tools.protocol import SessionKey, ToolResult


@dataclass(frozen=True)
class PythonFunction:
    """A function as a tool: its declaration, and what runs when the model calls it.

    `run` maps the arguments, as JSON text, to the text of the result. It raises `ToolError` for a
    failure that the model should read and react to. It keeps no state, so it is its own session.
    """

    function: FunctionTool
    run: Callable[[str], str]

    @property
    def kind(self) -> ToolKind:
        return FUNCTION

    @property
    def namespace(self) -> ToolNamespace:
        return ToolNamespace(FUNCTIONS, None, (self.function,))

    def session(self, key: SessionKey) -> PythonFunction:
        return self

    def action(self, function: str, text: str) -> None:
        return None

    def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        return ToolResult(self.run(text))

    def close(self) -> None:
        return None


def from_function(call: Callable[..., Any], *, name: str | None = None) -> PythonFunction:
    """The tool that calls `call`. Parameters without annotation accept anything.

    Raises `ToolError` for a signature that JSON cannot call: positional-only or variadic
    parameters, or annotations that have no JSON schema.
    """
    name = name or str(getattr(call, "__name__", ""))
    if not name.isidentifier():
        raise ToolError(f"a tool needs a name that is an identifier, found {name!r}; pass name=...")
    if inspect.iscoroutinefunction(call):
        raise ToolError(f"{name}: is a coroutine function; a tool must return its result")
    fields: dict[str, Any] = {}
    try:
        hints = typing.get_type_hints(call, include_extras=True)
        parameters = inspect.signature(call).parameters.values()
    except (NameError, TypeError, ValueError) as error:
        raise ToolError(f"{name}: its signature cannot be read: {error}") from error
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ToolError(f"{name}: parameter {parameter} cannot be given by name")
        default = ... if parameter.default is parameter.empty else parameter.default
        # named by us: pydantic refuses or drops some names (`model_config`, `_x`) and warns of some
        # (`json`)
        field = pydantic.Field(default, alias=parameter.name)
        fields[f"argument_{len(fields)}"] = (hints.get(parameter.name, Any), field)
    try:
        model = pydantic.create_model(
            name, __config__=pydantic.ConfigDict(extra="forbid"), **fields
        )
        schema = model.model_json_schema()
    except (pydantic.errors.PydanticUserError, TypeError, NameError) as error:
        raise ToolError(
            f"{name}: no JSON schema for its signature: {str(error).splitlines()[0]}"
        ) from error
    function = FunctionTool(name, inspect.getdoc(call) or "", _tidy(schema) if fields else None)
    return PythonFunction(function, partial(_run, call, model, name))


def _run(
    call: Callable[..., Any], arguments: type[pydantic.BaseModel], name: str, text: str
) -> str:
    """Check the arguments against the signature and call; a result that is not text comes back as
    JSON.

    Raises `ToolError` for arguments that do not fit and for anything that the function raises.
    """
    try:
        parsed = arguments.model_validate_json(text or "{}")
    except pydantic.ValidationError as error:
        problems = "; ".join(_problem(each) for each in error.errors())
        raise ToolError(f"invalid arguments for {name}: {problems}") from error
    values = {str(f.alias): getattr(parsed, key) for key, f in arguments.model_fields.items()}
    try:
        result = call(**values)
        if isinstance(result, str):
            return result
        return json.dumps(result, ensure_ascii=False, default=str)
    except Exception as error:  # whatever a user's function raises is for the model to read
        raise ToolError(f"{type(error).__name__}: {error}") from error


def _problem(error: Mapping[str, Any]) -> str:
    place = ".".join(map(str, error["loc"]))
    return f"{place or 'arguments'}: {error['msg']}"


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Without the titles that pydantic derives from names: they say nothing and cost the model
    tokens.
    """
    tidy = {k: v for k, v in schema.items() if k not in ("title", "additionalProperties")}
    tidy["properties"] = {name: _plain(p) for name, p in schema.get("properties", {}).items()}
    return tidy


def _plain(property: dict[str, Any]) -> dict[str, Any]:
    """`X | None = None` as an X that may be left out: Harmony shows every `anyOf` as `any`."""
    plain = {k: v for k, v in property.items() if k != "title"}
    variants = [v for v in plain.get("anyOf", ()) if v != {"type": "null"}]
    if "default" in plain and plain["default"] is None and len(variants) == 1:
        del plain["anyOf"], plain["default"]
        plain = variants[0] | plain
    return plain
