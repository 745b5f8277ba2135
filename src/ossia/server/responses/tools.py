"""The tools of a Responses request: which of them there are, which may or must be called, how they
are echoed.

Knows wire types and `tools.Tools`. Types of tools that this server does not have are passed over,
not refused: agents declare whatever they know of, and the answer's `tools` are those that count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ossia.errors import GrammarError
from ossia.harmony import FunctionTool, JsonFormat, ToolNamespace, body_format
from ossia.server.tools import Choice, DeclaredCustom, Tools
from ossia.server.wire.errors import bad
from ossia.tools import Tool
from ossia.tools.protocol import by_wire_type

RESERVED = (
    "functions",
    "browser",
    "python",
    "assistant",
    "user",
    "all",
)  # recipients that mean something else


@dataclass(frozen=True)
class WireTools:
    """`echo`: the tools that count, as the response shows them."""

    tools: Tools
    echo: list[dict[str, Any]]


def wire_tools(
    tools: Sequence[Mapping[str, Any]] | None,
    choice: Any,
    parallel: bool,
    builtin: Mapping[str, Tool],
) -> WireTools:
    """What a request declares. Raises `ApiError` naming the tool that is wrong."""
    functions: list[FunctionTool] = []
    custom: list[DeclaredCustom] = []
    spaces: list[ToolNamespace] = []
    hosted: dict[str, Tool] = {}
    strict: set[str] = set()
    echo: list[dict[str, Any]] = []
    by_type = by_wire_type(builtin.values())
    for n, tool in enumerate(tools or ()):
        where, kind = f"tools[{n}]", tool.get("type")
        if kind == "function":
            functions.append(_function(tool, where))
            if tool.get("strict") is True:
                strict.add(functions[-1].name)
            echo.append(_echoed(tool, functions[-1]))
        elif kind == "custom":
            custom.append(_custom(tool, where))
            echo.append(dict(tool))
        elif kind == "namespace":
            spaces.append(_namespace(tool, where))
            strict |= {
                f"{tool['name']}.{t.get('name')}"
                for t in tool.get("tools") or ()
                if t.get("strict") is True
            }
            echo.append(dict(tool))
        elif (found := by_type.get(str(kind))) is not None:
            hosted[found.namespace.name] = found
            echo.append(dict(tool))
        elif not isinstance(kind, str):
            raise bad(f"{where} has no type", f"{where}.type")
    made = Tools(
        tuple(functions),
        tuple(custom),
        tuple(spaces),
        tuple(hosted.values()),
        frozenset(strict),
        parallel=parallel,
    )
    return WireTools(replace(made, choice=wire_choice(choice, made)), echo)


def _text(data: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = data.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or (default is None and not value):
        raise bad(f"{where}.{key} must be a string", f"{where}.{key}")
    return value


def _function(tool: Mapping[str, Any], where: str) -> FunctionTool:
    inner = tool.get("function")
    tool = inner if isinstance(inner, Mapping) else tool  # as Chat Completions has it
    parameters = tool.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping | bool):
        raise bad(f"{where}.parameters must be a JSON schema", f"{where}.parameters")
    return FunctionTool(
        _text(tool, "name", where), _text(tool, "description", where, ""), parameters
    )


def _echoed(tool: Mapping[str, Any], made: FunctionTool) -> dict[str, Any]:
    return {
        "description": made.description or None,
        **{key: value for key, value in tool.items() if key != "function"},
        "name": made.name,
        "parameters": made.parameters,
        "strict": tool.get("strict") is True,
    }


def _custom(tool: Mapping[str, Any], where: str) -> DeclaredCustom:
    inner = tool.get("custom")
    tool = inner if isinstance(inner, Mapping) else tool
    try:
        text = body_format(tool.get("format"))
    except GrammarError as error:
        raise bad(f"{where}.format: {error}", f"{where}.format") from error
    if isinstance(text, JsonFormat):
        raise bad(
            f"{where}.format: a custom tool takes text, or text of a grammar", f"{where}.format"
        )
    return DeclaredCustom(_text(tool, "name", where), _text(tool, "description", where, ""), text)


def _namespace(tool: Mapping[str, Any], where: str) -> ToolNamespace:
    name, inner = _text(tool, "name", where), tool.get("tools")
    if name in RESERVED:
        raise bad(f"{where}: the name {name!r} is taken", f"{where}.name")
    if not isinstance(inner, Sequence) or isinstance(inner, str):
        raise bad(f"{where}.tools must be a list", f"{where}.tools")
    functions = []
    for n, each in enumerate(inner):
        place = f"{where}.tools[{n}]"
        if not isinstance(each, Mapping):
            raise bad(f"{place} must be an object", place)
        if each.get("type") == "custom":
            raise bad(
                f"{place}: a custom tool cannot be in a namespace here; declare it by itself", place
            )
        if each.get("type", "function") == "function":
            functions.append(_function(each, place))
    if not functions:
        raise bad(f"{where} has no functions", f"{where}.tools")
    return ToolNamespace(name, _text(tool, "description", where, "") or None, tuple(functions))


# ---- tool_choice ----


def wire_choice(choice: Any, tools: Tools) -> Choice:
    """Raises `ApiError` for a choice of no known form. Whether there is a tool of a name is seen by
    the grammar.
    """
    if choice is None or choice in ("auto", "none", "required"):
        return Choice(choice or "auto")
    if not isinstance(choice, Mapping):
        raise bad("tool_choice is auto, none, required or an object", "tool_choice")
    if choice.get("type") != "allowed_tools":
        return Choice("required", _names(choice, tools, "tool_choice"))
    inner = choice.get("allowed_tools")
    choice = inner if isinstance(inner, Mapping) else choice
    mode, listed = choice.get("mode", "auto"), choice.get("tools")
    if mode not in ("auto", "required"):
        raise bad("tool_choice.mode is auto or required", "tool_choice.mode")
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise bad("tool_choice.tools must be a list of tools", "tool_choice.tools")
    names: list[str] = []
    for n, each in enumerate(listed):
        where = f"tool_choice.tools[{n}]"
        if not isinstance(each, Mapping):
            raise bad(f"{where} must be an object", where)
        if _is_known(each, tools):
            names += _names(each, tools, where)
    if not names:
        if mode == "required":
            raise bad(
                "tool_choice requires a call, but allows no tool that this server has",
                "tool_choice",
            )
        return Choice("none")
    return Choice(_mode(mode), tuple(names), always=mode == "required")


def _mode(mode: str) -> Literal["auto", "required"]:
    return "required" if mode == "required" else "auto"


def _is_known(choice: Mapping[str, Any], tools: Tools) -> bool:
    """Tools that were passed over when they were declared are passed over here."""
    kind = choice.get("type")
    return kind in ("function", "custom", "namespace") or _hosted(tools, kind) is not None


def _hosted(tools: Tools, kind: Any) -> Tool | None:
    """The tool that the type of a declaration means."""
    return next((tool for tool in tools.builtin if kind in tool.kind.wire_types), None)


def _names(choice: Mapping[str, Any], tools: Tools, where: str) -> tuple[str, ...]:
    """The recipients that an object of type function, custom, namespace or of a hosted tool means."""
    kind = choice.get("type")
    if kind in ("function", "custom"):
        inner = choice.get(str(kind))
        choice = inner if isinstance(inner, Mapping) else choice
        name = _text(choice, "name", where)
        space = choice.get("namespace")
        return (f"{space}.{name}" if isinstance(space, str) and space else name,)
    if kind == "namespace":
        name = _text(choice, "name", where)
        names = tuple(
            recipient
            for recipient, callee in tools.by_recipient.items()
            if callee.namespace == name
        )
    elif (hosted := _hosted(tools, kind)) is not None:
        names = tuple(
            recipient for recipient, target in tools.by_recipient.items() if target.tool is hosted
        )
    else:
        raise bad(f"{where}: {kind!r} is no type of tool that this request has", "tool_choice")
    if not names:
        raise bad(f"{where} names no tool of this request", "tool_choice")
    return names
