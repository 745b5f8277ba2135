"""python at another ossia: `ossia mcp serve --tools python`, over HTTP and the standard streams."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from mcp_servers import listening
from python_tools import python_tool
from tiny_model import environment

from ossia.errors import McpError
from ossia.tools import SessionKey, Sessions, ToolResult, from_function
from ossia.tools.mcp import McpConfig, RemotePython
from ossia.tools.sandbox import find
from ossia.tools.sessions import background_loop

ANN = SessionKey("ann", "one")


@contextmanager
def remote(config: McpConfig) -> Iterator[RemotePython]:
    tool = RemotePython.connect(config)
    try:
        yield tool
    finally:
        asyncio.run_coroutine_threadsafe(tool.pool.close(), background_loop()).result(15)


def ran(tool: RemotePython, code: str, key: SessionKey = ANN) -> ToolResult:
    (result,) = Sessions(key).call_all([(tool, "", code)])
    return result


def test_conversations_keep_their_variables_and_share_none() -> None:
    with (
        python_tool() as python,
        listening([python], None) as url,
        remote(McpConfig("far", url=url, timeout=60.0)) as tool,
    ):
        assert tool.namespace == python.namespace
        assert ran(tool, "x = 6; print(x * 7)") == ToolResult(
            "42\n", ({"type": "logs", "logs": "42\n"},)
        )
        assert ran(tool, "print(x)").text == "6\n"
        for other in (SessionKey("ann", "two"), SessionKey("bob", "one"), SessionKey("ann")):
            assert "NameError" in ran(tool, "print(x)", other).text
            assert ran(tool, "print(x)").text == "6\n"


def test_a_session_that_nobody_comes_back_to() -> None:
    with (
        python_tool() as python,
        listening([python], None) as url,
        remote(McpConfig("far", url=url, timeout=60.0)) as tool,
    ):
        assert ran(tool, "y = 1", SessionKey("ann")).failed is False
        assert "NameError" in ran(tool, "print(y)", SessionKey("ann")).text


def test_a_server_that_goes_away() -> None:
    with python_tool() as python:
        with listening([python], None) as url:
            tool = RemotePython.connect(McpConfig("far", url=url, timeout=10.0))
            assert ran(tool, "print(1)").text == "1\n"
        result = ran(tool, "print(2)")
        assert result.failed and ("was lost" in result.text or "no connection" in result.text)


def test_a_server_without_python() -> None:
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    with (
        listening([from_function(add)], None) as url,
        pytest.raises(McpError, match="no tool python to run code; there are: add"),
    ):
        RemotePython.connect(McpConfig("far", url=url, timeout=60.0))


def test_the_command_serves_it() -> None:
    if find().rung is None:
        pytest.skip(find().described)
    command = (sys.executable, "-m", "ossia", "mcp", "serve", "--tools", "python")
    config = McpConfig("near", command=command, env=environment(), timeout=60.0)
    with remote(config) as tool:
        assert ran(tool, "a = 2").text != "" and ran(tool, "print(a)").text == "2\n"
