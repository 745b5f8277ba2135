"""What a tool is to the turn loop: a declaration for the model, and something that runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ossia.harmony import FunctionTool


class Tool(Protocol):
    """A function the model may call."""

    @property
    def function(self) -> FunctionTool: ...

    @property
    def run(self) -> Callable[[str], str]:
        """From the arguments as the model wrote them (JSON text) to the text of the result.

        A failure that the model should read and react to is raised as `ossia.errors.ToolError`.
        """
        ...
