"""The MCP servers of `ossia serve`: options, and connections to what they name.

Everything that the operator's file names is connected to at start, and so are its errors.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ossia.commands.options import option

if TYPE_CHECKING:
    from ossia.server.wire.mcp import McpServers


@dataclass(frozen=True)
class Programs:
    """Other programs' tools."""

    TITLE: ClassVar[str] = "other programs' tools"
    ABOUT: ClassVar[str | None] = (
        "Requests name them by label: tools=[{type: mcp, server_label: ...}]. Packages: "
        "ossia[tools]."
    )

    mcp: str | None = option(None, "MCP servers, as in other clients: {mcpServers: {...}}", "FILE")
    mcp_any: bool = option(
        False, "let requests bring the server_url of MCP servers on the public internet"
    )


def connected(options: Programs) -> McpServers | None:
    """Raises `McpError` for a file or a server that cannot be used."""
    if options.mcp is None and not options.mcp_any:
        return None
    from ossia.server.wire.mcp import McpServers
    from ossia.tools.mcp import McpServer, read_config

    configs = () if options.mcp is None else read_config(options.mcp)
    with ThreadPoolExecutor(max(1, len(configs))) as threads:
        opening = [threads.submit(McpServer.connect, config) for config in configs]
    failed = [each.exception() for each in opening if each.exception() is not None]
    made = [each.result() for each in opening if each.exception() is None]
    if failed:
        for server in made:
            server.close()
        raise failed[0] or RuntimeError
    return McpServers(made, strangers=options.mcp_any)


def about(servers: McpServers | None) -> list[str]:
    """A line for people about each server."""
    if servers is None:
        return []
    lines = [
        f"{label}: {len(server.namespace.tools)} tools" for label, server in servers.servers.items()
    ]
    return [*lines, *(["any MCP server on the public internet"] if servers.strangers else [])]
