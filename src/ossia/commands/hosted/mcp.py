"""The MCP servers of `ossia serve`. Everything that the operator's file names is connected to at
start, and so are its errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ossia.server.hosted.mcp import McpServers


def connected(file: str | None, *, strangers: bool) -> McpServers:
    """`strangers`: whether requests may bring others. Raises `McpError` for a file or a server that
    cannot be used.
    """
    from ossia.server.hosted.mcp import McpServers
    from ossia.tools.mcp import McpServer, read_config

    configs = () if file is None else read_config(file)
    with ThreadPoolExecutor(max(1, len(configs))) as threads:
        opening = [threads.submit(McpServer.connect, config) for config in configs]
    errors = [each.exception() for each in opening]
    made = [each.result() for each, error in zip(opening, errors, strict=True) if error is None]
    for error in filter(None, errors):
        for server in made:
            server.close()
        raise error
    return McpServers(made, strangers=strangers)


def about(servers: McpServers) -> Iterator[str]:
    """A line for people about each server."""
    for label, server in servers.servers.items():
        yield f"mcp:{label}: {len(server.namespace.tools)} tools"
    if servers.strangers:
        yield "mcp: any server on the public internet that a request names"
