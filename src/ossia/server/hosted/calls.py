"""Carrying out the calls of tools for a caller: within what the caller may use of them, counted,
timed and logged. Logs have names, never what was asked or found.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ossia.server.access import Caller, request_begun
from ossia.server.hosted.approvals import ApprovedCalls
from ossia.server.metrics import Metrics
from ossia.server.settings import Limits
from ossia.tools import Sessions, Tool, ToolResult
from ossia.tools.browser import Browser
from ossia.tools.kinds import BROWSER, MCP
from ossia.tools.mcp import RequestedServer
from ossia.turn.sample import BuiltinCall

log = logging.getLogger("ossia.server")
USED_UP = (
    "error: the limit of {} {} a minute is used up: answer with what is known, or tell the user to "
    "come back later"
)

NO_USES_LEFT = ToolResult(
    "error: no more calls of this kind are allowed in this answer: answer with what is known",
    ({"type": "error", "code": "max_uses_exceeded"},),
    failed=True,
)


def tool_name(tool: Tool) -> str:
    """What a tool is called in the key file and in metrics: MCP servers by their labels, but for
    those that requests bring, which could have any number of them.
    """
    name = tool.kind.name
    is_strange = isinstance(tool, RequestedServer) and tool.is_strange
    if tool.kind is not MCP or is_strange:
        return name
    return f"{name}:{tool.namespace.name}"


def has_right(limits: Limits, *names: str) -> bool:
    """Whether a caller may use a tool that has these names in the key file."""
    return limits.tools is None or not limits.tools.isdisjoint(names)


def allowed(tools: Mapping[str, Tool], limits: Limits) -> dict[str, Tool]:
    """Those that a caller may use; of a browser the sources that it may use."""

    def may_search(source: str) -> bool:
        return has_right(limits, f"{BROWSER.name}:{source}")

    found: dict[str, Tool] = {}
    for name, tool in tools.items():
        if has_right(limits, tool.kind.name, tool_name(tool)):
            found[name] = tool
        elif isinstance(tool, Browser):
            some = tool.within(may_search)
            if some is not None:
                found[name] = some
    return found


@dataclass(frozen=True)
class Calls:
    """Of one answer to a caller. `approved`: the calls that somebody has approved, of all callers.
    `uses`: how often a recipient may still be called.
    """

    metrics: Metrics
    caller: Caller
    approved: ApprovedCalls
    uses: dict[str, int] = field(default_factory=dict)

    async def run(self, sessions: Sessions, call: BuiltinCall) -> ToolResult:
        name = tool_name(call.tool)
        refusal = self._refusal(call.tool) or self._used_up(recipient_of(call))
        if refusal is not None:
            self.metrics.tool_call(name, "refused", 0.0)
            return refusal
        if call.tool.kind is BROWSER:
            self.caller.pages.spend(1)
        approval = call.item.approval
        if approval is None:
            return await self._counted(sessions, call)
        return await self.approved.once(
            self.caller.name, approval, lambda: self._counted(sessions, call), request_begun()
        )

    async def _counted(self, sessions: Sessions, call: BuiltinCall) -> ToolResult:
        name = tool_name(call.tool)
        begun = time.monotonic()
        outcome = "cancelled"
        try:
            result = await sessions.call(*call.request)
            outcome = "failed" if result.failed else "ok"
            return result
        except asyncio.CancelledError:
            log.info("a call of %s was given up: nobody waits for it", name)
            raise
        finally:
            seconds = time.monotonic() - begun
            self.caller.tool_seconds.spend(seconds)
            self.caller.count_call()
            self.metrics.tool_call(name, outcome, seconds)
            log.info("%s: %s after %.3f s, for %s", name, outcome, seconds, self.caller.name or "-")

    def _refusal(self, tool: Tool) -> ToolResult | None:
        limits = self.caller.limits
        if self.caller.tool_seconds.is_used_up:
            text = USED_UP.format(limits.tool_seconds_per_minute, "seconds of tools")
        elif tool.kind is BROWSER and self.caller.pages.is_used_up:
            text = USED_UP.format(limits.pages_per_minute, "pages")
        else:
            return None
        return ToolResult(text, failed=True)

    def _used_up(self, recipient: str) -> ToolResult | None:
        """The call is counted."""
        left = self.uses.get(recipient)
        if left is None:
            return None
        if left <= 0:
            return NO_USES_LEFT
        self.uses[recipient] = left - 1
        return None


def recipient_of(call: BuiltinCall) -> str:
    item = call.item
    if item.function:
        return f"{item.tool}.{item.function}"
    return item.tool


def names(tools: Iterable[Tool]) -> list[str]:
    return sorted({tool_name(tool) for tool in tools})
