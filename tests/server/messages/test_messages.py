"""POST /v1/messages in-process: what a model says as Anthropic's blocks and events, and what a
request becomes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from amounts import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ossia.server import Settings
from ossia.server.messages.output import fold
from ossia.tokenizer import Tokenizer

PATH = "/v1/messages"
THOUGHT = "<|channel|>analysis<|message|>Let me think.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>Hello there<|return|>"
CALL = (
    '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": '
    '"Rome"}<|call|>'
)
WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
ASK: dict[str, Any] = {
    "model": "nano",
    "max_tokens": 200,
    "messages": [{"role": "user", "content": "Hi"}],
}
THINKING = {"thinking": {"type": "adaptive"}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def ask(client: httpx.AsyncClient, **wishes: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json={**ASK, **wishes})
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = answer.json()
    return message


async def stream(client: httpx.AsyncClient, **wishes: Any) -> list[dict[str, Any]]:
    """The events without pings; each must be named in both places."""
    answer = await client.post(PATH, json={**ASK, **wishes, "stream": True})
    assert answer.status_code == 200, answer.text
    events = []
    for part in answer.text.split("\n\n")[:-1]:
        name, data = part.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert events[1] == {"type": "ping"}
    return [event for event in events if event["type"] != "ping"]


def prompt_text(client: Any, tokenizer: Tokenizer, n: int = -1) -> str:
    return tokenizer.decode(client.engine.submitted[n])


@pytest.mark.anyio
async def test_a_message(client_for: Callable[..., Any], tokenizer: Tokenizer) -> None:
    async with client_for(THOUGHT + FINAL) as client:
        message = await ask(client, system="Be brief.")
        prompt = client.engine.submitted[0]
    assert (
        message["id"].startswith("msg_")
        and message["type"] == "message"
        and message["role"] == "assistant"
    )
    # thoughts only for those who ask
    assert message["content"] == [{"type": "text", "text": "Hello there"}]
    assert (message["stop_reason"], message["stop_sequence"], message["model"]) == (
        "end_turn",
        None,
        "nano",
    )
    usage, said = message["usage"], tokenizer.encode_with_specials(THOUGHT + FINAL)
    assert (usage["input_tokens"], usage["output_tokens"]) == (len(prompt), len(said))
    assert usage["cache_read_input_tokens"] == usage["cache_creation_input_tokens"] == 0
    assert usage["output_tokens_details"]["thinking_tokens"] > 2
    text = tokenizer.decode(prompt)
    assert "# Instructions\n\nBe brief." in text and text.endswith(
        "<|start|>user<|message|>Hi<|end|><|start|>assistant"
    )


@pytest.mark.anyio
async def test_thoughts_are_shown_with_a_signature_that_brings_them_back(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    async with client_for(THOUGHT + CALL, FINAL, settings=Settings(secret=b"s")) as client:
        for display in ("summarized", "omitted"):
            wish = {"type": "enabled", "budget_tokens": 100, "display": display}
            client.engine.submitted.clear()
            message = await ask(client, thinking=wish, tools=[WEATHER])
            thought, call = message["content"]
            assert thought["thinking"] == ("Let me think." if display == "summarized" else "")
            assert call["type"] == "tool_use" and call["id"].startswith("toolu_")
            assert (call["name"], call["input"]) == ("weather", {"city": "Rome"})
            assert message["stop_reason"] == "tool_use"
            result = {"type": "tool_result", "tool_use_id": call["id"], "content": "sunny"}
            turns = [
                *ASK["messages"], {"role": "assistant", "content": message["content"]},
                {"role": "user", "content": [result]},
            ]  # fmt: skip
            for blocks in (
                message["content"],
                [{"type": "redacted_thinking", "data": thought["signature"]}, call],
            ):
                turns[1]["content"] = blocks
                await ask(client, messages=turns, tools=[WEATHER])
                text = prompt_text(client, tokenizer)
                assert "<|channel|>analysis<|message|>Let me think.<|end|>" in text
                assert '<|message|>{"city": "Rome"}<|call|><|start|>functions.weather' in text
                assert "sunny<|end|><|start|>assistant" in text


@pytest.mark.anyio
async def test_thoughts_that_the_client_drops_are_put_back(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    async with client_for(THOUGHT + CALL, FINAL) as client:
        message = await ask(client, tools=[WEATHER])
        assert [block["type"] for block in message["content"]] == ["tool_use"]
        id = message["content"][0]["id"]
        result = {
            "type": "tool_result",
            "tool_use_id": id,
            "is_error": True,
            "content": [{"type": "text", "text": "no"}],
        }
        turns = [
            *ASK["messages"],
            {"role": "assistant", "content": message["content"]},
            {"role": "user", "content": [result]},
        ]
        await ask(client, messages=turns, tools=[WEATHER])
        text = prompt_text(client, tokenizer)
        assert (
            text.count("<|channel|>analysis<|message|>Let me think.<|end|>") == 1
            and "error: no<|end|>" in text
        )
        # A thought of another server's cannot be opened; it is left out, and ours comes not back
        # instead of it.
        turns[1]["content"] = [{"type": "redacted_thinking", "data": "xyz"}, *message["content"]]
        await ask(client, messages=turns, tools=[WEATHER])
        assert "Let me think" not in prompt_text(client, tokenizer)


@pytest.mark.anyio
async def test_a_preamble_is_text_before_a_call_and_comes_back_as_one(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    said = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant" + CALL
    async with client_for(said, FINAL) as client:
        message = await ask(client, tools=[WEATHER])
        assert [block["type"] for block in message["content"]] == ["text", "tool_use"]
        result = {
            "type": "tool_result",
            "tool_use_id": message["content"][1]["id"],
            "content": "sunny",
        }
        turns = [
            *ASK["messages"], {"role": "assistant", "content": message["content"]},
            {"role": "user", "content": [result, {"type": "text", "text": "go"},
                {"type": "text", "text": "on"}]},
        ]  # fmt: skip
        await ask(client, messages=turns, tools=[WEATHER])
    assert "<|channel|>commentary<|message|>I look.<|end|>" in prompt_text(client, tokenizer)
    assert "<|start|>user<|message|>go\n\non<|end|>" in prompt_text(client, tokenizer)


@pytest.mark.anyio
async def test_why_a_message_stops(client_for: Callable[..., Any]) -> None:
    async with client_for(FINAL) as client:
        stopped = await ask(client, stop_sequences=["there", "zzz"])
        assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "there")
        assert stopped["content"] == [{"type": "text", "text": "Hello "}]
        cut = await ask(client, max_tokens=5)
        assert cut["stop_reason"] == "max_tokens" and cut["usage"]["output_tokens"] == 5
    async with client_for(CALL) as client:
        cut = await ask(client, tools=[WEATHER], max_tokens=12)
        assert cut["stop_reason"] == "max_tokens"
        assert all(isinstance(block["input"], dict) for block in cut["content"])
    async with client_for("<|channel|>final<|message|>He") as client:  # the engine's own limit
        assert (await ask(client))["stop_reason"] == "model_context_window_exceeded"


@pytest.mark.anyio
async def test_a_call_that_is_no_json_is_given_to_the_client_as_text(
    client_for: Callable[..., Any],
) -> None:
    broken = CALL.replace('{"city": "Rome"}', '{"city": Rome}')
    async with client_for(broken, settings=Settings(retries=0)) as client:
        message = await ask(client, tools=[WEATHER])
        events = await stream(client, tools=[WEATHER])
    assert message["content"][0]["input"] == {"INVALID_JSON": '{"city": Rome}'}
    deltas = [
        event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"
    ]
    assert json.loads("".join(deltas)) == {"INVALID_JSON": '{"city": Rome}'}


@pytest.mark.anyio
async def test_the_order_of_events(client_for: Callable[..., Any]) -> None:
    async with client_for(THOUGHT + CALL) as client:
        events = await stream(client, tools=[WEATHER], **THINKING)
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert (
        events[0]["message"]["usage"]["input_tokens"] > 0 and events[0]["message"]["content"] == []
    )
    blocks: dict[int, list[str]] = {}
    for event in events[1:-2]:
        blocks.setdefault(event["index"], []).append(event.get("delta", event)["type"])
    assert [*blocks] == [0, 1]
    assert blocks[0][0] == blocks[1][0] == "content_block_start"
    assert blocks[0][-2:] == ["signature_delta", "content_block_stop"]
    assert {*blocks[0][1:-2]} == {"thinking_delta"} and {*blocks[1][1:-1]} == {"input_json_delta"}


@pytest.mark.anyio
async def test_choices_and_efforts(client_for: Callable[..., Any], tokenizer: Tokenizer) -> None:
    async with client_for(FINAL) as client:
        for choice in ({"type": "auto", "disable_parallel_tool_use": True}, {"type": "any"},
            {"type": "none"},
                       {"type": "tool", "name": "weather"}):  # fmt: skip
            await ask(client, tools=[WEATHER], tool_choice=choice)
        for wishes, level in (
            ({"output_config": {"effort": "high"}}, "high"),
            ({"output_config": {"effort": "max"}}, "high"),
            ({}, "medium"), ({"thinking": {"type": "disabled"}}, "low"),
        ):  # fmt: skip
            await ask(client, **wishes)
            assert f"Reasoning: {level}" in prompt_text(client, tokenizer)
        schema = {"type": "object", "properties": {"unusual": {"type": "integer"}}}
        await ask(client, output_config={"format": {"type": "json_schema", "schema": schema}})
        assert "unusual" in prompt_text(client, tokenizer)


@pytest.mark.anyio
async def test_the_system_prompt_as_blocks_and_among_the_messages(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    blocks = [
        {"type": "text", "text": "One."},
        {"type": "text", "text": "Two.", "cache_control": {"type": "ephemeral"}},
    ]
    turns = [
        *ASK["messages"],
        {"role": "system", "content": "Three."},
        {"role": "user", "content": "So?"},
    ]
    async with client_for(FINAL) as client:
        await ask(client, system=blocks, messages=turns)
        text = prompt_text(client, tokenizer)
    assert "# Instructions\n\nOne.\n\nTwo." in text
    assert text.index("Hi<|end|>") < text.index("Three.<|end|>") < text.index("So?<|end|>")


IMAGE = {"type": "image", "source": {"type": "url", "url": "http://x"}}
TOOL_USE = {"type": "tool_use", "id": "t", "name": "weather", "input": {}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"), ({"messages": [{"role": "user"}]}, "content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
        "messages[0].content[0] has no data"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [TOOL_USE]}]}, "tool_use"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]},
        "no tool_use"),
    ({"messages": [*ASK["messages"], {"role": "assistant", "content": "I"}]}, "last message"),
    ({"messages": [*ASK["messages"], {"role": "assistant", "content": [{**TOOL_USE, "input": 3}]}]},
        "input"),
    ({"messages": [*ASK["messages"], {"role": "assistant", "content": [{"type": "thinking"}]}]},
        "thinking"),
    ({"system": [IMAGE]}, "system[0]"), ({"system": 4}, "system"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": None}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 7}, "top_p"), ({"top_k": -2}, "top_k"), ({"stop_sequences": [""]}, "stop"),
    ({"stop_sequences": "x"}, "stop"),
    ({"tools": [{"name": "x"}]}, "tools[0]"), ({"tools": [{**WEATHER, "name": "a b"}]},
        "tools[0].name"),
    ({"tools": [WEATHER, WEATHER]}, "tools[1]"),
    ({"tools": [{**WEATHER, "strict": True, "input_schema": {"type": "array"}}]}, "object"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "other"),
    ({"tool_choice": {"type": "any"}}, "no tools"),
    ({"tools": [WEATHER], "tool_choice": {"type": "some"}}, "tool_choice"),
    ({"thinking": {"type": "enabled"}}, "budget_tokens"),
    ({"thinking": {"type": "sometimes"}}, "thinking"),
    ({"output_config": {"effort": "huge"}}, "huge"),
    ({"output_config": {"format": {"type": "xml"}}}, "json_schema"),
    ({"mcp_servers": [{"type": "url", "url": "x", "name": "y"}]}, "mcp_servers"),
]  # fmt: skip


@pytest.mark.anyio
async def test_what_cannot_be_done_is_refused_in_the_apis_own_form(
    client_for: Callable[..., Any],
) -> None:
    async with client_for(FINAL) as client:
        for wish, word in REFUSED:
            for streamed in ({}, {"stream": True}):
                answer = await client.post(PATH, json={**ASK, **streamed, **wish})
                assert answer.status_code == 400, (wish, answer.text)
                told = answer.json()
                assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
                assert word in told["error"]["message"], told
        assert client.engine.submitted == []
        harmless = {
            "metadata": {"user_id": "u"},
            "service_tier": "auto",
            "nonsense": 1,
            "inference_geo": None,
        }
        await ask(client, **harmless)
    async with client_for(
        FINAL, settings=Settings(model_name="nano", strict_model_names=True)
    ) as client:
        answer = await client.post(PATH, json={**ASK, "model": "other"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")


@pytest.mark.anyio
async def test_counted_tokens_are_those_that_are_billed(client_for: Callable[..., Any]) -> None:
    wishes = {
        "system": "Be brief.",
        "tools": [WEATHER],
        "messages": ASK["messages"],
        "model": "nano",
    }
    async with client_for(FINAL) as client:
        counted = await client.post(f"{PATH}/count_tokens", json=wishes)
        assert counted.status_code == 200
        assert client.engine.submitted == []
        assert counted.json() == {
            "input_tokens": (await ask(client, **wishes))["usage"]["input_tokens"]
        }
        refused = await client.post(f"{PATH}/count_tokens", json={"messages": "x"})
        assert (refused.status_code, refused.json()["type"]) == (400, "error")


@pytest.mark.anyio
async def test_a_failure_within_a_stream_is_an_error_event(client_for: Callable[..., Any]) -> None:
    async with client_for(FINAL) as client:
        engine, steps = client.engine, iter(range(3))
        step = engine.step

        def failing() -> Any:
            if next(steps, None) is None:
                time.sleep(0.5)  # before the stream has begun it would be a plain error
                raise RuntimeError("the device is gone")
            return step()

        engine.step = failing
        answer = await client.post(PATH, json={**ASK, "stream": True})
        parts = [part.split("\n") for part in answer.text.split("\n\n")[:-1]]
        assert parts[0][0] == "event: message_start" and parts[-1][0] == "event: error"
        told = json.loads(parts[-1][1].removeprefix("data: "))
        assert (told["type"], told["error"]["type"]) == ("error", "overloaded_error")


def without_names(message: Any) -> Any:
    """Without what is new in every answer."""
    if isinstance(message, dict):
        return {
            key: without_names(value)
            for key, value in message.items()
            if key not in ("id", "signature")
        }
    return [*map(without_names, message)] if isinstance(message, list) else message


PARTS = st.sampled_from([
    THOUGHT, FINAL, CALL, "<|channel|>commentary<|message|>Soon.<|end|><|start|>assistant",
    "<|start|>", "<|end|>",
    "<|channel|>", "analysis", "<|message|>", "final", "word", '{"city": "R', "<|call|>",
    "to=functions.weather", "é",
    CALL.replace("weather", "wether"), CALL.replace("}", ""), "<|constrain|>json",
])  # fmt: skip


@given(
    parts=st.lists(PARTS, min_size=1, max_size=8),
    limit=st.integers(1, 60),
    wish=st.sampled_from([{}, THINKING]),
)
@settings(
    max_examples=examples(80),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_message_is_the_fold_of_the_stream(
    parts: list[str],
    limit: int,
    wish: dict[str, Any],
    client_for: Callable[..., Any],
    tokenizer: Tokenizer,
) -> None:
    async def check() -> None:
        wishes = {"max_tokens": limit, "tools": [WEATHER], "stop_sequences": ["there"], **wish}
        async with client_for("".join(parts)) as client:
            events, whole = await stream(client, **wishes), await ask(client, **wishes)
        assert without_names(fold(events)) == without_names(whole)
        assert whole["stop_reason"] in (
            "end_turn",
            "max_tokens",
            "stop_sequence",
            "tool_use",
            "model_context_window_exceeded",
        )
        for block in whole["content"]:
            text = block.get("text", "") + block.get("name", "")
            assert not any(name in text for name in tokenizer.specials), whole
            assert block["type"] != "tool_use" or block["name"] == "weather"

    anyio.run(check)
