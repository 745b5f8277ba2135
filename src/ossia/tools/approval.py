"""Asking somebody whether a call may be carried out.

    def approve(asked: Asked) -> bool:
        return input(f"{asked.name} {asked.arguments}? ") == "y"

    tools = [ApplyPatch("project", approve=approve), *mcp_servers("mcp.json", approve=approve)]

Whoever is asked reads what the tool was called with; the model reads that it was refused. Knows
nothing of what tools do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from ossia.tools.protocol import ToolResult
from ossia.tools.sessions import in_waiting_thread
from ossia.tools.texts import clean

NOT_APPROVED = "The user did not approve this call."
LONGEST_REASON = 1000  # characters


@dataclass(frozen=True)
class Asked:
    """A call that waits for approval. `label`: the MCP server's; "" for a tool of ours. `reason`:
    it is configured so, or the server's tool is no longer the one that was declared.
    """

    label: str
    name: str
    arguments: dict[str, Any]
    reason: Literal["configured", "changed"] = "configured"


@dataclass(frozen=True)
class Verdict:
    """`reason`: for the model. `always`: further calls of this tool are approved, too, as long as
    it does not change.
    """

    approved: bool
    reason: str = ""
    always: bool = False


Ask = Callable[[Asked], Awaitable[Verdict]]
Approve = Callable[[Asked], Verdict | bool]


def asking(approve: Approve | None) -> Ask | None:
    """A plain function as one that can be waited for. It is called in the thread that waits for
    the call, as `sessions.in_waiting_thread` says.
    """
    if approve is None:
        return None

    async def ask(asked: Asked) -> Verdict:
        said = await in_waiting_thread(lambda: approve(asked))
        return said if isinstance(said, Verdict) else Verdict(bool(said))

    return ask


class Approvals:
    """Of a tool of ours, for as long as it lives. `approve` None: nothing needs approval."""

    def __init__(self, approve: Approve | None) -> None:
        self._ask = asking(approve)
        self._always = False

    async def refused(self, name: str, arguments: dict[str, Any]) -> ToolResult | None:
        """What the model is told of a call that is not approved; None: it is."""
        if self._ask is None or self._always:
            return None
        verdict = await self._ask(Asked("", name, arguments))
        self._always = verdict.approved and verdict.always
        return None if verdict.approved else refusal(verdict)

    def forget(self) -> None:
        """Ask again, whatever was said."""
        self._always = False


def refusal(verdict: Verdict) -> ToolResult:
    return ToolResult(
        f"{NOT_APPROVED} {clean(verdict.reason, LONGEST_REASON)}".strip(), failed=True
    )
