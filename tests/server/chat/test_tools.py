"""The tools of a Chat Completions request: every form in which clients declare and choose them, and
errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ossia.harmony import RegexFormat, ToolNamespace
from ossia.server.chat.request import tools_of
from ossia.server.chat.types import ChatRequest
from ossia.tools import SessionKey, ToolResult
from ossia.tools import ToolChoice as Choice
from ossia.tools.kinds import BROWSER

pytestmark = pytest.mark.anyio
PATH = "/v1/chat/completions"
USER = {"role": "user", "content": "Hello"}
FINAL = "<|channel|>final<|message|>Fine.<|return|>"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": SCHEMA},
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
NOTE = {"type": "custom", "custom": {"name": "note", "description": "Takes a note."}}


class Browser:
    kind = BROWSER
    namespace = ToolNamespace("browser", "Reads.", ())

    def session(self, key: SessionKey) -> Browser:
        return self

    def action(self, function: str, text: str) -> None:
        return None

    def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        return ToolResult("nothing")

    def close(self) -> None:
        return None


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def request_of(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [USER]} | fields)


def test_tools_of_every_form() -> None:
    flat = {"type": "function", "name": "flat", "parameters": {}}
    grammar = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-z]+"}}
    word = {"type": "custom", "custom": {"name": "word", "format": grammar}}
    strict = {
        "type": "function",
        "function": {"name": "exact", "parameters": SCHEMA, "strict": True},
    }
    tools = tools_of(
        request_of(tools=[WEATHER, CLOCK, flat, NOTE, word, strict], parallel_tool_calls=True), {}
    )
    assert [tool.name for tool in tools.functions] == ["weather", "clock", "flat", "exact"]
    assert tools.functions[0].parameters == SCHEMA and tools.functions[1].parameters is None
    assert [tool.format for tool in tools.custom] == [None, RegexFormat("[a-z]+")]
    assert tools.strict == {"exact"} and tools.parallel
    assert not tools_of(request_of(tools=[WEATHER]), {}).parallel


def test_the_servers_own_tools_are_asked_for() -> None:
    builtin: Any = {"browser": Browser()}
    for wish in ({"tools": [{"type": "web_search"}]}, {"web_search_options": {}}):
        assert tools_of(request_of(**wish), builtin).builtin == (builtin["browser"],)


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (None, Choice("auto")),
        ("auto", Choice("auto")),
        ("none", Choice("none")),
        ("required", Choice("required")),
        ({"type": "required"}, Choice("required")),
        ({"type": "function", "function": {"name": "weather"}}, Choice("required", ("weather",))),
        ({"type": "function", "name": "weather"}, Choice("required", ("weather",))),
        ({"type": "custom", "custom": {"name": "note"}}, Choice("required", ("note",))),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [
                        {"type": "function", "function": {"name": "weather"}},
                        {"type": "custom", "custom": {"name": "note"}},
                    ],
                },
            },
            Choice("auto", ("weather", "note")),
        ),
    ],
)
def test_tool_choice(choice: Any, wanted: Choice) -> None:
    assert tools_of(request_of(tools=[WEATHER, NOTE], tool_choice=choice), {}).choice == wanted


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("auto", Choice("auto")),
        ("none", Choice("none")),
        ({"name": "weather"}, Choice("required", ("weather",))),
    ],
)
def test_the_deprecated_choice(choice: Any, wanted: Choice) -> None:
    request = request_of(functions=[WEATHER["function"]], function_call=choice)
    assert tools_of(request, {}).choice == wanted


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "function": 3}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": 3}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": "x"}}]},
            "tools[0].function.parameters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "description": 1}}]},
            "tools[0].function.description",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": "y"}}]},
            "tools[0].function.strict",
        ),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "two words"}}]},
            "tools[0].function.name",
        ),
        (
            {"tools": [{"type": "custom", "custom": {"name": "c", "format": {"type": "poem"}}}]},
            "tools[0].custom.format",
        ),
        ({"tools": [{"type": ["x"]}]}, "tools[0].type"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": [{"description": "x"}]}, "functions[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": 3}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice.name"),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {"type": "function", "function": {"name": "clock"}},
            },
            "tool_choice",
        ),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "x", "tools": []},
                },
            },
            "tool_choice.allowed_tools.mode",
        ),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}},
            },
            "tool_choice.allowed_tools.tools",
        ),
        ({"functions": [WEATHER["function"]], "function_call": 3}, "function_call"),
    ],
)
async def test_tools_that_do_not_fit(
    client_for: Callable[..., Any], fields: dict[str, Any], param: str
) -> None:
    async with client_for(FINAL) as client:
        response = await client.post(PATH, json={"messages": [USER]} | fields)
    assert response.status_code == 400 and response.json()["error"]["param"] == param, response.text


async def test_a_strict_schema_that_cannot_be_enforced_is_refused(
    client_for: Callable[..., Any],
) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}
    tool = {"name": "f", "parameters": schema, "strict": True}
    async with client_for(FINAL) as client:
        strict = await client.post(
            PATH, json={"messages": [USER], "tools": [{"type": "function", "function": tool}]}
        )
        tool = tool | {"strict": False}
        loose = await client.post(
            PATH, json={"messages": [USER], "tools": [{"type": "function", "function": tool}]}
        )
    assert strict.status_code == 400 and strict.json()["error"]["code"] == "invalid_schema"
    assert loose.status_code == 200
