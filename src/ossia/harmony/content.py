"""The text of system and developer messages: identity, reasoning effort, channels, instructions,
tools.

Knows the contents and how a schema is shown; does not know tokens. Sections are joined by one blank
line and empty ones left out. In style "compat" the text equals the official package's, character
for character; "faithful" differs only in tools whose schema or description the official text
garbles.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from ossia.errors import HarmonyError, RenderError
from ossia.harmony.json_text import NOT_JSON, dumped, literal, read
from ossia.harmony.messages import (
    FUNCTIONS,
    DeveloperContent,
    FunctionTool,
    ResponseFormat,
    Style,
    SystemContent,
    ToolNamespace,
)
from ossia.harmony.official.rules import rules_for
from ossia.harmony.rules import FAITHFUL, Rules
from ossia.harmony.typescript import TypeScript

BUILTIN_TOOLS = ("browser", "python")
LARGE = 64 << 10  # characters of a schema whose type is worked out every time, not kept


def system_text(
    content: SystemContent, *, function_tools: bool = False, rules: Rules = FAITHFUL
) -> str:
    """The body of a system message. `function_tools`: a developer message declares some.

    Raises RenderError for a tool's schema that is not JSON.
    """
    facts = []
    if content.identity is not None:
        facts.append(content.identity)
    if content.knowledge_cutoff is not None:
        facts.append(f"Knowledge cutoff: {content.knowledge_cutoff}")
    if content.current_date is not None:
        facts.append(f"Current date: {content.current_date}")
    sections = ["\n".join(facts)] if facts else []
    if content.effort is not None:
        sections.append(f"Reasoning: {content.effort}")
    if content.namespaces:
        sections.append(_tools_text(content.namespaces, rules))
    if content.channels:
        sections.append(_channels_text(content, function_tools))
    return "\n\n".join(sections)


def _channels_text(content: SystemContent, function_tools: bool) -> str:
    text = f"# Valid channels: {', '.join(content.channels)}."
    if content.channel_required:
        text += " Channel must be included for every message."
    if function_tools:
        text += f"\nCalls to these tools must go to the commentary channel: '{FUNCTIONS}'."
    return text


def developer_text(content: DeveloperContent, *, rules: Rules = FAITHFUL) -> str:
    """The body of a developer message; empty instructions still print their heading.

    Response formats are the last section in every style, as the format document says. Raises
    RenderError for a schema that is not JSON.
    """
    sections = []
    if content.instructions is not None:
        sections += ["# Instructions", content.instructions]
    if content.all_namespaces:
        sections.append(_tools_text(content.all_namespaces, rules))
    if content.response_formats:
        sections.append("# Response Formats")
        sections += map(_response_format_text, content.response_formats)
    return "\n\n".join(sections)


def _response_format_text(response_format: ResponseFormat) -> str:
    described = [f"// {line}" for line in (response_format.description or "").splitlines()]
    try:
        text = literal(read(dumped(response_format.schema)))
    except NOT_JSON as error:
        raise RenderError(
            f"the response format {response_format.name!r} must be a JSON schema: {error}"
        ) from error
    return "\n".join([f"## {response_format.name}", "", *described, text])


# ---- tools ----


@functools.cache
def builtin_tools(name: str) -> ToolNamespace:
    """The declaration of a tool that gpt-oss was trained with, `browser` or `python`, in the words
    of the official package. It belongs in the system message: `SystemContent(namespaces=...)`.

    Raises HarmonyError for an unknown name, or if the official package is not installed.
    """
    if name not in BUILTIN_TOOLS:
        known = ", ".join(BUILTIN_TOOLS)
        raise HarmonyError(f"there is no built-in tool {name!r}: use one of {known}")
    try:
        import openai_harmony  # type: ignore[import-untyped]  # late: it takes a while to load
    except ImportError as error:
        raise HarmonyError(
            "the texts of the built-in tools are in oss-harmony: pip install oss-harmony"
        ) from error
    config = getattr(openai_harmony.ToolNamespaceConfig, name)()
    return ToolNamespace.from_dict(config.model_dump())


def _tools_text(namespaces: Iterable[ToolNamespace], rules: Rules) -> str:
    """The `# Tools` section. Namespaces are ordered by key, bytewise."""
    ordered = sorted(
        namespaces, key=lambda namespace: namespace.place.encode("utf-8", "surrogatepass")
    )
    return "\n\n".join(["# Tools", *(_namespace_text(namespace, rules) for namespace in ordered)])


def _namespace_text(namespace: ToolNamespace, rules: Rules) -> str:
    """One namespace. Its description is a comment only if a block of functions follows."""
    prefix = "// " if namespace.tools else ""
    name = rules.type_name(namespace.name)
    rows = [f"## {name}", ""]
    rows += [prefix + line for line in rules.lines(namespace.description or "")]
    if namespace.tools:
        rows += [f"namespace {name} {{", ""]
        names = frozenset(tool.name for tool in namespace.tools)
        declared: dict[str, str] = {}
        for tool in namespace.tools:
            rows += _tool_rows(tool, rules, names, declared)
        rows.append(f"}} // namespace {name}")
    return "\n".join(rows)


def _tool_rows(
    tool: FunctionTool, rules: Rules, tools: frozenset[str], declared: dict[str, str]
) -> list[str]:
    """A function, and before it the definitions its schema refers to, unless `declared` has them
    already.

    Definitions of one name in two tools may differ: then the later tool's get new names.
    """
    rows = []
    arguments = ""
    if tool.parameters is not None:
        what = f"tool {tool.name!r}: its parameters"
        types = _schema_types(tool.parameters, rules, what=what)
        if any(
            name in tools or declared.get(name, text) != text
            for name, text in types.declarations.items()
        ):
            taken = tools | frozenset(declared)
            types = _schema_types(tool.parameters, rules, taken, what)
        for name, text in types.declarations.items():
            if name not in declared:
                rows += [text, ""]
        declared.update(types.declarations)
        arguments = f"_: {types.text}"
    described = [f"// {line}" for line in rules.lines(tool.description)]
    return [*rows, *described, f"type {rules.type_name(tool.name)} = ({arguments}) => any;", ""]


# ---- a function's parameters ----


def schema_to_typescript(schema: Any, style: Style = "faithful") -> str:
    """The TypeScript-like text in which a JSON schema is shown to the model. Definitions that it
    refers to come before it, one `type Name = ...` each.

    Raises RenderError if the schema is not JSON (NaN, sets) or is nested deeper than MOST_LEVELS,
    and for an unknown style.
    """
    types = _schema_types(schema, rules_for(style))
    return "\n\n".join([*types.declarations.values(), types.text])


def _schema_types(
    schema: Any,
    rules: Rules,
    taken: frozenset[str] = frozenset(),
    what: str = "a tool's parameters",
) -> TypeScript:
    """The type and its definitions; none of these is called like one in `taken`."""
    try:
        text = dumped(schema)
        if len(text) > LARGE:
            return rules.type_of(read(text), taken)
        return _types_of_json(text, rules, taken)
    except NOT_JSON as error:
        raise RenderError(f"{what} must be a JSON schema: {error}", "tools") from error


def forget_types() -> None:
    """Of schemas: nothing has been asked for a while."""
    _types_of_json.cache_clear()


@functools.lru_cache(maxsize=512)
def _types_of_json(text: str, rules: Rules, taken: frozenset[str]) -> TypeScript:
    """Cached by the schema's JSON: a conversation's tools are rendered again at every turn."""
    return rules.type_of(read(text), taken)
