"""Messages, their JSON form, and the conversion of OpenAI-style chat messages."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import pytest
from harmony_schemas import MISSHAPEN

from ossia.errors import HarmonyError
from ossia.harmony import (
    Conversation,
    DeveloperContent,
    Effort,
    FunctionTool,
    Message,
    ResponseFormat,
    Role,
    SystemContent,
    ToolNamespace,
)
from ossia.harmony.chat_messages import messages_from_chat

WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "w", "parameters": {"type": "object"}},
}


def test_words_become_enums() -> None:
    assert Message("user", "x").role is Role.USER
    assert SystemContent(effort="high").effort is Effort.HIGH
    assert Message("user", "x") == Message(Role.USER, "x")
    for make in (lambda: Message("helper", "x"), lambda: SystemContent(effort="extreme")):  # type: ignore[arg-type]
        with pytest.raises(HarmonyError, match="unknown"):
            make()


def test_json_form() -> None:
    call = Message("assistant", "{}", None, "commentary", "functions.f", "<|constrain|>json")
    assert call.to_dict() == {
        "role": "assistant",
        "content": "{}",
        "channel": "commentary",
        "recipient": "functions.f",
        "content_type": "<|constrain|>json",
    }
    assert Message.from_dict(call.to_dict()) == call
    parts = {
        "role": "user",
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
    }
    assert (
        Message.from_dict(parts) == Message("user", ("a", "b"))
        and Message.from_dict(parts).text == "ab"
    )
    one = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    assert Message.from_dict(one) == Message("user", ("a",)) == Message("user", "a")
    mixed = Message("developer", (DeveloperContent("a"), "x", DeveloperContent("b")))
    assert Message.from_dict(mixed.to_dict()) == mixed and mixed.text == "x"
    assert Message.from_dict({"role": "user", "content": []}) == Message("user", ())
    minimal = {"role": "system", "content": [{"type": "system_content"}]}
    assert Message.from_dict(minimal).content == SystemContent()
    none = SystemContent(None, None, None, None, (), namespaces=(ToolNamespace("python", "p"),))
    assert Message.from_dict(Message("system", none).to_dict()).content == none
    empty = DeveloperContent(namespaces=(ToolNamespace("functions"),))
    assert Message.from_dict(Message("developer", empty).to_dict()).content == empty


@pytest.mark.parametrize(
    "data",
    [
        {"role": "user"},
        {"content": "x"},
        {"role": "user", "content": 3},
        {"role": "user", "content": [{"type": "image"}]},
        {"role": "user", "content": ["x"]},
        {"role": "user", "content": "x", "channel": 3},
        {"role": "system", "content": [{"type": "system_content", "model_identity": 3}]},
        {"role": "user", "content": [{"type": "text", "text": 3}]},
        {
            "role": "developer",
            "content": [{"type": "developer_content", "response_formats": [{"name": "f"}]}],
        },
        {
            "role": "developer",
            "content": [{"type": "developer_content", "response_formats": {"name": "f"}}],
        },
    ],
)
def test_bad_json_is_named(data: dict[str, Any]) -> None:
    with pytest.raises(HarmonyError):
        Message.from_dict(data)


@pytest.mark.parametrize(("message", "said"), MISSHAPEN)
def test_misshapen_messages_are_named(message: Any, said: str) -> None:
    with pytest.raises(HarmonyError, match=re.escape(said)):
        Message.from_dict(message)
    with pytest.raises(HarmonyError, match=rf"messages\[1\]: .*{re.escape(said)}"):
        Conversation.from_dict({"messages": [{"role": "user", "content": ""}, message]})


@pytest.mark.parametrize(
    "data", [[], None, "x", 5, {}, {"messages": "x"}, {"messages": {"role": "user"}}]
)
def test_misshapen_conversations_are_named(data: Any) -> None:
    with pytest.raises(HarmonyError, match="a list of messages under the key 'messages'"):
        Conversation.from_dict(data)


@pytest.mark.parametrize("key", ["name", "channel", "recipient", "content_type"])
def test_words_of_a_header_are_strings(key: str) -> None:
    with pytest.raises(
        HarmonyError, match=f"the {key} of a message must be a string or None, not 5"
    ):
        Message("user", "x", **{key: 5})  # type: ignore[arg-type]


def test_namespaces_under_keys_of_their_own() -> None:
    tools = {"a": {"name": "b", "tools": [{"name": "f", "description": "", "parameters": [1]}]}}
    message = Message.from_dict(
        {"role": "developer", "content": [{"type": "developer_content", "tools": tools}]}
    )
    namespace = ToolNamespace("b", None, (FunctionTool("f", "", [1]),), key="a")
    assert message.content == DeveloperContent(namespaces=(namespace,))
    assert Message.from_dict(message.to_dict()) == message
    assert ToolNamespace("b", key="b") == ToolNamespace("b")


def test_response_formats_have_a_key_of_their_own() -> None:
    plan = ResponseFormat("plan", {"type": "object"}, "the plan")
    content = DeveloperContent("x", response_formats=(plan, ResponseFormat("anything", True)))
    assert content.to_dict()["response_formats"] == [
        {"name": "plan", "description": "the plan", "schema": {"type": "object"}},
        {"name": "anything", "description": None, "schema": True},
    ]
    assert DeveloperContent.from_dict(content.to_dict()) == content
    assert "response_formats" not in DeveloperContent("x").to_dict()


def test_a_date_is_pinned_once() -> None:
    talk = Conversation((Message("system", SystemContent(effort="high")), Message("user", "hi")))
    dated = talk.with_date("2025-06-28")
    assert dated.messages == (
        Message("system", SystemContent(current_date="2025-06-28", effort="high")),
        Message("user", "hi"),
    )
    assert dated.with_date("2031-01-01") is dated and dated.with_date() is dated
    assert Conversation.from_dict(dated.to_dict()).with_date() == dated
    today = talk.with_date().messages[0].content
    assert isinstance(today, SystemContent) and today.current_date == date.today().isoformat()
    without = Conversation((Message("user", "hi"), Message("system", "as plain text")))
    assert without.with_date() is without
    parts = Conversation((Message("system", ("x", SystemContent(), SystemContent())),)).with_date(
        "d"
    )
    assert parts.messages[0].content == ("x", SystemContent(current_date="d"), SystemContent())


def test_tools_from_every_form() -> None:
    tool = FunctionTool("get_weather", "w", {"type": "object"})
    assert FunctionTool.from_dict(WEATHER) == tool
    assert FunctionTool.from_dict({"type": "function", **WEATHER["function"]}) == tool  # type: ignore[dict-item]
    assert FunctionTool.from_dict({"name": "f", "description": None}) == FunctionTool("f")
    for bad in ({}, {"name": 3}, {"name": "f", "description": 3}, "f", None):
        with pytest.raises(HarmonyError):
            FunctionTool.from_dict(bad)  # type: ignore[arg-type]


def test_a_chat_with_everything() -> None:
    chat: list[dict[str, Any]] = [
        {"role": "system", "content": "be brief"},
        {"role": "developer", "content": [{"type": "text", "text": "no emoji"}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Weather in "}, {"type": "text", "text": "Rome?"}],
        },
        {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning": "need the tool",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"a": 1}'},
                },
                {
                    "id": "c2",
                    "type": "function",
                    "function": {"name": "get_time", "arguments": {"b": "é"}},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "noon"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sunny"}]},
        {"role": "assistant", "content": "Sunny.", "reasoning_content": "got it"},
        {"role": "system", "content": "now in French"},
        {"role": "user", "content": "Merci", "name": "ann"},
    ]
    conversation = Conversation.from_chat(chat, tools=[WEATHER, FunctionTool("get_time")])
    weather = FunctionTool("get_weather", "w", {"type": "object"})
    json_type, to = "<|constrain|>json", "assistant"
    assert conversation.messages == (
        Message("system", SystemContent()),
        Message(
            "developer",
            DeveloperContent("be brief\n\nno emoji", (weather, FunctionTool("get_time"))),
        ),
        Message("user", "Weather in Rome?"),
        Message("assistant", "need the tool", channel="analysis"),
        Message("assistant", "Let me look.", channel="commentary"),
        Message("assistant", '{"a": 1}', None, "commentary", "functions.get_weather", json_type),
        Message("assistant", '{"b": "é"}', None, "commentary", "functions.get_time", json_type),
        Message("tool", "noon", "functions.get_time", "commentary", to),
        Message("tool", "sunny", "functions.get_weather", "commentary", to),
        Message("assistant", "got it", channel="analysis"),
        Message("assistant", "Sunny.", channel="final"),
        Message("developer", DeveloperContent("now in French")),
        Message("user", "Merci", name="ann"),
    )
    assert conversation.has_function_tools


def test_small_chats() -> None:
    def last(message: dict[str, Any]) -> tuple[Message, ...]:
        return Conversation.from_chat([message], system=None).messages

    assert last({"role": "assistant", "content": None, "thinking": "t"}) == (
        Message("assistant", "t", channel="analysis"),
    )
    assert last({"role": "assistant", "content": ""}) == (
        Message("assistant", "", channel="final"),
    )
    assert last({"role": "assistant", "content": None, "refusal": "no"}) == (
        Message("assistant", "no", channel="final"),
    )
    tool = {"role": "tool", "name": "f", "content": "x"}
    assert last(tool) == (Message("tool", "x", "functions.f", "commentary", "assistant"),)
    assert Conversation.from_chat([]).messages == (Message("system", SystemContent()),)
    high = SystemContent(effort="high")
    assert Conversation.from_chat([], system=high).messages == (Message("system", high),)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "function", "content": "x"}, "role must be one of"),
        ("hi", "role must be one of"),
        ({"role": "user", "content": None}, "content must be a string"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "text only"),
        ({"role": "user", "content": "x", "name": 3}, "name must be a string"),
        ({"role": "tool", "content": "x", "tool_call_id": "c9"}, "'c9'"),
        ({"role": "tool", "content": "x"}, "tool_call_id"),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {}}]},
            "a tool call must look like",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {1, 2}}}]},
            "not JSON",
        ),
        ({"role": "assistant", "tool_calls": {"id": "1"}}, "must be a list"),
    ],
)
def test_bad_chat_messages_are_named(message: Any, said: str) -> None:
    with pytest.raises(HarmonyError, match=r"messages\[1\].*" + said):
        Conversation.from_chat([{"role": "user", "content": "x"}, message])


@pytest.mark.parametrize(
    ("messages", "tools", "said"),
    [
        ({"role": "user"}, (), "messages must be a list, not {'role': 'user'}"),
        ("hi", (), "messages must be a list, not 'hi'"),
        ([], 5, "tools must be a list, not 5"),
        ([], {"a": 1}, "tools must be a list, not {'a': 1}"),
        ([], ["f"], "tools[0]: a function tool must be an object, not 'f'"),
        ([], [WEATHER, {"type": "function"}], "tools[1]: a function tool needs a name"),
        (
            [],
            [{"name": "f", "parameters": []}],
            "tools[0]: parameters of 'f' must be an object, not []",
        ),
    ],
)
def test_misshapen_chats_are_named(messages: Any, tools: Any, said: str) -> None:
    with pytest.raises(HarmonyError, match=re.escape(said)):
        Conversation.from_chat(messages, tools=tools)


def test_a_result_belongs_to_the_one_open_call() -> None:
    def called(*calls: tuple[str | None, str]) -> dict[str, Any]:
        made = [{"id": id, "function": {"name": name, "arguments": "{}"}} for id, name in calls]
        return {"role": "assistant", "content": None, "tool_calls": made}

    def names(*messages: dict[str, Any]) -> list[str | None]:
        found = messages_from_chat(messages, system=None)
        return [message.name for message in found if message.role is Role.TOOL]

    result = {"role": "tool", "content": "r"}
    one = called(("c1", "f"))
    other = called((None, "g"))
    assert names(one, result) == ["functions.f"]
    assert names(one, result | {"tool_call_id": "c1"}, other, result) == [
        "functions.f",
        "functions.g",
    ]
    assert names(one, result | {"tool_call_id": ""}) == ["functions.f"]
    two = called(("c1", "f"), ("c2", "g"))
    assert names(two, result | {"tool_call_id": "c2"}, result) == ["functions.g", "functions.f"]
    assert names(two, result | {"name": "f"}, result) == ["functions.f", "functions.g"]
    for messages in ([two, result], [one, result, result], [one, result | {"tool_call_id": "x"}]):
        with pytest.raises(HarmonyError, match="no call before it has the tool_call_id"):
            names(*messages)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_json_are_named(number: float) -> None:
    arguments = {"a": [1.5, {"b": number}]}
    call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(HarmonyError, match="arguments of the call to 'f' are not JSON") as caught:
        messages_from_chat([{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert caught.value.field == "messages[0]"
