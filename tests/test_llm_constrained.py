"""`LLM.chat` held to a grammar: even a random model then answers well-formed, with calls and
answers that validate.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from amounts import thorough
from tiny_model import write_tiny

import ossia
from ossia.errors import GrammarError
from ossia.harmony import (
    Conversation,
    DeveloperContent,
    FunctionTool,
    Message,
    Repair,
    RepairKind,
    ResponseFormat,
    Role,
    SystemContent,
)
from ossia.llm import LLM
from ossia.turn.events import CallStart, TurnEnd

SEEDS = range(8 if thorough() else 4)
FEW = SEEDS if thorough() else SEEDS[:2]  # where every seed has to show it
ANSWER = {
    "type": "object",
    "properties": {
        "sum": {"type": "integer", "minimum": 0, "maximum": 99},
        "sure": {"type": "boolean"},
    },
    "required": ["sum", "sure"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return ossia.load(write_tiny(tmp_path_factory.mktemp("models") / "tiny"), dtype="float32")


def light(on: bool, room: str = "kitchen") -> str:
    """Switches a light."""
    return f"{room} {'on' if on else 'off'}"


def odd(end: TurnEnd) -> list[Repair]:
    """What had to be repaired, but for half characters: any text token may be part of reasoning."""
    return [repair for repair in end.repairs if repair.kind is not RepairKind.INVALID_UTF8]


def test_an_answer_follows_its_schema(llm: LLM) -> None:
    finished = 0
    for seed in SEEDS:
        end = llm.chat(
            "Hi", response_format=ResponseFormat("sum", ANSWER), seed=seed, max_tokens=120
        ).result()
        assert not odd(end)
        if end.reason == "stop":
            jsonschema.validate(json.loads(end.text), ANSWER)
            finished += 1
    assert finished


def test_the_schema_is_shown_to_the_model(llm: LLM) -> None:
    talk = llm.chat(
        "Hi", response_format=ResponseFormat("sum", ANSWER), instructions="Be kind.", max_tokens=1
    )
    developers = [m.content for m in talk.conversation.messages if m.role is Role.DEVELOPER]
    assert [d.response_formats[0].name for d in developers if isinstance(d, DeveloperContent)] == [
        "sum"
    ]
    formatted = {"type": "json_schema", "json_schema": {"name": "sum", "schema": ANSWER}}
    alone = llm.chat("Hi", response_format=formatted, max_tokens=1).conversation
    assert Role.DEVELOPER not in [m.role for m in alone.messages]


def test_a_call_can_be_required_and_is_valid(llm: LLM) -> None:
    called = 0
    for seed in FEW:
        chat = llm.chat(
            "Hi", tools=light, tool_choice="required", seed=seed, max_tokens=120, max_tool_rounds=1
        )
        for event in chat:
            if isinstance(event, CallStart):
                arguments = json.loads(event.item.text)
                assert event.item.name == "light" and isinstance(arguments["on"], bool)
                called += 1
        assert not odd(chat.result())
    assert called


@pytest.mark.parametrize("tokens", [70, 130, pytest.param(400, marks=pytest.mark.slow)])
def test_a_required_call_comes_whenever_there_are_tokens_for_one(llm: LLM, tokens: int) -> None:
    """A model that has learnt nothing would go on thinking for ever."""
    lamp = {"on": {"type": "boolean"}, "room": {"enum": ["hall", "loft"]}}
    schema = {
        "type": "object",
        "properties": lamp,
        "required": ["on", "room"],
        "additionalProperties": False,
    }
    declared = DeveloperContent(tools=(FunctionTool("lamp", "", schema),))
    talk = Conversation((Message("developer", declared), Message("user", "Hi")))
    for seed in FEW:
        for choice in ("required", "lamp"):
            chat = llm.chat(talk, tool_choice=choice, seed=seed, max_tokens=tokens)
            end = chat.result()
            assert end.reason == "calls", end
            assert json.loads(end.messages[-1].text).keys() == lamp.keys()


def test_what_follows_a_required_call_is_free(llm: LLM) -> None:
    """Or the turn could never end."""
    answered = 0
    for seed in SEEDS:
        end = llm.chat(
            "Hi", tools=light, tool_choice="light", seed=seed, max_tokens=60, reasoning_budget=0
        ).result()
        answered += bool(end.text)
    assert answered


def test_no_calls_and_no_reasoning(llm: LLM) -> None:
    for seed in SEEDS:
        end = llm.chat(
            "Hi",
            tools=light,
            tool_choice="none",
            reasoning_budget=0,
            seed=seed,
            max_tokens=60,
            constrained=True,
        ).result()
        assert end.reasoning == "" and all(m.recipient is None for m in end.messages)


def test_tools_that_the_conversation_declares(llm: LLM) -> None:
    tool = FunctionTool(
        "lamp",
        "",
        {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
    )
    talk = Conversation(
        (Message("developer", DeveloperContent(tools=(tool,))), Message("user", "Hi"))
    )
    recipients = set()
    for seed in FEW:
        end = llm.chat(
            talk, tool_choice="lamp", seed=seed, max_tokens=80, max_tool_rounds=0
        ).result()
        recipients |= {m.recipient for m in end.messages if m.recipient}
    assert recipients == {"functions.lamp"}


def test_contents_in_several_parts(llm: LLM) -> None:
    tool = FunctionTool("lamp", "", {"type": "object", "properties": {}})
    messages = (
        Message("system", (SystemContent(effort="low"), "Be kind.")),
        Message("developer", (DeveloperContent("Hi.", (tool,)), DeveloperContent(tools=(tool,)))),
        Message("user", "Hi"),
    )
    wanted = ResponseFormat("sum", ANSWER)
    chat = llm.chat(Conversation(messages), effort="high", response_format=wanted, max_tokens=1)
    system, developer, *_ = chat.conversation.messages
    assert [getattr(part, "effort", None) for part in system.parts] == ["high", None]
    assert [
        part.response_formats for part in developer.parts if isinstance(part, DeveloperContent)
    ] == [(wanted,), ()]


@pytest.mark.parametrize(
    "wish",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
        {"response_format": {"type": "song"}},
        {"tool_choice": "no_such_tool"},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "allowed_tools"}},
        {"reasoning_budget": -1},
    ],
)
def test_wishes_that_cannot_be_held_to(wish: dict[str, Any], llm: LLM) -> None:
    with pytest.raises(GrammarError):
        llm.chat("Hi", **wish)


def test_nano_reads_its_reasoning_into_a_format() -> None:
    nano = ossia.load("nano")
    pattern = {"type": "regex", "pattern": "= [0-9]+"}
    end = nano.chat(
        "What is 37 + 48?", response_format=pattern, temperature=0, max_tokens=200
    ).result()
    assert end.text.startswith("= ") and end.text[2:].isdecimal() and end.reasoning
