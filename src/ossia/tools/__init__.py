"""Tools that a conversation may call: what one is, how a Python function becomes one, and the box
in which an answer's tools are declared.
"""

from ossia.tools.function import PythonFunction, from_function
from ossia.tools.protocol import SessionKey, Tool, ToolResult, ToolSession
from ossia.tools.sessions import Sessions
from ossia.tools.toolbox import Toolbox, ToolChoice, ToolTarget

__all__ = [
    "PythonFunction",
    "SessionKey",
    "Sessions",
    "Tool",
    "ToolChoice",
    "ToolResult",
    "ToolSession",
    "ToolTarget",
    "Toolbox",
    "from_function",
]
