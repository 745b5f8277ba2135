"""An MCP server as one request wants it: some of its tools, and whose calls need approval.

A call that needs approval is not run: it ends the answer, and the request that brings the approval
runs it. Knows servers; nothing of requests' fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from ossia.harmony import ToolNamespace
from ossia.tools.kinds import MCP, ToolKind
from ossia.tools.mcp.declaring import INSTRUCTIONS, DeclaredTool, Listed
from ossia.tools.mcp.tool import Asked, McpServer, McpSession, Verdict
from ossia.tools.protocol import SessionKey
from ossia.tools.texts import clean

CHANGED = "The tool is no longer what it was; to call it again asks for approval."


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


@dataclass(frozen=True)
class Wishes:
    """`asked`: the tools whose calls need approval; `trusted`: those whose calls do not. Of all
    others the operator's configuration says it. `about`: what else the model is told of the server.
    """

    allowed: Which = field(default_factory=Which)
    asked: Which | None = None
    trusted: Which | None = None
    about: str = ""


@dataclass(frozen=True)
class RequestedServer:
    """A tool: the server's, as far as the request wants it."""

    server: McpServer
    wishes: Wishes = field(default_factory=Wishes)

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

    def approved(self) -> McpServer:
        """The tool that carries out what has been approved."""

        async def yes(asked: Asked) -> Verdict:
            return Verdict(True)

        return self.server.asking(yes)

    def function(self, name: str) -> str | None:
        """The name that the model knows of the tool that the server calls `name`."""
        found = (mine for mine, tool in self.tools.items() if tool.listed.name == name)
        return next(found, None)

    def asks(self, function: str) -> bool:
        tool = self.tools.get(function)
        if tool is None:
            return False
        if self.server.has_changed(function):
            return True
        if self.wishes.trusted is not None and self.wishes.trusted.has(tool.listed):
            return False
        if self.wishes.asked is not None and self.wishes.asked.has(tool.listed):
            return True
        return self.server.needs_approval(function)


class RequestedSession(McpSession):
    """Runs the calls that need no approval."""

    def __init__(self, requested: RequestedServer, key: SessionKey) -> None:
        async def no(asked: Asked) -> Verdict:
            return Verdict(False, CHANGED)

        trusted = replace(requested.server.config, approval="never")
        super().__init__(replace(requested.server.asking(no), config=trusted), key)
        self._requested = requested

    def asks(self, function: str) -> bool:
        return self._requested.asks(function)
