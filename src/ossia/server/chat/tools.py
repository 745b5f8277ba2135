"""The tools of a Chat Completions request, and which of them may or must be called: wire objects to
`tools.Tools`.

Knows the shapes that clients send: function and custom tools, the deprecated `functions`, every
form of `tool_choice`, and the names by which the server's own tools are asked for. Knows nothing of
messages and answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ossia.errors import GrammarError
from ossia.harmony import FunctionTool, JsonFormat, body_format
from ossia.server.chat.types import ChatRequest
from ossia.server.tools import Choice, DeclaredCustom, Tools
from ossia.server.wire.errors import ApiError, bad
from ossia.tools import Tool
from ossia.tools.kinds import BROWSER, WIRE_TYPES
from ossia.tools.protocol import by_wire_type

MODES = ("auto", "none", "required")


def tools_of(request: ChatRequest, builtin: Mapping[str, Tool]) -> Tools:
    """`builtin`: what the server runs itself. Raises `ApiError` naming the tool that does not fit."""
    functions: list[FunctionTool] = []
    custom: list[DeclaredCustom] = []
    own: dict[str, Tool] = {}
    by_type = by_wire_type(builtin.values())
    browser = by_type.get(BROWSER.name)
    strict: set[str] = set()
    for place, tool in _declared(request):
        kind = tool.get("type", "function")
        if kind == "function":
            inner, where = _inside(tool, "function", place)
            functions.append(_function(inner, where))
            if inner.get("strict") is True:
                strict.add(functions[-1].name)
        elif kind == "custom":
            custom.append(_custom(*_inside(tool, "custom", place)))
        elif isinstance(kind, str) and kind in by_type:
            own[by_type[kind].namespace.name] = by_type[kind]
        else:
            raise _unknown(kind, place)
    if request.web_search_options is not None:
        if browser is None:
            raise bad(
                "web search is not switched on at this server",
                "web_search_options",
                "unsupported_parameter",
            )
        own[browser.namespace.name] = browser
    _check_names([*functions, *custom])
    return Tools(
        tuple(functions), tuple(custom), (), tuple(own.values()), frozenset(strict),
        _choice(request), request.parallel_tool_calls is True,
    )  # fmt: skip


def is_legacy(request: ChatRequest) -> bool:
    """Whether the client speaks of `functions`, and has to be answered with `function_call`."""
    return bool(request.functions) and not request.tools


def _declared(request: ChatRequest) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each tool, and where it stands in the request."""
    for n, tool in enumerate(request.tools or []):
        yield f"tools[{n}]", tool
    for n, function in enumerate(request.functions or []):
        yield f"functions[{n}]", {**function, "type": "function"}


def _inside(tool: Mapping[str, Any], kind: str, place: str) -> tuple[Mapping[str, Any], str]:
    """What describes the tool: under its kind, or, as in the Responses API, beside it."""
    if kind not in tool:
        return tool, place
    if not isinstance(tool[kind], Mapping):
        raise bad(f"{place}.{kind} must be an object", f"{place}.{kind}")
    return tool[kind], f"{place}.{kind}"


def _function(tool: Mapping[str, Any], place: str) -> FunctionTool:
    name, description = _name(tool, place), _text(tool, "description", place)
    parameters = tool.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise bad(
            f"{place}.parameters must be a JSON schema: an object",
            f"{place}.parameters",
            "invalid_schema",
        )
    if not isinstance(tool.get("strict"), bool | None):
        raise bad(f"{place}.strict must be true or false", f"{place}.strict")
    return FunctionTool(name, description, parameters)


def _custom(tool: Mapping[str, Any], place: str) -> DeclaredCustom:
    name, description = _name(tool, place), _text(tool, "description", place)
    try:
        wanted = body_format(tool.get("format"))
    except GrammarError as error:
        raise bad(f"{place}.format: {error}", f"{place}.format", "invalid_schema") from error
    if isinstance(wanted, JsonFormat):
        raise bad(f"{place}.format must be text or a grammar", f"{place}.format")
    return DeclaredCustom(name, description, wanted)


def _name(tool: Mapping[str, Any], place: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise bad(f"{place} needs a name", f"{place}.name")
    return name


def _text(tool: Mapping[str, Any], key: str, place: str) -> str:
    value = tool.get(key)
    if not isinstance(value, str | None):
        raise bad(f"{place}.{key} must be a string", f"{place}.{key}")
    return value or ""


def _check_names(tools: Sequence[FunctionTool | DeclaredCustom]) -> None:
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise bad(f"two tools have the name {twice!r}", "tools")


def _unknown(kind: Any, place: str) -> ApiError:
    if isinstance(kind, str) and kind in WIRE_TYPES:
        what = f"{place}: this server does not run {kind}"
    else:
        what = f"{place}: there are tools of type function and custom, not {kind!r:.80}"
    return bad(what, f"{place}.type", "unsupported_parameter")


def _choice(request: ChatRequest) -> Choice:
    if request.tool_choice is None:
        return _legacy_choice(request.function_call)
    choice = request.tool_choice
    kind = choice.get("type", "function") if isinstance(choice, Mapping) else choice
    match kind:
        case "auto" | "none" | "required":
            return Choice(kind)
        case "function" | "custom" if isinstance(choice, dict):
            return Choice("required", (_chosen(choice, kind, "tool_choice"),))
        case "allowed_tools" if isinstance(choice, dict):
            return _allowed(choice)
    raise bad(
        f"tool_choice must be one of {', '.join(MODES)}, or an object of type function, custom or allowed_tools; "
        f"found {choice!r:.80}",
        "tool_choice",
    )


def _chosen(choice: Any, kind: str, place: str) -> str:
    """The name in {"type": "function", "function": {"name"}}, or in the Responses API's {"type",
    "name"}.
    """
    inner = choice.get(kind, choice) if isinstance(choice, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str):
        raise bad(f'{place} must look like {{"type": "{kind}", "{kind}": {{"name": ...}}}}', place)
    return name


def _allowed(choice: Mapping[str, Any]) -> Choice:
    place = "tool_choice.allowed_tools"
    inner = choice.get("allowed_tools", choice)
    mode, listed = (
        (inner.get("mode"), inner.get("tools")) if isinstance(inner, Mapping) else (None, None)
    )
    if mode not in ("auto", "required"):
        raise bad(f"{place}.mode must be auto or required, not {mode!r:.80}", f"{place}.mode")
    if not isinstance(listed, list):
        raise bad(f"{place}.tools must be a list of tools", f"{place}.tools")
    names = []
    for n, tool in enumerate(listed):
        kind = (
            "custom" if isinstance(tool, Mapping) and tool.get("type") == "custom" else "function"
        )
        names.append(_chosen(tool, kind, f"{place}.tools[{n}]"))
    return Choice(mode, tuple(names), always=mode == "required")


def _legacy_choice(choice: Any) -> Choice:
    match choice:
        case None:
            return Choice()
        case "auto" | "none":
            return Choice(choice)
        case {"name": str(name)}:
            return Choice("required", (name,))
    raise bad('function_call must be none, auto or {"name": ...}', "function_call")
