"""MCP servers in tests: without a process or a network, and our own over HTTP."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from ossia.tools.mcp import McpConfig, McpServer
from ossia.tools.mcp.connection import Connection, Opened
from ossia.tools.mcp.declaring import Listed, declared
from ossia.tools.mcp.pool import Pool
from ossia.tools.mcp.serving import http_app

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


@contextmanager
def listening(tools: list[Any], caller_of: Callable[[str], str | None] | None) -> Iterator[str]:
    """The address of the tools, served by a thread."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        app = http_app(tools, "127.0.0.1", caller_of)
        running = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [port]})
        thread.start()
        try:
            while not running.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{port.getsockname()[1]}/mcp"
        finally:
            running.should_exit = True
            thread.join()
