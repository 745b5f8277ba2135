"""Input items as Harmony messages: every type and form, what is put back, what is refused and by
which name.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from ossia.harmony import CONSTRAIN, DeveloperContent, Message, Role
from ossia.server.responses.input import Reader, droppable, wire_items, without_first
from ossia.server.sealing import Sealer, SealError
from ossia.server.wire.content import UNREADABLE
from ossia.server.wire.errors import ApiError

JSON = f"{CONSTRAIN}json"
SEALER = Sealer(b"s")


def user(text: str) -> Message:
    return Message(Role.USER, text)


def said(text: str, channel: str) -> Message:
    return Message(Role.ASSISTANT, text, channel=channel)


def call(name: str, text: str, content_type: str = JSON) -> Message:
    return Message(Role.ASSISTANT, text, None, "commentary", name, content_type)


def result(name: str, text: str) -> Message:
    return Message(Role.TOOL, text, name, "commentary", "assistant")


def opened(sealed: str) -> str:
    with suppress(SealError):
        return SEALER.open(sealed)
    return ""


def read(given: Any, thoughts: Callable[[str], tuple[Message, ...]] = lambda id: ()) -> Reader:
    reader = Reader(opened, thoughts)
    reader.read(wire_items(given, lambda id: None))
    return reader


def messages(given: Any, **more: Any) -> list[Message]:
    return read(given, **more).messages


def refused(given: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(given)
    assert caught.value.status == 400
    return caught.value


CALLED = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "1"}


def test_a_string() -> None:
    assert messages("hello") == [user("hello")]


@pytest.mark.parametrize(
    "content",
    ["hello", [{"type": "input_text", "text": "hel"}, {"type": "text", "text": "lo"}], ["hello"]],
)
def test_content_in_every_form(content: Any) -> None:
    assert messages([{"role": "user", "content": content}]) == [user("hello")]
    assert messages([{"type": "message", "role": "user", "content": content, "id": "msg_1"}]) == [
        user("hello")
    ]


def test_roles_of_instruction() -> None:
    reader = read(
        [
            {"role": "system", "content": "A"},
            {"role": "developer", "content": "B"},
            {"role": "user", "content": "C"},
            {"role": "developer", "content": "D"},
        ]
    )
    assert reader.leading == ["A", "B"]
    assert reader.messages == [user("C"), Message(Role.DEVELOPER, DeveloperContent("D"))]


def test_phases_of_what_was_said() -> None:
    text = {"type": "output_text", "text": "x"}
    given = [
        {"role": "assistant", "content": [text], "phase": "commentary"},
        {"role": "assistant", "content": [text], "phase": "final_answer"},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": "a preamble, though nothing says so"},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "t"}], "summary": []},
        CALLED,
        RESULT,
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ]
    channels = [message.channel for message in messages(given) if message.role is Role.ASSISTANT]
    assert channels == ["commentary", "final", "commentary", "analysis", "commentary", "final"]


def test_calls_and_results() -> None:
    given = [
        CALLED | {"namespace": "team"},
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "text"},
        {
            "type": "custom_tool_call_output",
            "call_id": "d",
            "output": [{"type": "input_text", "text": "2"}],
        },
        RESULT,
        {"type": "function_call_output", "call_id": "gone", "name": "h", "output": "3"},
    ]
    assert messages(given) == [
        call("team.f", "{}"),
        call("functions.g", "text", "code"),
        result("functions.g", "2"),
        result("team.f", "1"),
        result("functions.h", "3"),
    ]


def test_a_result_that_is_no_text_is_explained_to_the_model() -> None:
    parts = [{"type": "input_text", "text": "see:"}, {"type": "input_image", "image_url": "data:"}]
    (_, told) = messages([CALLED, RESULT | {"output": parts}])
    assert told.text == f"see:\n{UNREADABLE.format('input_image')}"


def test_a_call_that_was_cut_off_is_left_out() -> None:
    assert messages([CALLED | {"status": "incomplete"}, {"role": "user", "content": "again"}]) == [
        user("again")
    ]


def test_reasoning_in_plain_sealed_or_neither() -> None:
    plain = {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "t"}],
    }
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": SEALER.seal("t")}
    assert messages([plain]) == messages([sealed]) == [said("t", "analysis")]
    assert messages([plain | {"encrypted_content": "tampered"}]) == [said("t", "analysis")]
    assert (
        messages([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]}]) == []
    )
    assert messages([sealed | {"encrypted_content": "tampered"}]) == []


REMEMBERED = (said("why", "analysis"), said("I look.", "commentary"))


def remembered(id: str) -> tuple[Message, ...]:
    return REMEMBERED if id == "c" else ()


def test_reasoning_that_the_client_dropped_is_put_back() -> None:
    """With the preamble that the client kept, not beside it."""
    for kept in ([], [{"role": "assistant", "content": "I look."}]):
        given = [{"role": "user", "content": "x"}, *kept, CALLED, RESULT]
        assert messages(given, thoughts=remembered)[1:4] == [*REMEMBERED, call("functions.f", "{}")]


def test_reasoning_that_the_client_kept_is_not_doubled() -> None:
    kept = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "mine"}]}
    second = CALLED | {"call_id": "c2"}
    given = [{"role": "user", "content": "x"}, kept, CALLED, second, RESULT]
    found = messages(given, thoughts=remembered)
    assert [m.channel for m in found][1:3] == ["analysis", "commentary"] and found[1].text == "mine"


def test_searches_are_put_back_with_what_they_found() -> None:
    search = {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search"},
    }
    kept = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "why"}]}
    found = (
        said("why", "analysis"),
        Message(Role.ASSISTANT, "{}", None, "analysis", "browser.search", "code"),
        Message(Role.TOOL, "page", "browser.search", "analysis", "assistant"),
    )
    given = [{"role": "user", "content": "x"}, kept, search, CALLED, RESULT]
    assert messages(given, thoughts=lambda id: found)[1:4] == list(found)
    assert messages(given)[1:3] == [said("why", "analysis"), call("functions.f", "{}")]
    code = {
        "type": "code_interpreter_call",
        "code": "1",
        "outputs": [{"type": "logs", "logs": "1"}],
    }
    given.insert(3, code)
    assert messages(given, thoughts=lambda id: found)[1:4] == list(found)


def test_code_that_the_server_ran() -> None:
    code = {
        "type": "code_interpreter_call",
        "code": "1 + 1",
        "outputs": [{"type": "logs", "logs": "2"}],
    }
    assert messages([code]) == [
        Message(Role.ASSISTANT, "1 + 1", None, "analysis", "python", "code"),
        Message(Role.TOOL, "2", "python", "analysis", "assistant"),
    ]
    assert messages([code | {"outputs": None}]) == []


def test_references_and_ids() -> None:
    known = {"id": "msg_9", "type": "message", "role": "user", "content": "known"}
    other = known | {"id": "msg_7"}
    find = {"msg_9": known, "msg_7": other}.get
    given = [
        {"type": "item_reference", "id": "msg_9"},
        {"id": "msg_7"},
        {"role": "user", "content": "new"},
    ]
    items = wire_items(given, find)
    assert items[:2] == [known, other]
    assert items[2]["id"].startswith("msg_") and items[2]["content"] == [
        {"type": "input_text", "text": "new"}
    ]
    with pytest.raises(ApiError, match="names 'msg_8'"):
        wire_items([{"type": "item_reference", "id": "msg_8"}], find)


IMAGE = {"type": "input_image", "image_url": "data:"}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (3, "input"),
        ([3], "input[0]"),
        ([{"type": "dream"}], "input[0]"),
        ([{"type": ["message"]}], "input[0].type"),
        ([{}], "input[0]"),
        ([{"role": "king", "content": "x"}], "input[0].role"),
        ([{"role": ["user"], "content": "x"}], "input[0].role"),
        ([{"role": "user"}], "input[0].content"),
        ([{"role": "user", "content": [IMAGE]}], "input[0].content[0]"),
        (
            [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}],
            "input[0].content[0]",
        ),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text"),
        ([{"role": "user", "content": [7]}], "input[0].content[0]"),
        ([CALLED | {"name": ""}], "input[0].name"),
        ([CALLED | {"arguments": {}}], "input[0].arguments"),
        ([CALLED | {"call_id": 1}], "input[0].call_id"),
        ([RESULT], "input[0].call_id"),
        ([RESULT | {"call_id": ["c"]}], "input[0].call_id"),
        ([CALLED, RESULT | {"output": None}], "input[1].output"),
        ([CALLED, RESULT | {"output": [{"text": "x"}]}], "input[1].output[0]"),
        ([{"type": "reasoning", "content": 3}], "input[0].content"),
        ([{"type": "item_reference", "id": "x"}], "input[0]"),
    ],
)
def test_what_cannot_be_read_is_named(given: Any, param: str) -> None:
    error = refused(given)
    assert error.param == param and error.param in error.message


def test_what_truncation_may_leave_out() -> None:
    given = [
        {"role": "developer", "content": "rules"},
        {"role": "user", "content": "1"},
        CALLED,
        {"role": "user", "content": "2"},
        RESULT,
        {"role": "user", "content": "3"},
    ]
    items = wire_items(given, lambda id: None)
    assert droppable(items) == [1, 2, 3, 4]
    assert without_first(items, 0) == items
    assert without_first(items, 1) == [items[0], *items[2:]]
    # the result goes with its call
    assert without_first(items, 2) == [
        items[0],
        items[3],
        items[5],
    ]
    assert without_first(items, 4) == [items[0], items[5]]


def test_items_are_kept_with_the_id_and_the_status_that_lists_of_them_must_have() -> None:
    kept = wire_items(
        [CALLED, RESULT | {"status": None}, {"role": "user", "content": "x"}], lambda id: None
    )
    assert [item["status"] for item in kept] == ["completed"] * 3
    assert [item["id"].split("_")[0] for item in kept] == ["fc", "fco", "msg"]


def test_an_item_is_referred_to_once() -> None:
    """A few bytes for each time would else be any number of long texts."""
    refer = {"type": "item_reference", "id": "msg_1"}
    stored = {"id": "msg_1", "type": "message", "role": "user", "content": "long"}
    for given in ([refer, refer], [stored, refer, refer]):
        with pytest.raises(ApiError, match="can be referred to once"):
            wire_items(given, lambda id: dict(stored))
    assert len(wire_items([stored, refer], lambda id: None)) == 2
