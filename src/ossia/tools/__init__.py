"""Tools that a conversation may call: what one is, how a Python function becomes one, and the box
in which an answer's tools are declared.

    from ossia.tools import ApplyPatch, Browser, Python, mcp_servers

    llm.chat("How many lines has data.csv?", tools=[Python(), Browser(corpus="docs/")])

The tools of our own are imported when they are asked for. (`Browser` is not declared to type
checkers here: it needs the package's version, which stands above `ossia.llm`.)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ossia.tools.function import PythonFunction, from_function
from ossia.tools.protocol import SessionKey, Tool, ToolResult, ToolSession
from ossia.tools.sessions import Sessions
from ossia.tools.toolbox import Toolbox, ToolChoice, ToolTarget

if TYPE_CHECKING:
    from ossia.tools.approval import Asked, Verdict
    from ossia.tools.mcp.servers import mcp_servers
    from ossia.tools.patch import ApplyPatch
    from ossia.tools.python import Python
    from ossia.tools.shell import Shell
    from ossia.tools.shell_place import InContainers

__all__ = [
    "ApplyPatch",
    "Asked",
    "Browser",
    "InContainers",
    "Python",
    "PythonFunction",
    "SessionKey",
    "Sessions",
    "Shell",
    "Tool",
    "ToolChoice",
    "ToolResult",
    "ToolSession",
    "ToolTarget",
    "Toolbox",
    "Verdict",
    "from_function",
    "mcp_servers",
]
_LATE = {
    "ApplyPatch": "patch",
    "Asked": "approval",
    "Browser": "browser",
    "InContainers": "shell_place",
    "Python": "python",
    "Shell": "shell",
    "Verdict": "approval",
    "mcp_servers": "mcp.servers",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(f"ossia.tools.{_LATE[name]}"), name)
    raise AttributeError(f"module 'ossia.tools' has no attribute {name!r}")
