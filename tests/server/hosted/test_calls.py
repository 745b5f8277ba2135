"""What a caller may use of the server's tools, and what is counted."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from responses_wire import Browser, Python

from ossia.errors import RequestError
from ossia.harmony import Message, Role
from ossia.server.access import Caller
from ossia.server.hosted.approvals import ApprovedCalls
from ossia.server.hosted.calls import Calls, allowed, names, tool_name
from ossia.server.keys import parse_keys, toml_keys
from ossia.server.settings import Limits
from ossia.server.store.approved import ApprovedTable
from ossia.server.store.sqlite import Sqlite
from ossia.server.store.store import Store
from ossia.tools import SessionKey, Sessions, ToolResult
from ossia.tools.kinds import MCP
from ossia.turn.events import BuiltinCallItem
from ossia.turn.sample import BuiltinCall

TOOLS: dict[str, Any] = {
    "browser": Browser(),
    "python": Python(),
    "github": SimpleNamespace(kind=MCP, namespace=SimpleNamespace(name="github")),
}


class Counted:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def tool_call(self, tool: str, outcome: str, seconds: float) -> None:
        self.calls.append((tool, outcome))


def approved() -> ApprovedCalls:
    return ApprovedCalls(ApprovedTable(Store(Sqlite(None), 3600.0, 1 << 20)))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def call_of(tool: Any) -> BuiltinCall:
    item = BuiltinCallItem("x_1", tool.kind, tool.namespace.name, "")
    return BuiltinCall(0, item, tool, Message(Role.ASSISTANT, "{}"))


def run(calls: Calls, tool: Any) -> ToolResult:
    return asyncio.run(calls.run(Sessions(SessionKey()), call_of(tool)))


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (None, ["browser", "github", "python"]),
        ({"python"}, ["python"]),
        ({"mcp", "browser"}, ["browser", "github"]),
        ({"mcp:github"}, ["github"]),
        ({"mcp:other"}, []),
        (set(), []),
    ],
)
def test_which_tools_a_key_may_use(given: Any, left: list[str]) -> None:
    limits = Limits(tools=None if given is None else frozenset(given))
    assert sorted(allowed(TOOLS, limits)) == left
    assert names(TOOLS.values()) == ["browser", "mcp:github", "python"]


def test_pages_a_minute() -> None:
    clock, counted = Clock(), Counted()
    caller = Caller("alice", Limits(pages_per_minute=2), clock=clock)
    calls = Calls(counted, caller, approved())  # type: ignore[arg-type]
    browser = Browser()
    assert not run(calls, browser).failed and not run(calls, browser).failed
    refused = run(calls, browser)
    assert refused.failed and "2 pages a minute" in refused.text and browser.runs == 2
    assert not run(calls, Python()).failed, "the limit is the browser's"
    clock.now += 31
    assert not run(calls, browser).failed
    assert counted.calls == [
        ("browser", "ok"),
        ("browser", "ok"),
        ("browser", "refused"),
        ("python", "ok"),
        ("browser", "ok"),
    ]


def test_seconds_of_tools_a_minute() -> None:
    clock, counted = Clock(), Counted()
    caller = Caller("alice", Limits(tool_seconds_per_minute=60), clock=clock)
    calls = Calls(counted, caller, approved())  # type: ignore[arg-type]
    caller.tool_seconds.spend(90)
    assert "60 seconds of tools a minute" in run(calls, Python()).text
    clock.now += 31
    assert run(calls, Python()).text == "42"


def test_a_call_that_nobody_waits_for_is_counted() -> None:
    class Endless(Python):
        async def run(self, function: str, text: str) -> ToolResult:
            await asyncio.sleep(100)
            return ToolResult("")

    counted = Counted()
    calls = Calls(counted, Caller(), approved())  # type: ignore[arg-type]

    async def given_up() -> None:
        task = asyncio.create_task(calls.run(Sessions(SessionKey()), call_of(Endless())))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(given_up())
    assert counted.calls == [("python", "cancelled")]


def test_failures_are_counted() -> None:
    counted = Counted()
    browser = Browser()
    browser.fail = True
    run(Calls(counted, Caller(), approved()), browser)  # type: ignore[arg-type]
    assert counted.calls == [("browser", "failed")]


# ---- the key file ----


def test_a_line_says_what_a_key_may_use() -> None:
    limits = "tool-seconds-per-minute=60 pages-per-minute=9 containers=2"
    (key,) = parse_keys([f"ann k tools=python,mcp:github {limits}"], "keys")
    assert key.limits == Limits(
        tools=frozenset({"python", "mcp:github"}),
        tool_seconds_per_minute=60,
        pages_per_minute=9,
        containers=2,
    )
    (none,) = parse_keys(["ann k tools="], "keys")
    assert none.limits.tools == frozenset()


def test_a_table_says_so_too() -> None:
    table = {"name": "ann", "key": "k", "tools": ["browser"], "containers": 2}
    (key,) = toml_keys([table], "keys.toml")
    assert key.limits == Limits(tools=frozenset({"browser"}), containers=2)


@pytest.mark.parametrize("word", ["pyhton", "function", "python,java"])
def test_a_tool_that_there_is_not_is_named(word: str) -> None:
    with pytest.raises(RequestError, match="keys, line 1: there is no tool"):
        parse_keys([f"ann k tools={word}"], "keys")
    with pytest.raises(RequestError, match="keys, key 1: there is no tool"):
        toml_keys([{"key": "k", "tools": word.split(",")}], "keys")


def test_names_of_tools() -> None:
    assert [tool_name(tool) for tool in TOOLS.values()] == ["browser", "python", "mcp:github"]
