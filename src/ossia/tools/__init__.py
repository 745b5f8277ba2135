"""Tools that a conversation may call: what one is, and how a Python function becomes one."""

from ossia.tools.function import PythonFunction, from_function
from ossia.tools.protocol import Tool

__all__ = ["PythonFunction", "Tool", "from_function"]
