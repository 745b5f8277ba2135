"""MCP servers without a process or a network: what tests of the server share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ossia.tools.mcp import McpConfig, McpServer
from ossia.tools.mcp.connection import Connection, Opened
from ossia.tools.mcp.declaring import Listed, declared
from ossia.tools.mcp.pool import Pool

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLS = (
    Listed("read", "Reads.", TEXT, reads=True, repeats=True),
    Listed("write-it", "Writes.", TEXT),
)


class Pretended(Connection):
    """Says what it was told, and notes what it was asked."""

    def __init__(self, config: McpConfig) -> None:
        super().__init__(config)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answer: dict[str, Any] = {"content": [{"type": "text", "text": "the answer"}]}
        self.tools: Mapping[str, Listed] = {tool.name: tool for tool in TOOLS}

    @property
    def listed(self) -> Mapping[str, Listed]:
        return self.tools

    async def opened(self) -> Opened:
        return Opened(None, None, self.tools)  # type: ignore[arg-type]

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.calls.append((name, arguments))
        return self.answer

    async def close(self) -> None:
        return None


def pretended(label: str = "team", **wishes: Any) -> tuple[McpServer, Pretended]:
    config = McpConfig(label, url="https://team.example/mcp", **wishes)
    connection = Pretended(config)
    return McpServer(
        config, Pool(config, connection), declared(config, "A team.", TOOLS)
    ), connection
