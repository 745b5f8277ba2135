"""The tools of a Responses request: those that count, and how they are echoed.

What tools and choices look like is wire/tools.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ossia.server.wire.fields import At
from ossia.server.wire.tools import ToolReader, with_choice
from ossia.tools import Tool
from ossia.tools.toolbox import Toolbox


@dataclass(frozen=True)
class WireTools:
    """`echo`: the declared tools, as the response shows them."""

    tools: Toolbox
    echo: list[dict[str, Any]]


def wire_tools(
    tools: Sequence[Mapping[str, Any]] | None,
    choice: Any,
    parallel: bool,
    builtin: Mapping[str, Tool],
) -> WireTools:
    """What a request declares and chooses. Raises `ApiError` naming the tool that is wrong."""
    reader = ToolReader(builtin, default_kind=None).read(At(tools or [], "tools").items())
    made = reader.tools(parallel=parallel)
    return WireTools(with_choice(made, At(choice, "tool_choice")), reader.echo)
