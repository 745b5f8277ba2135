"""An MCP server as one request wants it: some of its tools, and whose calls need approval.

A call that needs approval is not run: it ends the answer, and the request that brings the approval
runs it. Knows servers; nothing of requests' fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ossia.errors import ToolError
from ossia.harmony import ToolNamespace
from ossia.tools.approval import NOT_APPROVED
from ossia.tools.kinds import MCP, ToolKind
from ossia.tools.mcp.declaring import INSTRUCTIONS, DeclaredTool, Listed
from ossia.tools.mcp.tool import McpServer, McpSession, Save
from ossia.tools.protocol import SessionKey, ToolResult
from ossia.tools.texts import clean

CHANGED = "The tool is no longer the one that was approved; call it again to ask for approval."


@dataclass(frozen=True)
class Which:
    """Some tools of a server. `names`: as the server names them, None for all. `reads`: only those
    that say that they change nothing, or only the others; None: all.
    """

    names: frozenset[str] | None = None
    reads: bool | None = None

    def has(self, tool: Listed) -> bool:
        is_named = self.names is None or tool.name in self.names
        return is_named and self.reads in (None, tool.reads)


ALL = Which()


@dataclass(frozen=True)
class Wishes:
    """`allowed`: the tools that may be called. `asked`: those whose calls need approval; `trusted`:
    those whose calls do not; of the others `others` says it. `about`: what else the model is told
    of the server.
    """

    allowed: Which = ALL
    asked: Which | None = None
    trusted: Which | None = None
    others: bool = False
    about: str = ""

    def ask(self, tool: Listed) -> bool:
        if self.asked is not None and self.asked.has(tool):
            return True
        if self.trusted is not None and self.trusted.has(tool):
            return False
        return self.others


@dataclass(frozen=True)
class RequestedServer:
    """A tool: the server's, as far as the request wants it. `label`: what the request calls it.
    `is_strange`: the request brought it. `approved`: the digest of the one tool that may be called,
    for a call that was approved; None: what needs approval is asked for. `save`: see `McpServer`.
    """

    server: McpServer
    label: str
    wishes: Wishes = field(default_factory=Wishes)
    is_strange: bool = False
    approved: str | None = None
    save: Save | None = None

    @property
    def kind(self) -> ToolKind:
        return MCP

    @cached_property
    def tools(self) -> Mapping[str, DeclaredTool]:
        """By the names that the model knows."""
        known = self.server.declared.tools.items()
        return {name: tool for name, tool in known if self.wishes.allowed.has(tool.listed)}

    @cached_property
    def namespace(self) -> ToolNamespace:
        given = self.server.namespace
        about = [clean(self.wishes.about, INSTRUCTIONS), given.description or ""]
        functions = tuple(tool.function for tool in self.tools.values())
        return ToolNamespace(given.name, "\n\n".join(filter(None, about)) or None, functions)

    def session(self, key: SessionKey) -> RequestedSession:
        return RequestedSession(self, key)

    def approving(self, digest: str) -> RequestedServer:
        """The tool that carries out a call of the tool that had this digest."""
        return replace(self, approved=digest)

    def function(self, name: str) -> str | None:
        """The name that the model knows of the tool that the server calls `name`."""
        found = (mine for mine, tool in self.tools.items() if tool.listed.name == name)
        return next(found, None)

    def asks(self, function: str, caller: str) -> bool:
        """The request may ask for more approval than the operator's file does, never for less."""
        tool = self.tools.get(function)
        if tool is None:
            return False
        if self.server.has_changed(function, caller):
            return True
        return self.server.needs_approval(function) or self.wishes.ask(tool.listed)


class RequestedSession(McpSession):
    """Runs the calls that need no approval, or the one that has it."""

    def __init__(self, requested: RequestedServer, key: SessionKey) -> None:
        super().__init__(replace(requested.server, save=requested.save), key)
        self._requested = requested

    def asks(self, function: str) -> bool:
        return self._requested.asks(function, self._key.caller)

    def action(self, function: str, text: str) -> dict[str, Any]:
        """With the tool's `digest`, which an approval is bound to."""
        made = super().action(function, text) | {"server_label": self._requested.label}
        if function in self._requested.tools:
            made["digest"] = self._server.digest(function, self._key.caller)
        return made

    async def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        if function not in self._requested.tools:
            raise ToolError(f"{self._requested.label} has no tool {function!r} here")
        return await super().call(function, text, deadline)

    async def _refused(
        self, function: str, tool: DeclaredTool, digest: str, arguments: dict[str, Any]
    ) -> ToolResult | None:
        approved = self._requested.approved
        if approved is not None:
            if digest == approved:
                return None
        elif not self.asks(function):
            return None
        return ToolResult(f"{NOT_APPROVED} {CHANGED}", failed=True)
