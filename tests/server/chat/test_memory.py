"""Reasoning between calls: whatever a client sends back of it, the model sees what it thought."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from ossia.harmony import Message, Role
from ossia.server import Settings
from ossia.server.chat.messages import harmony_messages
from ossia.server.chat.routes import reasoning_before_calls
from ossia.server.settings import ApiKey
from ossia.server.store.sqlite import Sqlite
from ossia.server.store.store import Store
from ossia.server.store.thoughts import LASTS, Thoughts
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


def thought(text: str) -> Message:
    return Message(Role.ASSISTANT, text, channel="analysis")


async def test_what_is_remembered_takes_only_so_much_memory() -> None:
    store = Store(Sqlite(None), 1e6, 20_000)
    kept = Thoughts(store)
    calls = [f"call_{n}" for n in range(20)]
    texts = {call: os.urandom(1000).hex() for call in calls}
    for call in calls:
        await kept.remember("a", call, [thought(texts[call])])
    await kept.remember("a", "call_19", [thought("y \ud800")])  # again
    known = await kept.before("a", calls)
    assert list(known) == calls[-len(known) :] and 4 < len(known) < 10
    assert known["call_19"] == (thought("y \ud800"),)
    assert known["call_18"] == (thought(texts["call_18"]),)
    await kept.remember("a", "call_20", [thought(os.urandom(9000).hex())])
    assert not await kept.before("a", ["call_20"])  # more than all that is kept
    assert await kept.before("a", ["call_19"])
    await store.close()


async def test_what_is_remembered_is_its_callers_for_an_hour() -> None:
    now = [1e9]
    store = Store(Sqlite(None), 1e6, 1 << 20, clock=lambda: now[0])
    kept = Thoughts(store)
    asked = ["call_1", "\ud800\0", *(f"other_{n}" for n in range(1200)), "call_1"]
    for owner in ("a", "b"):
        for call in asked[:2]:
            await kept.remember(owner, call, [thought(f"{owner} {call!r}")])
    for owner in ("a", "b"):
        known = await kept.before(owner, asked)
        assert known == {call: (thought(f"{owner} {call!r}"),) for call in asked[:2]}
    assert not await kept.before("c", asked) and not await kept.before("a", [])
    now[0] += LASTS
    assert not await kept.before("a", asked)
    await kept.remember("a", "call_2", [thought("x")])
    async with store.session() as db:
        assert await db.one("SELECT count(*) FROM thought") == (1,), "the others are gone"
    await store.close()
