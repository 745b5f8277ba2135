"""The text of system and developer messages: identity, reasoning effort, channels, instructions, tools.

Knows the contents and the schema text; nothing of tokens. Equal to the official package, character for
character: sections are joined by one blank line and empty ones left out.
"""

from __future__ import annotations

from collections.abc import Iterable

from ossia.harmony.messages import FUNCTIONS, DeveloperContent, FunctionTool, SystemContent, ToolNamespace
from ossia.harmony.schema import schema_to_typescript


def system_text(content: SystemContent, *, function_tools: bool = False) -> str:
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
        sections.append(tools_text(content.namespaces))
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


def developer_text(content: DeveloperContent) -> str:
    """The body of a developer message; empty instructions still print their heading."""
    sections = []
    if content.instructions is not None:
        sections += ["# Instructions", content.instructions]
    if content.all_namespaces:
        sections.append(tools_text(content.all_namespaces))
    return "\n\n".join(sections)


def tools_text(namespaces: Iterable[ToolNamespace]) -> str:
    """The `# Tools` section. Namespaces are ordered by name, bytewise."""
    ordered = sorted(namespaces, key=lambda namespace: namespace.name.encode("utf-8", "surrogatepass"))
    return "\n\n".join(["# Tools", *map(_namespace_text, ordered)])


def _namespace_text(namespace: ToolNamespace) -> str:
    """One namespace. Its description is a comment only where a block of functions follows."""
    rows = [f"## {namespace.name}", ""]
    prefix = "// " if namespace.tools else ""
    rows += [prefix + line for line in _lines(namespace.description or "")]
    if namespace.tools:
        rows += [f"namespace {namespace.name} {{", ""]
        for tool in namespace.tools:
            rows += [*_tool_rows(tool), ""]
        rows.append(f"}} // namespace {namespace.name}")
    return "\n".join(rows)


def _tool_rows(tool: FunctionTool) -> list[str]:
    rows = [f"// {line}" for line in _lines(tool.description)]
    arguments = "" if tool.parameters is None else f"_: {schema_to_typescript(tool.parameters)}"
    return [*rows, f"type {tool.name} = ({arguments}) => any;"]


def _lines(text: str) -> list[str]:
    """Lines without their ends; only line feeds separate, and a final one adds no empty line."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
