"""An MCP server as a tool: a namespace in the developer message, whose functions the server carries
out.

What was declared at the beginning stays declared. A tool that the server changes meanwhile has to
be approved again, one that it adds is not known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ossia.errors import McpError, ToolError
from ossia.harmony import ToolNamespace
from ossia.tools.approval import Ask, Asked, Verdict, refusal
from ossia.tools.kinds import MCP, ToolKind
from ossia.tools.mcp.config import McpConfig
from ossia.tools.mcp.connection import Connection, Lost, Opened, on_loop
from ossia.tools.mcp.declaring import Declared, DeclaredTool, declared
from ossia.tools.mcp.pool import Pool
from ossia.tools.mcp.results import as_result
from ossia.tools.protocol import SessionKey, ToolResult
from ossia.tools.sessions import background_loop
from ossia.tools.texts import read_json

Save = Callable[[SessionKey, str, str], str | None]


@dataclass(frozen=True)
class McpServer:
    """`ask`: whether a call is approved; without it, calls that need approval are refused. `save`:
    puts a long text into the caller's files, and says where the model finds it. `pool`: each
    caller has a connection of its own.
    """

    config: McpConfig
    pool: Pool = field(repr=False)
    declared: Declared = field(repr=False)
    ask: Ask | None = None
    save: Save | None = None
    approved: set[tuple[str, str]] = field(default_factory=set, repr=False)

    @classmethod
    def connect(
        cls, config: McpConfig, ask: Ask | None = None, save: Save | None = None
    ) -> McpServer:
        """Waits for the server. Raises McpError. Not to be called on an event loop."""
        connection = Connection(config)
        opening = asyncio.run_coroutine_threadsafe(connection.opened(), background_loop())
        return cls._of(connection, opening.result(), ask, save)

    @classmethod
    async def connected(cls, config: McpConfig) -> McpServer:
        """`connect` on an event loop. If it is given up, nothing stays open."""
        connection = Connection(config)
        try:
            opened = await on_loop(connection.opened())
            # it tries to compile what the server declares
            return await asyncio.to_thread(cls._of, connection, opened, None, None)
        except BaseException:
            asyncio.run_coroutine_threadsafe(connection.close(), background_loop())
            raise

    @classmethod
    def _of(
        cls, connection: Connection, opened: Opened, ask: Ask | None, save: Save | None
    ) -> McpServer:
        config = connection.config
        made = declared(config, opened.instructions, list(opened.listed.values()))
        return cls(config, Pool(config, connection), made, ask, save)

    def asking(self, ask: Ask | None) -> McpServer:
        """The same server, whose calls others approve."""
        return replace(self, ask=ask, approved=set())

    def close(self) -> None:
        self.let_go().result(15)

    def let_go(self) -> Future[None]:
        """`close`, without waiting: a server may take its time."""
        return asyncio.run_coroutine_threadsafe(self.pool.close(), background_loop())

    @property
    def kind(self) -> ToolKind:
        return MCP

    @property
    def namespace(self) -> ToolNamespace:
        return self.declared.namespace

    def session(self, key: SessionKey) -> McpSession:
        return McpSession(self, key)

    def digest(self, function: str, caller: str) -> str:
        """Of the tool as the server listed it last on the caller's connection."""
        tool = self.declared.tools[function]
        connection = self.pool.known(caller)
        now = None if connection is None else connection.listed
        return tool.digest if now is None else now.get(tool.listed.name, tool.listed).digest

    def has_changed(self, function: str, caller: str) -> bool:
        return self.digest(function, caller) != self.declared.tools[function].digest

    def needs_approval(self, function: str) -> bool:
        """As configured; a tool that changed needs it whatever is configured."""
        tool = self.declared.tools.get(function)
        if tool is None or (function, tool.digest) in self.approved:
            return False
        match self.config.approval:
            case "never":
                return False
            case "writes":
                return not tool.listed.reads
        return True


class McpSession:
    def __init__(self, server: McpServer, key: SessionKey) -> None:
        self._server = server
        self._key = key

    def action(self, function: str, text: str) -> dict[str, Any]:
        label = self._server.config.label
        tool = self._server.declared.tools.get(function)
        name = tool.listed.name if tool else function
        return {"type": "mcp_call", "server_label": label, "name": name, "arguments": text}

    async def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        tool = self._server.declared.tools.get(function)
        if tool is None:
            raise ToolError(f"{self._server.config.label} has no tool {function!r}")
        arguments = _arguments(text)
        for attempt in (1, 2):
            digest = await on_loop(self._current(tool))
            refused = await self._refused(function, tool, digest, arguments)
            if refused is not None:
                return refused
            try:
                answer = await on_loop(self._called(tool, arguments))
            except Lost as lost:
                if attempt == 2 or not tool.listed.repeats:
                    raise McpError(_lost_text(self._server.config.label, lost)) from lost
                continue
            # a long one may be written to a disk
            return await asyncio.to_thread(as_result, answer, function, self._keep)
        raise AssertionError  # the loop ends by itself

    def _keep(self, name: str, text: str) -> str | None:
        save = self._server.save
        return save(self._key, name, text) if save else None

    async def _called(self, tool: DeclaredTool, arguments: dict[str, Any]) -> dict[str, Any]:
        seconds = self._server.config.timeout
        try:
            async with asyncio.timeout(seconds):
                connection = self._server.pool.of(self._key.caller)
                return await connection.call(tool.listed.name, arguments)
        except TimeoutError:
            label = self._server.config.label
            raise McpError(f"{label} did not answer within {seconds:g} seconds") from None

    async def _current(self, tool: DeclaredTool) -> str:
        """The digest of the tool as the server lists it now. Raises McpError if it is gone."""
        connection = self._server.pool.of(self._key.caller)
        opened = await connection.opened()
        listed = opened.listed.get(tool.listed.name)
        if listed is None:
            raise McpError(f"{self._server.config.label} no longer has {tool.listed.name!r}")
        return tool.digest if listed == tool.listed else listed.digest

    async def _refused(
        self, function: str, tool: DeclaredTool, digest: str, arguments: dict[str, Any]
    ) -> ToolResult | None:
        """What the model is told of a call that is not approved; None: it is."""
        server = self._server
        has_changed = digest != tool.digest
        if (function, digest) in server.approved:
            return None
        if not has_changed and not server.needs_approval(function):
            return None
        verdict = Verdict(False)
        if server.ask is not None:
            reason: Literal["configured", "changed"] = "changed" if has_changed else "configured"
            asked = Asked(server.config.label, tool.listed.name, arguments, reason)
            verdict = await server.ask(asked)
        if not verdict.approved:
            return refusal(verdict)
        if verdict.always:
            server.approved.add((function, digest))
        return None

    def close(self) -> None:
        return None


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = read_json(text or "{}")
    except ValueError as error:
        raise ToolError(f"the arguments are not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ToolError("the arguments must be an object")
    return value


def _lost_text(label: str, lost: Lost) -> str:
    return (
        f"the connection to {label} was lost ({lost}); whether the call was carried out is not "
        "known. The next call connects again"
    )
