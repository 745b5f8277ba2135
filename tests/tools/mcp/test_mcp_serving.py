"""Our tools for other programs: over the standard streams and HTTP, with keys, sessions apart."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp_servers import listening

from ossia.commands.mcp import Options, _address, _callers, serve
from ossia.errors import McpError
from ossia.harmony import FunctionTool, ToolNamespace
from ossia.tools import SessionKey, Sessions, ToolResult, from_function
from ossia.tools.kinds import PYTHON
from ossia.tools.mcp import McpConfig, McpServer
from ossia.tools.mcp.serving import Clients, make_server, served
from ossia.tools.patch import ApplyPatch

pytest.importorskip("mcp")
PIXEL = "data:image/png;base64,AAAA"


class Notebook:
    """A tool that takes text and remembers it, for every key by itself."""

    kind = PYTHON
    namespace = ToolNamespace("python", "Remembers.")

    def __init__(self) -> None:
        self.seen: dict[SessionKey, list[str]] = {}
        self.closed: list[SessionKey] = []

    def session(self, key: SessionKey) -> NotebookSession:
        return NotebookSession(self, key)


class NotebookSession:
    def __init__(self, notebook: Notebook, key: SessionKey) -> None:
        self.notebook = notebook
        self.key = key

    def action(self, function: str, text: str) -> None:
        return None

    async def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        seen = self.notebook.seen.setdefault(self.key, [])
        seen.append(text)
        return ToolResult(" ".join(seen), ({"type": "image", "url": PIXEL},))

    def close(self) -> None:
        self.notebook.closed.append(self.key)


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


def called(server: McpServer, function: str, **arguments: Any) -> ToolResult:
    text = json.dumps(arguments)
    return Sessions(SessionKey()).call_all([(server, function, text)])[0]


def test_what_is_served(tmp_path: Path) -> None:
    found = served([from_function(add), ApplyPatch(tmp_path), Notebook()])
    assert list(found) == ["add", "apply_patch", "python"]
    assert found["add"].body({"a": 1}) == '{"a": 1}'
    assert found["apply_patch"].body({"input": "*** Begin Patch"}) == "*** Begin Patch"
    assert (found["python"].text, found["python"].body({})) == ("code", "")


def test_functions_with_one_name() -> None:
    class Other(Notebook):
        namespace = ToolNamespace("other", None, (FunctionTool("add"),))

    assert list(served([from_function(add), Other()])) == ["functions_add", "other_add"]
    with pytest.raises(McpError, match="two tools"):
        served([from_function(add), from_function(add)])


def test_over_http_with_keys() -> None:
    notebook = Notebook()
    names = {"k1": "alice", "k2": "bob"}
    with listening([from_function(add), notebook], names.get) as url:
        for key in ("k1", "k2", "k1"):
            headers = {"Authorization": f"Bearer {key}"}
            server = McpServer.connect(
                McpConfig("ours", url=url, headers=headers, approval="never", timeout=60.0)
            )
            assert [tool.name for tool in server.namespace.tools] == ["add", "python"]
            assert called(server, "add", a=1, b=2) == ToolResult("3")
            assert called(server, "add", a="x").failed
            result = called(server, "python", code=f"by {key}")
            assert f"by {key}" in result.text and "[image: image/png" in result.text
            server.close()
        for headers in ({}, {"Authorization": "Bearer k3"}, {"Authorization": "Basic k1"}):
            with pytest.raises(McpError, match="no connection"):
                McpServer.connect(McpConfig("ours", url=url, headers=headers, timeout=60.0))
    by_caller = {key.caller: texts for key, texts in notebook.seen.items()}
    assert by_caller.keys() == {"alice", "bob"}
    for key, texts in notebook.seen.items():
        other = {"alice": "by k2", "bob": "by k1"}[key.caller]
        assert other not in texts


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\n")
    command = (sys.executable, "-m", "ossia", "mcp", "serve", "--tools", "apply_patch")
    config = McpConfig(
        "ours",
        (*command, "--patch-root", str(tmp_path)),
        env={"PYTHONPATH": ":".join(sys.path)},
        approval="never",
    )
    server = McpServer.connect(config)
    patch = "*** Begin Patch\n*** Update File: a\n@@\n-one\n+two\n*** End Patch"
    assert called(server, "apply_patch", input=patch).text.endswith("M a")
    assert (tmp_path / "a").read_text() == "two\n"
    assert called(server, "apply_patch", input=patch).failed
    server.close()


def test_what_the_command_refuses(tmp_path: Path) -> None:
    with pytest.raises(McpError, match="no tools are named"):
        serve(Options())
    with pytest.raises(McpError, match="there is no tool 'rocket'"):
        serve(Options(tools="apply_patch,rocket"))
    with pytest.raises(McpError, match="give --keys"):
        _callers(None, "0.0.0.0")
    with pytest.raises(McpError, match="HOST:PORT"):
        _address("9000")
    assert _address("[::1]:9000") == ("::1", 9000)
    assert _callers(None, "127.0.0.1") is None
    (tmp_path / "keys").write_text("alice s3cret\n")
    caller_of = _callers(tmp_path / "keys", "0.0.0.0")
    assert caller_of and (caller_of("s3cret"), caller_of("other")) == ("alice", None)


def test_sessions_of_clients_that_went_away_close() -> None:
    now = 0.0
    notebook = Notebook()
    (each,) = served([notebook]).values()

    async def scenario() -> None:
        nonlocal now
        clients = Clients(clock=lambda: now)
        for number in range(66):
            await clients.call(SessionKey("c", str(number)), each, "x")
        assert [key.conversation for key in notebook.closed] == ["0", "1"]
        now = 1300.0
        await clients.call(SessionKey("c", "70"), each, "x")
        assert len(notebook.closed) == 66
        await clients.close()
        assert len(notebook.closed) == 67

    asyncio.run(scenario())


def test_the_model_reads_no_schema_of_what_it_knows() -> None:
    from mcp import Client

    async def listed() -> list[Any]:
        async with Client(make_server([from_function(add), Notebook()], Clients())) as client:
            return list((await client.list_tools()).tools)

    first, last = asyncio.run(listed())
    assert (first.meta, last.meta) == (None, {"include_in_prompt": False})
