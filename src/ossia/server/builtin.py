"""Tools that the server runs itself, between samples of one answer: what one has to offer.

The server is handed them; which there are is not decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ossia.harmony import ToolNamespace


@dataclass(frozen=True)
class BuiltinResult:
    """`text` is what the model is told; `outputs` and `action` what the client sees of it."""

    text: str
    outputs: tuple[dict[str, Any], ...] = ()
    failed: bool = False


class BuiltinTool(Protocol):
    """`namespace`: as the model knows it: "browser", with functions, or "python", without."""

    namespace: ToolNamespace

    def action(self, function: str, text: str) -> dict[str, Any] | None:
        """What a call asks for, as a client is shown it: {"type": "search", "query": ...}. Raises
        nothing.
        """
        ...

    async def run(self, function: str, text: str) -> BuiltinResult:
        """Carry out a call. `ToolError`s are told to the model."""
        ...
