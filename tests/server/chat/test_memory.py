"""Reasoning between calls: whatever a client sends back of it, the model sees what it thought."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ossia.harmony import Message, Role
from ossia.server import Settings, service
from ossia.server.access import Caller
from ossia.server.chat.messages import harmony_messages
from ossia.server.chat.routes import reasoning_before_calls
from ossia.server.settings import ApiKey
from ossia.turn.events import ToolCallItem

pytestmark = pytest.mark.anyio
PATH = "/v1/chat/completions"
USER = {"role": "user", "content": "Weather?"}
TOOLS = [
    {"type": "function", "function": {"name": "weather"}},
    {"type": "custom", "custom": {"name": "note"}},
]
THOUGHT = "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant"
MORE = "<|channel|>analysis<|message|>Rome it is.<|end|><|start|>assistant"
PREAMBLE = "<|channel|>commentary<|message|>I look it up.<|end|><|start|>assistant"
CALL = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{}<|call|>"
NOTE = "<|channel|>commentary to=functions.note code<|message|>milk<|call|>"
FINAL = "<|channel|>final<|message|>Fine.<|return|>"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def ask(client: Any, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"messages": [USER, *messages], "tools": TOOLS} | more
    response = await client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    return dict(response.json()["choices"][0]["message"])


def result_of(message: dict[str, Any]) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "done"}


def shown(client: Any, tokenizer: Any) -> str:
    """What the last prompt has behind the first one."""
    first, last = client.engine.submitted[0], client.engine.submitted[-1]
    assert last[: len(first)] == first
    return str(tokenizer.decode(last[len(first) :]))


@pytest.mark.parametrize("call", [CALL, NOTE])
@pytest.mark.parametrize(
    ("dropped", "more"),
    [
        ((), {}),
        (("reasoning",), {}),
        (("reasoning_content",), {}),
        (("reasoning", "reasoning_content"), {}),
        (("reasoning", "reasoning_content", "content"), {}),
        ((), {"include_reasoning": False}),
    ],
)
async def test_the_prompt_goes_on_as_the_answer_was(
    client_for: Callable[..., Any],
    tokenizer: Any,
    call: str,
    dropped: tuple[str, ...],
    more: dict[str, Any],
) -> None:
    async with client_for(THOUGHT + MORE + PREAMBLE + call, FINAL) as client:
        message = await ask(client, **more)
        sent = {key: value for key, value in message.items() if key not in dropped}
        await ask(client, sent, result_of(message))
        assert shown(client, tokenizer).startswith(THOUGHT + MORE + PREAMBLE + call)


async def test_what_a_client_has_changed_is_its_own_to_say(
    client_for: Callable[..., Any], tokenizer: Any
) -> None:
    async with client_for(THOUGHT + PREAMBLE + CALL, FINAL) as client:
        message = await ask(client)
        changed = message | {"content": "I ask a friend."}
        await ask(client, changed, result_of(message))
        own_words = shown(client, tokenizer)
        changed |= {"reasoning": "Hm.", "reasoning_content": "Hm."}
        await ask(client, changed, result_of(message))
        own_thoughts = shown(client, tokenizer)
        changed |= {"reasoning": None, "reasoning_content": None}
        await ask(client, changed, result_of(message))
        no_thoughts = shown(client, tokenizer)
    said = PREAMBLE.replace("I look it up.", "I ask a friend.")
    assert own_words.startswith(THOUGHT + said + CALL) and no_thoughts.startswith(
        THOUGHT + said + CALL
    )
    assert own_thoughts.startswith(THOUGHT.replace("Let me see.", "Hm.") + said + CALL)


async def test_a_stream_is_remembered_too(client_for: Callable[..., Any], tokenizer: Any) -> None:
    async with client_for(THOUGHT + CALL, FINAL) as client:
        response = await client.post(
            PATH, json={"messages": [USER], "tools": TOOLS, "stream": True}
        )
        id = response.text.partition('"id":"call_')[2].partition('"')[0]
        call = {
            "id": f"call_{id}",
            "type": "function",
            "function": {"name": "weather", "arguments": "{}"},
        }
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        await ask(client, message, result_of(message))
        assert shown(client, tokenizer).startswith(THOUGHT + CALL)


async def test_one_keys_thoughts_are_not_anothers(
    client_for: Callable[..., Any], tokenizer: Any
) -> None:
    import hashlib

    keys = tuple(ApiKey(name, hashlib.sha256(name.encode()).hexdigest()) for name in ("ann", "bob"))
    async with client_for(
        THOUGHT + CALL, FINAL, settings=Settings(model_name="nano", keys=keys)
    ) as client:
        client.headers["Authorization"] = "Bearer ann"
        message = await ask(client)
        sent = {key: value for key, value in message.items() if "reasoning" not in key}
        client.headers["Authorization"] = "Bearer bob"
        await ask(client, sent, result_of(message))
        assert "Let me see." not in shown(client, tokenizer)
        client.headers["Authorization"] = "Bearer ann"
        await ask(client, sent, result_of(message))
        assert "Let me see." in shown(client, tokenizer)


async def test_thoughts_go_with_the_turn_that_is_answered(
    client_for: Callable[..., Any], tokenizer: Any
) -> None:
    async with client_for(THOUGHT + CALL, FINAL) as client:
        message = await ask(client)
        sent = {key: value for key, value in message.items() if "reasoning" not in key}
        await ask(client, sent, result_of(message), {"role": "assistant", "content": "Fine."}, USER)
        assert "Let me see." not in shown(client, tokenizer)


def test_each_call_has_what_led_to_it() -> None:
    def said(text: str, channel: str = "analysis", recipient: str | None = None) -> Message:
        return Message(Role.ASSISTANT, text, channel=channel, recipient=recipient)

    one, two = (
        ToolCallItem(f"fc_{n}", f"call_{n}", "function", "weather", text=text)
        for n, text in ((1, "{}"), (2, "[]"))
    )
    first, second = said("a"), said("b")
    calls = [said(call.text, "commentary", "functions.weather") for call in (one, two)]
    mistake = [
        said("{", "commentary", "functions.weather"),
        Message(Role.TOOL, "error", "functions.weather"),
    ]
    found = reasoning_before_calls([one, two], [*mistake, first, calls[0], second, calls[1]])
    assert found == [(one, [*mistake, first]), (two, [second])]


def test_thoughts_between_calls_of_one_message() -> None:
    known = {n: (Message(Role.ASSISTANT, n, channel="analysis"),) for n in ("c1", "c2")}
    calls = [
        {"id": n, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for n in ("c1", "c2", "c3")
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    _, messages = harmony_messages([message], lambda id: known.get(id, ()))
    assert [m.text for m in messages] == ["c1", "{}", "c2", "{}", "{}"]


async def test_what_is_remembered_takes_only_so_much_memory(
    client_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "REASONING_KEPT", 10_000)
    async with client_for(FINAL) as client:
        kept, caller = client.app.state.service, Caller("a")
        for n in range(20):
            kept.remember_thoughts(
                caller, [f"call_{n}"], [Message(Role.ASSISTANT, "x" * 1000, channel="analysis")]
            )
        # again
        kept.remember_thoughts(
            caller, ["call_19"], [Message(Role.ASSISTANT, "y", channel="analysis")]
        )
        known = [n for n in range(20) if kept.thoughts_before(caller, f"call_{n}")]
        assert (
            known == list(range(14, 20)) and kept.thoughts_before(caller, "call_19")[0].text == "y"
        )
        kept.remember_thoughts(
            caller, ["call_20"], [Message(Role.ASSISTANT, "x" * 20_000, channel="analysis")]
        )
        assert not kept.thoughts_before(caller, "call_20")  # more than all that is kept
        kept.remember_thoughts(
            caller, ["call_21"], [Message(Role.ASSISTANT, "x", channel="analysis")]
        )
        assert kept.thoughts_before(caller, "call_21")
