"""Tool declarations and tool choices, in every shape that clients send, as a `Toolbox`.

What describes a tool may stand beside its type (Responses, Messages) or under it (Chat
Completions). Types of tools that this server does not have are passed over in every API: agents
declare whatever they know of (Codex sends `web_search` to everybody), and the model is told of
those that count; the response names the others. Knows nothing of messages and answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ossia.errors import GrammarError
from ossia.harmony import FunctionTool, JsonFormat, ToolNamespace, body_format
from ossia.harmony.messages import FUNCTIONS
from ossia.server.wire.errors import bad
from ossia.server.wire.fields import At
from ossia.server.wire.hosted import asked_for
from ossia.tools import Tool
from ossia.tools.kinds import MCP
from ossia.tools.mcp.config import label_of, recipient_name
from ossia.tools.protocol import by_wire_type
from ossia.tools.toolbox import DeclaredCustom, Toolbox, ToolChoice

log = logging.getLogger("ossia.server")
LONGEST_NAME = 128  # characters, as in Anthropic's API
BRACKETS = "<([{"  # no name has one: they end a recipient in a header
# recipients that mean something else
RESERVED = ("functions", "browser", "python", "assistant", "user", "all")


@dataclass
class ToolReader:
    """Reads declarations, one after the other, into one `Toolbox`. `builtin`: the server's own
    tools by namespace. `default_kind`: of a declaration without a type; None: it must have one.
    `own`: types that an API reads itself; False: there is no such tool here.
    `echo`: the declarations as a response shows them. `unavailable`: types that were passed over.
    """

    builtin: Mapping[str, Tool]
    default_kind: str | None = "function"
    own: Mapping[str, Callable[[ToolReader, At], bool]] = field(default_factory=dict)
    functions: list[FunctionTool] = field(default_factory=list)
    custom: list[DeclaredCustom] = field(default_factory=list)
    namespaces: list[ToolNamespace] = field(default_factory=list)
    hosted: dict[str, Tool] = field(default_factory=dict)
    strict: set[str] = field(default_factory=set)
    echo: list[dict[str, Any]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    unavailable: list[str] = field(default_factory=list)

    def read(self, tools: Iterable[At]) -> ToolReader:
        """Raises `ApiError` naming the tool that is wrong."""
        by_type = by_wire_type(self.builtin.values())
        for tool in tools:
            tool.object()
            if tool["type"].value is None and self.default_kind is None:
                raise tool["type"].wrong("is missing")
            kind = tool["type"].text(self.default_kind)
            match kind:
                case "function":
                    self._function(tool)
                case "custom":
                    self._custom(inside(tool, "custom"))
                    self.echo.append(dict(tool.value))
                case "namespace":
                    self._namespace(tool)
                case _ if kind in self.own:
                    if not self.own[kind](self, tool):
                        self._pass_over(tool, kind)
                case _ if kind in by_type:
                    self._known(by_type[kind], tool)
                case _:
                    self._pass_over(tool, kind)
        return self

    def _pass_over(self, tool: At, kind: str) -> None:
        log.info("%s is passed over: there are no tools of its type", tool.path)
        self.unavailable.append(kind[:LONGEST_NAME])

    def _known(self, tool: Tool, declared: At) -> None:
        """One that is declared twice is bound by both declarations."""
        before = self.hosted.get(_key(tool), tool)
        self.host(asked_for(before, declared))
        self.echo.append(dict(declared.value))

    def host(self, tool: Tool) -> None:
        """The server carries it out."""
        self.hosted[_key(tool)] = tool

    def declare(self, tool: At, name: str) -> None:
        """A tool of the caller's that the server knows, under its name."""
        self._new_name(At(name, f"{tool.path}.type"))
        self.echo.append(dict(tool.value))

    def tools(self, *, parallel: bool) -> Toolbox:
        """Without a choice. Raises `ApiError` for names that mean a tool of ours, too."""
        self._check_hosted()
        return Toolbox(
            tuple(self.functions),
            tuple(self.custom),
            tuple(self.namespaces),
            tuple(self.hosted.values()),
            frozenset(self.strict),
            parallel=parallel,
            unavailable=tuple(dict.fromkeys(self.unavailable)),
        )

    def _function(self, tool: At) -> None:
        inner = inside(tool, "function")
        made = function_tool(inner)
        self._new_name(inner["name"])
        self.functions.append(made)
        is_strict = inner["strict"].flag()
        if is_strict:
            self.strict.add(made.name)
        shown = {key: value for key, value in tool.value.items() if key != "function"}
        facts = {"name": made.name, "parameters": made.parameters, "strict": is_strict}
        self.echo.append({"description": made.description or None, **shown, **facts})

    def _custom(self, tool: At) -> None:
        name = tool_name(tool["name"])
        about = tool["description"].text("")
        wanted = tool["format"]
        try:
            text = body_format(wanted.value)
        except GrammarError as error:
            raise bad(f"{wanted.path}: {error}", wanted.path, error.code) from error
        if isinstance(text, JsonFormat):
            raise wanted.wrong("must be text or a grammar")
        self._new_name(tool["name"])
        self.custom.append(DeclaredCustom(name, about, text))

    def _namespace(self, space: At) -> None:
        name = tool_name(space["name"])
        if name in RESERVED:
            raise space["name"].wrong(f"is taken: {name!r} means something else")
        functions = []
        for tool in space["tools"].items():
            kind = tool.object()["type"].text("function")
            if kind == "custom":
                raise tool.wrong("cannot be in a namespace: declare a custom tool by itself")
            if kind == "function":
                inner = inside(tool, "function")
                functions.append(function_tool(inner))
                self._new_name(inner["name"], f"{name}.")
                if inner["strict"].flag():
                    self.strict.add(f"{name}.{functions[-1].name}")
        if not functions:
            raise space["tools"].wrong("has no functions")
        about = space["description"].text("") or None
        self.namespaces.append(ToolNamespace(name, about, tuple(functions)))
        self.echo.append(dict(space.value))

    def _check_hosted(self) -> None:
        spaces = {space.name for space in self.namespaces}
        for tool in self.hosted.values():
            space = tool.namespace.name
            taken = [space] if space in spaces else []
            if space == FUNCTIONS:
                taken = [each.name for each in tool.namespace.tools if each.name in self.names]
            if taken:
                raise bad(f"tools: {taken[0]!r} is the name of two tools", "tools")

    def _new_name(self, name: At, prefix: str = "") -> None:
        full = f"{prefix}{name.value}"
        if full in self.names:
            raise name.wrong(f"is another tool's, too: {full!r}")
        self.names.add(full)


