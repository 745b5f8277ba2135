"""Tools and tool_choice of a Responses request: what is declared, chosen, passed over and
refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from responses_wire import HOSTED, SPACE, Browser, F, G, Python, Stateless

from ossia.harmony import FunctionTool, LarkFormat, RegexFormat, ToolNamespace
from ossia.server.responses.tools import WireTools, wire_tools
from ossia.server.wire.errors import ApiError
from ossia.tokenizer import Tokenizer
from ossia.tools.kinds import ToolKind
from ossia.tools.protocol import ToolResult
from ossia.tools.toolbox import ToolChoice

BUILTIN: dict[str, Any] = {"browser": Browser(), "python": Python()}
ALL = [F, G, SPACE, *HOSTED]


def made(tools: Any, choice: Any = None, builtin: dict[str, Any] | None = None) -> WireTools:
    return wire_tools(tools, choice, False, BUILTIN if builtin is None else builtin)


def refused(tools: Any, choice: Any = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        made(tools, choice)
    assert caught.value.status == 400
    return caught.value


def test_every_kind() -> None:
    found = made(ALL)
    assert list(found.tools.by_recipient) == [
        "functions.f",
        "functions.g",
        "team.spawn",
        "browser.search",
        "python",
    ]
    assert [tool["type"] for tool in found.echo] == [tool["type"] for tool in ALL]
    assert found.echo[0]["strict"] is False and "parameters" in found.echo[0]


def test_functions_as_chat_completions_has_them() -> None:
    nested = {
        "type": "function",
        "function": {"name": "f", "description": "D", "parameters": {"type": "object"}},
    }
    assert made([nested]).tools.functions == (FunctionTool("f", "D", {"type": "object"}),)


def test_strict_functions_are_known() -> None:
    tools = [F | {"strict": True}, F | {"name": "lax", "strict": False}]
    tools.append(SPACE | {"tools": [F | {"name": "spawn", "strict": True}]})
    assert made(tools).tools.strict == {"f", "team.spawn"}


def test_grammars_of_custom_tools() -> None:
    lark = G | {"format": {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}}
    regex = G | {"name": "r", "format": {"type": "grammar", "syntax": "regex", "definition": "a+"}}
    text = G | {"name": "t", "format": {"type": "text"}}
    formats = [tool.format for tool in made([lark, regex, text]).tools.custom]
    assert formats == [LarkFormat('start: "a"'), RegexFormat("a+"), None]


def test_types_that_this_server_does_not_have_are_passed_over() -> None:
    unknown = [
        {"type": "image_generation"},
        {"type": "mcp", "server_label": "x"},
        {"type": "never_heard_of"},
    ]
    found = made([*unknown, F, {"type": "web_search"}], builtin={})
    assert list(found.tools.by_recipient) == ["functions.f"] and len(found.echo) == 1


@pytest.mark.parametrize(
    ("choice", "mode", "names"),
    [
        (None, "auto", None),
        ("auto", "auto", None),
        ("none", "none", None),
        ("required", "required", None),
        ({"type": "function", "name": "f"}, "required", ("f",)),
        ({"type": "function", "function": {"name": "f"}}, "required", ("f",)),
        ({"type": "function", "name": "spawn", "namespace": "team"}, "required", ("team.spawn",)),
        ({"type": "custom", "name": "g"}, "required", ("g",)),
        ({"type": "namespace", "name": "team"}, "required", ("team.spawn",)),
        ({"type": "web_search_preview"}, "required", ("browser.search",)),
        ({"type": "code_interpreter"}, "required", ("python",)),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "f"}, {"type": "mcp"}],
            },
            "auto",
            ("f",),
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [HOSTED[0], {"type": "custom", "name": "g"}],
            },
            "required",
            ("browser.search", "g"),
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}, "none", None),
    ],
)
def test_choices(choice: Any, mode: str, names: Any, tokenizer: Tokenizer) -> None:
    tools = made(ALL, choice).tools
    allowed = isinstance(choice, dict) and choice["type"] == "allowed_tools"
    always = allowed and mode == "required"
    assert tools.choice == ToolChoice(mode, names, always)  # type: ignore[arg-type]
    assert tools.grammar(tokenizer, None, None) is not None


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([{}], "tools[0].type"),
        ([{"type": 3}], "tools[0].type"),
        ([F, {"type": "function"}], "tools[1].name"),
        ([F | {"description": 3}], "tools[0].description"),
        ([F | {"parameters": "object"}], "tools[0].parameters"),
        ([G | {"format": {"type": "grammar"}}], "tools[0].format"),
        ([G | {"format": {"type": "json_object"}}], "tools[0].format"),
        ([SPACE | {"name": "functions"}], "tools[0].name"),
        ([SPACE | {"tools": None}], "tools[0].tools"),
        ([SPACE | {"tools": []}], "tools[0].tools"),
        ([SPACE | {"tools": [3]}], "tools[0].tools[0]"),
        ([SPACE | {"tools": [G]}], "tools[0].tools[0]"),
    ],
)
def test_tools_that_are_wrong_are_named(tools: Any, param: str) -> None:
    assert refused(tools).param == param


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("sometimes", "tool_choice"),
        (3, "tool_choice"),
        ([], "tool_choice"),
        ({}, "tool_choice"),
        ({"type": "function"}, "tool_choice.name"),
        ({"type": "mcp", "server_label": "x"}, "tool_choice"),
        ({"type": "namespace", "name": "nobody"}, "tool_choice"),
        ({"type": "allowed_tools", "mode": "none", "tools": []}, "tool_choice.mode"),
        ({"type": "allowed_tools", "mode": "auto"}, "tool_choice.tools"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [3]}, "tool_choice.tools[0]"),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "mcp"}]}, "tool_choice"),
    ],
)
def test_choices_that_are_wrong_are_named(choice: Any, param: str) -> None:
    assert refused(ALL, choice).param == param


CLOCK = ToolKind("clock", "clock_call", "ck", frozenset({"clock"}))


class Clock(Stateless):
    kind = CLOCK
    namespace = ToolNamespace("clock", "Tells the time.")

    def action(self, function: str, text: str) -> None:
        return None

    async def run(self, function: str, text: str) -> ToolResult:
        return ToolResult("noon")


@pytest.mark.anyio
async def test_a_kind_of_tool_is_a_row_and_its_file(client_for: Callable[..., Any]) -> None:
    """Its calls are items of their own without a writer of their own."""
    call = "<|channel|>analysis to=clock code<|message|>now?<|call|>"
    final = "<|channel|>final<|message|>Noon.<|return|>"
    async with client_for(call, final, builtin=[Clock()]) as client:
        body = {"input": "What time is it?", "tools": [{"type": "clock"}], "stream": True}
        lines = (await client.post("/v1/responses", json=body)).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    types = [event["type"] for event in events]
    assert "response.clock_call.in_progress" in types and "response.clock_call.completed" in types
    clock, said = events[-1]["response"]["output"]
    assert clock == {"type": "clock_call", "status": "completed", "id": clock["id"]}
    assert clock["id"].startswith("ck_") and said["content"][0]["text"] == "Noon."
