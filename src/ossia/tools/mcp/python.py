"""The tool `python` where code runs at an MCP server that has one, such as `ossia mcp serve --tools
python` on another machine: for who can confine nothing here, or wants a virtual machine between.

    RemotePython(McpConfig("python", url="https://sandbox.example/mcp", headers={...}))

The model knows it as its own python. Each conversation has a connection of its own, because its
variables live as long as that. Files stay there: nothing of them is known here.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

from ossia.errors import McpError
from ossia.harmony import ToolNamespace, builtin_tools
from ossia.tools.kinds import PYTHON, ToolKind
from ossia.tools.mcp.config import McpConfig
from ossia.tools.mcp.connection import Connection, Lost, on_loop
from ossia.tools.mcp.pool import Pool
from ossia.tools.mcp.results import as_result
from ossia.tools.protocol import SessionKey, ToolResult
from ossia.tools.sessions import background_loop

NAME = "python"  # of the server's tool
ARGUMENT = "code"  # the one it takes
LOST = (
    "error: the connection to where code runs was lost ({}); whether this code was run is not "
    "known, and variables are gone"
)


class RemotePython:
    """`config`: of the server. Raises McpError, once it is used, for what cannot be reached."""

    def __init__(self, config: McpConfig) -> None:
        self.config = config
        self.pool = Pool(config)
        self._numbers = count()

    @classmethod
    def connect(cls, config: McpConfig) -> RemotePython:
        """Waits for the server, and looks whether it has the tool. Raises McpError. Not to be
        called on an event loop.
        """
        connection = Connection(config)
        opening = asyncio.run_coroutine_threadsafe(connection.opened(), background_loop())
        listed = opening.result().listed
        asyncio.run_coroutine_threadsafe(connection.close(), background_loop()).result(15)
        if NAME not in listed:
            known = ", ".join(listed) or "none"
            why = f"there is no tool {NAME} to run code; there are: {known}"
            raise McpError(f"{config.label}: {why}")
        return cls(config)

    @property
    def kind(self) -> ToolKind:
        return PYTHON

    @property
    def namespace(self) -> ToolNamespace:
        return builtin_tools(NAME)

    def session(self, key: SessionKey) -> RemoteSession:
        place = f"{key.caller}\n{key.conversation}"
        if not key.conversation:
            place = f"{place}\n{next(self._numbers)}"
        return RemoteSession(self, place, stays=bool(key.conversation))

    async def close(self) -> None:
        await on_loop(self.pool.close())


class RemoteSession:
    """`place`: whose connection in the pool; `stays`: somebody may come back to it."""

    def __init__(self, tool: RemotePython, place: str, *, stays: bool) -> None:
        self._tool = tool
        self._place = place
        self._stays = stays

    def action(self, function: str, text: str) -> dict[str, Any] | None:
        """There is no container that clients could name."""
        return None

    async def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        try:
            answer = await on_loop(self._called(text))
        except Lost as lost:
            return ToolResult(LOST.format(lost), failed=True, ended=True)
        result = as_result(answer, NAME)
        return ToolResult(result.text, _outputs(answer), failed=result.failed)

    async def _called(self, text: str) -> dict[str, Any]:
        seconds = self._tool.config.timeout
        try:
            async with asyncio.timeout(seconds):
                connection = self._tool.pool.of(self._place)
                return await connection.call(NAME, {ARGUMENT: text})
        except TimeoutError:
            raise McpError(f"the code did not end within {seconds:g} seconds") from None

    async def close(self) -> None:
        if not self._stays:
            await on_loop(self._tool.pool.end(self._place))


def _outputs(answer: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """What was printed, and images, for clients."""
    outputs: list[dict[str, Any]] = []
    for part in answer.get("content") or ():
        match part:
            case {"type": "text", "text": str(text)} if text:
                outputs.append({"type": "logs", "logs": text})
            case {"type": "image", "data": str(data), "mimeType": str(kind)}:
                outputs.append({"type": "image", "url": f"data:{kind};base64,{data}"})
    return tuple(outputs)
