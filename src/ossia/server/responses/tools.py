"""The tools of a Responses request: those that count, how they are echoed, and how many calls of the
server's tools an answer may have.

What tools and choices look like is wire/tools.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ossia.server.builtin import BuiltinResult, BuiltinTool
from ossia.server.tools import Tools
from ossia.server.wire.fields import At
from ossia.server.wire.tools import ToolReader, with_choice

NO_MORE = "error: no more calls are allowed in this answer; answer with what is known"


@dataclass(frozen=True)
class WireTools:
    """`echo`: the tools that count, as the response shows them."""

    tools: Tools
    echo: list[dict[str, Any]]


@dataclass
class Budget:
    """How many calls of the server's tools are left."""

    left: int


class LimitedTool:
    """A tool of the server's with a limit on its calls. Beyond it the model is told so."""

    def __init__(self, tool: BuiltinTool, budget: Budget) -> None:
        self.tool = tool
        self.budget = budget
        self.namespace = tool.namespace

    def __repr__(self) -> str:
        # grammars are kept by what tools look like: the budget is no part of that
        return f"LimitedTool({self.tool!r})"

    def action(self, function: str, text: str) -> dict[str, Any] | None:
        return self.tool.action(function, text)

    async def run(self, function: str, text: str) -> BuiltinResult:
        self.budget.left -= 1
        if self.budget.left < 0:
            return BuiltinResult(NO_MORE, failed=True)
        return await self.tool.run(function, text)


def wire_tools(
    tools: Sequence[Mapping[str, Any]] | None,
    choice: Any,
    parallel: bool,
    builtin: Mapping[str, BuiltinTool],
    max_calls: int | None = None,
) -> WireTools:
    """What a request declares and chooses. Raises `ApiError` naming the tool that is wrong."""
    offered = dict(builtin)
    if max_calls is not None:
        budget = Budget(max_calls)
        offered = {name: LimitedTool(tool, budget) for name, tool in builtin.items()}
    reader = ToolReader(offered, default_kind=None).read(At(tools or [], "tools").items())
    made = reader.tools(parallel=parallel)
    return WireTools(with_choice(made, At(choice, "tool_choice")), reader.echo)
