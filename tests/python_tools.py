"""The tool `python` in tests: in a sandbox that this machine has, cells one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ossia.tools import SessionKey, Sessions, ToolResult
from ossia.tools.python import Python, PythonSettings
from ossia.tools.sandbox import find

ALICE = SessionKey("alice", "conversation")


class Notebook:
    """The cells of one key. `keep`: as when others may come back to the conversation."""

    def __init__(self, tool: Python, key: SessionKey = ALICE) -> None:
        self.tool = tool
        self.key = key
        self.sessions = Sessions(key)

    def __call__(self, code: str) -> str:
        return self.result(code).text

    def result(self, code: str) -> ToolResult:
        (result,) = self.sessions.call_all([(self.tool, "", code)])
        return result

    @property
    def container(self) -> Any:
        return self.tool.session(self.key).container


@contextmanager
def python_tool(settings: PythonSettings | None = None, **options: Any) -> Iterator[Python]:
    """Skips the test where nothing confines."""
    found = find()
    if found.rung is None:
        pytest.skip(found.described)
    tool = Python(settings, rung=found.rung, **options)
    try:
        yield tool
    finally:
        tool.close()
