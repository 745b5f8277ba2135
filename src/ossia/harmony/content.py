"""The text of system and developer messages: identity, reasoning effort, channels, instructions,
tools.

Knows the contents and the schema text; nothing of tokens. Sections are joined by one blank line and
empty ones left out. In style "compat" equal to the official package, character for character;
"faithful" differs only in what tools look like whose schema or description the official text
garbles.
"""

from __future__ import annotations

from collections.abc import Iterable

from ossia.errors import RenderError
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
from ossia.harmony.schema import schema_types


def system_text(
    content: SystemContent, *, function_tools: bool = False, style: Style = "faithful"
) -> str:
    """The body of a system message. `function_tools`: a developer message declares some."""
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
        sections.append(tools_text(content.namespaces, style))
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


def developer_text(content: DeveloperContent, *, style: Style = "faithful") -> str:
    """The body of a developer message; empty instructions still print their heading.

    Response formats are in every style the last section, as the format document says. Raises
    RenderError for a schema that is not JSON.
    """
    sections = []
    if content.instructions is not None:
        sections += ["# Instructions", content.instructions]
    if content.all_namespaces:
        sections.append(tools_text(content.all_namespaces, style))
    if content.response_formats:
        sections += ["# Response Formats", *map(_response_format_text, content.response_formats)]
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


def tools_text(namespaces: Iterable[ToolNamespace], style: Style) -> str:
    """The `# Tools` section. Namespaces are ordered by key, bytewise."""
    ordered = sorted(
        namespaces, key=lambda namespace: namespace.place.encode("utf-8", "surrogatepass")
    )
    return "\n\n".join(["# Tools", *(_namespace_text(namespace, style) for namespace in ordered)])


def _namespace_text(namespace: ToolNamespace, style: Style) -> str:
    """One namespace. Its description is a comment only where a block of functions follows."""
    rows = [f"## {namespace.name}", ""]
    prefix = "// " if namespace.tools else ""
    rows += [prefix + line for line in _lines(namespace.description or "", style)]
    if namespace.tools:
        rows += [f"namespace {namespace.name} {{", ""]
        names = frozenset(tool.name for tool in namespace.tools)
        declared: dict[str, str] = {}
        for tool in namespace.tools:
            rows += _tool_rows(tool, style, names, declared)
        rows.append(f"}} // namespace {namespace.name}")
    return "\n".join(rows)


def _tool_rows(
    tool: FunctionTool, style: Style, tools: frozenset[str], declared: dict[str, str]
) -> list[str]:
    """A function, and before it the definitions its schema refers to, unless `declared` has them
    already.

    Definitions of one name in two tools may differ: then those of the later tool are named afresh.
    """
    rows, arguments = [], ""
    if tool.parameters is not None:
        types = schema_types(tool.parameters, style)
        if any(
            name in tools or declared.get(name, text) != text
            for name, text in types.declarations.items()
        ):
            types = schema_types(tool.parameters, style, tools | frozenset(declared))
        rows = [
            row
            for name, text in types.declarations.items()
            if name not in declared
            for row in (text, "")
        ]
        declared.update(types.declarations)
        arguments = f"_: {types.text}"
    described = [f"// {line}" for line in _lines(tool.description, style)]
    return [*rows, *described, f"type {tool.name} = ({arguments}) => any;", ""]


def _lines(text: str, style: Style) -> list[str]:
    """Lines without their ends. To the official package only line feeds separate, which lets others
    through; a final one adds no empty line.
    """
    if style == "faithful":
        return text.splitlines()
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
