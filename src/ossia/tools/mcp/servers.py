"""All servers of a configuration file, as tools of a conversation.

tools = mcp_servers("mcp.json", approve=approve)
"""

from __future__ import annotations

import atexit
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from ossia.tools.approval import Approve, asking
from ossia.tools.mcp.config import McpConfig, read_config
from ossia.tools.mcp.tool import McpServer


def mcp_servers(
    source: Path | str | Iterable[McpConfig], approve: Approve | None = None
) -> list[McpServer]:
    """Connected, side by side. `source`: a file with `mcpServers`, or what stands in one.
    `approve`: asked before calls that need approval, which without it are refused: those of tools
    that do not say that they only read, unless the file says otherwise.

    `McpServer.close` ends one; the end of the program ends all. Raises `McpError` for a file or
    a server that cannot be used; then none stays connected.
    """
    if isinstance(source, Path | str):
        source = read_config(source)
    configs = list(source)
    if not configs:
        return []
    ask = asking(approve)
    with ThreadPoolExecutor(len(configs)) as pool:
        starting = [pool.submit(McpServer.connect, config, ask) for config in configs]
    errors = [each.exception() for each in starting]
    servers = [each.result() for each in starting if not each.exception()]
    for error in filter(None, errors):
        for server in servers:
            server.close()
        raise error
    _OPEN.extend(servers)
    return servers


_OPEN: list[McpServer] = []


@atexit.register
def _close_all() -> None:
    """Their programs end with ours, also those that would not by themselves."""
    for server in _OPEN:
        with suppress(TimeoutError):
            server.close()