def _key(tool: Tool) -> str:
    return f"{tool.kind.name} {tool.namespace.name}"


def inside(tool: At, kind: str) -> At:
    """The description of the tool: under its kind, or next to it."""
    return tool[kind].object() if kind in tool else tool


def function_tool(tool: At) -> FunctionTool:
    """Of `parameters`, or of Anthropic's `input_schema`."""
    name = tool_name(tool["name"])
    about = tool["description"].text("")
    schema = tool["input_schema" if "input_schema" in tool else "parameters"]
    if schema.value is not None and not isinstance(schema.value, Mapping):
        raise schema.wrong("must be a JSON schema: an object", "invalid_schema")
    return FunctionTool(name, about, schema.value)


def tool_name(at: At) -> str:
    """A name that can be written in a header."""
    name = at.word()
    is_one_word = name.isprintable() and not any(c.isspace() or c in BRACKETS for c in name)
    if len(name) > LONGEST_NAME or not is_one_word or name.endswith("."):
        raise at.wrong(
            f"must be one word of at most {LONGEST_NAME} characters, without brackets and "
            f"without a point at its end, not {name[:LONGEST_NAME]!r}"
        )
    return name


# ---- choices ----


def with_choice(tools: Toolbox, choice: At) -> Toolbox:
    """The tools with an OpenAI `tool_choice`: a word, a tool, or a list of allowed tools.
    `Toolbox.grammar` finds out whether there is a tool of that name. Raises `ApiError`.
    """
    return replace(tools, choice=_choice(choice, tools))


def _choice(choice: At, tools: Toolbox) -> ToolChoice:
    given = choice.value
    if isinstance(given, Mapping):
        is_function = "function" in choice or "name" in choice
        given = given.get("type") or ("function" if is_function else None)
    match given:
        case None if choice.value is None:
            return ToolChoice()
        case "auto" | "none" | "required":
            return ToolChoice(given)
        case "allowed_tools":
            return _allowed(inside(choice, "allowed_tools"), tools)
        case str() if isinstance(choice.value, Mapping):
            return ToolChoice("required", _names(choice, tools))
    raise choice.wrong(
        "must be auto, none, required or an object of type function, custom or allowed_tools, "
        f"not {choice.value!r:.80}"
    )


def _allowed(choice: At, tools: Toolbox) -> ToolChoice:
    mode: Any = At(choice["mode"].value or "auto", choice["mode"].path).one_of("auto", "required")
    names: list[str] = []
    for each in choice["tools"].items("a list of tools"):
        kind = each.object()["type"].text("function")
        # What was passed over when it was declared is passed over here.
        is_plain = kind in ("function", "custom", "namespace")
        if is_plain or _hosted(kind, tools) or kind in tools.checks:
            names += _names(each, tools)
    if names:
        return ToolChoice(mode, tuple(names), always=mode == "required")
    if mode == "required":
        raise bad("tool_choice requires a call, but allows no tool of this server", "tool_choice")
    return ToolChoice("none")


def _names(choice: At, tools: Toolbox) -> tuple[str, ...]:
    """The recipients that a choice of type function, custom, namespace or a hosted tool means."""
    kind = choice["type"].text("function")
    if kind in ("function", "custom"):
        inner = inside(choice, kind)
        name = inner["name"].word()
        space = choice["namespace"].text("")
        return (f"{space}.{name}" if space else name,)
    hosted = _hosted(kind, tools)
    targets = tools.by_recipient.items()
    names: tuple[str, ...] = ()
    if kind == "namespace":
        namespace = choice["name"].word()
        names = tuple(full for full, target in targets if target.namespace == namespace)
    elif kind in tools.checks:  # the caller's, of a type of its own
        names = (kind,)
    elif kind == MCP.name:
        names = _of_server(choice, tools)
    elif hosted is not None:
        names = tuple(full for full, target in targets if target.tool is hosted)
    if not names:
        raise bad(f"{choice.path}: there is no tool of type {kind!r} here", "tool_choice")
    return names


def _of_server(choice: At, tools: Toolbox) -> tuple[str, ...]:
    """The tools of an MCP server, or the one that the server calls so."""
    space = label_of(choice["server_label"].word())
    name = choice["name"].text("")
    wanted = recipient_name(name, ()) if name else ""
    return tuple(
        full
        for full, target in tools.by_recipient.items()
        if target.tool is not None
        and target.tool.kind is MCP
        and target.namespace == space
        and wanted in ("", target.name)
    )


def _hosted(kind: str, tools: Toolbox) -> Tool | None:
    """The server's tool that requests declare by this type, if it is among `tools`."""
    return next((tool for tool in tools.builtin if kind in tool.kind.wire_types), None)
