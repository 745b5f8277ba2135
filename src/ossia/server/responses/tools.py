"""The tools of a Responses request: those that count, and how they are echoed.

What tools and choices look like is wire/tools.py's. Here are the types that only this API has: MCP
servers, and tools of the caller's whose calls are items of their own kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ossia.errors import PatchError, ToolError
from ossia.server.hosted import secrets
from ossia.server.hosted.mcp import McpVisit
from ossia.server.wire.fields import At
from ossia.server.wire.tools import ToolReader, with_choice
from ossia.tools import Tool
from ossia.tools import shell as shell_tool
from ossia.tools.kinds import APPLY_PATCH, MCP, SHELL, ToolKind
from ossia.tools.patch import read_patch
from ossia.tools.patch.tool import DECLARED as PATCH
from ossia.tools.toolbox import Toolbox


@dataclass(frozen=True)
class WireTools:
    """`echo`: the declared tools, as the response shows them. `items`: tools of the caller's whose
    calls are items of a kind of their own, by name.
    """

    tools: Toolbox
    echo: list[dict[str, Any]]
    items: Mapping[str, ToolKind] = field(default_factory=dict)


def wire_tools(
    tools: Sequence[Mapping[str, Any]] | None,
    choice: Any,
    parallel: bool,
    builtin: Mapping[str, Tool],
    mcp: McpVisit | None = None,
) -> WireTools:
    """What a request declares and chooses. Raises `ApiError` naming the tool that is wrong."""
    items: dict[str, ToolKind] = {}
    own = {
        MCP.name: partial(_mcp, mcp or McpVisit()),
        SHELL.name: partial(_shell, items),
        APPLY_PATCH.name: partial(_apply_patch, items),
    }
    reader = ToolReader(builtin, default_kind=None, own=own)
    reader.read(At(tools or [], "tools").items())
    made = reader.tools(parallel=parallel)
    checks = {name: CHECKS[name] for name in items}
    made = replace(made, checks=checks)
    return WireTools(with_choice(made, At(choice, "tool_choice")), reader.echo, items)


def _mcp(visit: McpVisit, reader: ToolReader, tool: At) -> bool:
    found = visit.requested(tool)
    if found is not None:
        reader.host(found)
    elif not visit.has_failed(tool):
        return False
    reader.echo.append(secrets.shown(tool.value))
    return True


def _shell(items: dict[str, ToolKind], reader: ToolReader, tool: At) -> bool:
    """The caller's, unless a container of ours is asked for."""
    name = shell_tool.DECLARED.name
    if tool["environment"]["type"].value in (None, "local"):
        reader.functions.append(shell_tool.DECLARED)
        reader.strict.add(name)
        items[name] = SHELL
        reader.declare(tool, name)
        return True
    known = reader.builtin.values()
    hosted = next((each for each in known if each.kind is SHELL), None)
    if hosted is None:
        return False
    reader.host(hosted)
    reader.echo.append(dict(tool.value))
    return True


def _apply_patch(items: dict[str, ToolKind], reader: ToolReader, tool: At) -> bool:
    reader.custom.append(PATCH)
    items[PATCH.name] = APPLY_PATCH
    reader.declare(tool, PATCH.name)
    return True


# ---- what the caller could not be given ----


def _no_patch(text: str) -> str | None:
    try:
        read_patch(text)
    except PatchError as error:
        return str(error)
    return None


def _no_commands(text: str) -> str | None:
    try:
        shell_tool.Arguments.of(text)
    except ToolError as error:
        return str(error)
    return None


CHECKS: Mapping[str, Callable[[str], str | None]] = {
    PATCH.name: _no_patch,
    shell_tool.DECLARED.name: _no_commands,
}
