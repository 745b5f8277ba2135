"""Anthropic's own client against the server: messages, streams, tools, structured output, errors;
and nano for real.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ossia.engine.request import SamplingParams
from ossia.llm import LLM
from ossia.server import Settings, create_app

THOUGHT = "<|channel|>analysis<|message|>Let me think.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>Hello there<|return|>"
CALL = (
    '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": '
    '"Rome"}<|call|>'
)
WEATHER: dict[str, Any] = {
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


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def library() -> Any:
    """Imported in two seconds, and so only where these tests run."""
    return pytest.importorskip("anthropic")


@asynccontextmanager
async def speaking_to(app: Any) -> AsyncIterator[Any]:
    """The client, without a network."""
    anthropic = library()
    httpx2 = pytest.importorskip("httpx2")  # what it speaks HTTP with
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))
    async with anthropic.AsyncAnthropic(
        base_url="http://server", api_key="none", http_client=http, max_retries=0
    ) as client:
        yield client


@pytest.mark.anyio
async def test_create(client_for: Callable[..., Any]) -> None:
    async with client_for(THOUGHT + FINAL) as server, speaking_to(server.app) as client:
        message = await client.messages.create(**ASK)
        assert message.content[0].text == "Hello there" and message.stop_reason == "end_turn"
        assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0
        counted = await client.messages.count_tokens(model="nano", messages=ASK["messages"])
        assert counted.input_tokens == message.usage.input_tokens
        thinking = await client.messages.create(
            **ASK, thinking={"type": "enabled", "budget_tokens": 100}
        )
        assert [block.type for block in thinking.content] == ["thinking", "text"]


@pytest.mark.anyio
async def test_stream_helper(client_for: Callable[..., Any]) -> None:
    async with client_for(THOUGHT + FINAL) as server, speaking_to(server.app) as client:
        async with client.messages.stream(**ASK, thinking={"type": "adaptive"}) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_message()
        assert {"thinking", "signature", "text", "message_stop"} <= {*kinds}
        thought, text = final.content
        assert (thought.thinking, text.text, final.stop_reason) == (
            "Let me think.",
            "Hello there",
            "end_turn",
        )
        assert thought.signature
        whole = await client.messages.create(**ASK, thinking={"type": "adaptive"})
        assert final.usage == whole.usage
        async with client.messages.stream(**ASK) as stream:
            assert "".join([piece async for piece in stream.text_stream]) == "Hello there"


@pytest.mark.anyio
async def test_a_tool_and_its_result(client_for: Callable[..., Any]) -> None:
    for streamed in (False, True):
        async with client_for(THOUGHT + CALL, FINAL) as server, speaking_to(server.app) as client:
            wishes = {
                **ASK,
                "tools": [WEATHER],
                "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            }
            if streamed:
                async with client.messages.stream(**wishes) as stream:
                    called = await stream.get_final_message()
            else:
                called = await client.messages.create(**wishes)
            assert called.stop_reason == "tool_use"
            (use,) = called.content
            assert (use.type, use.name, use.input) == ("tool_use", "weather", {"city": "Rome"})
            result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
            turns = [*ASK["messages"], {"role": "assistant", "content": called.content}]
            turns.append({"role": "user", "content": [result]})
            answered = await client.messages.create(**{**wishes, "messages": turns})
            assert answered.content[0].text == "Hello there"


@pytest.mark.anyio
async def test_errors_are_the_clients_own(client_for: Callable[..., Any]) -> None:
    async with client_for(FINAL) as server, speaking_to(server.app) as client:
        image = {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
        }
        with pytest.raises(library().BadRequestError, match="text only") as refused:
            await client.messages.create(
                **{**ASK, "messages": [{"role": "user", "content": [image]}]}
            )
        assert refused.value.body["error"]["type"] == "invalid_request_error"


@pytest.mark.anyio
async def test_nano_answers_and_calls(llm: LLM) -> None:
    app = create_app(
        llm.engine,
        llm.tokenizer,
        Settings(model_name="nano", sampling=SamplingParams(temperature=0)),
    )
    async with app.router.lifespan_context(app), speaking_to(app) as client:
        wishes = {**ASK, "max_tokens": 120, "tools": [WEATHER]}
        forced = {"type": "tool", "name": "weather"}
        called = await client.messages.create(
            **wishes, tool_choice=forced, thinking={"type": "disabled"}
        )
        if called.stop_reason == "tool_use":
            assert isinstance(called.content[-1].input["city"], str)
        else:
            assert called.stop_reason == "max_tokens"
        async with client.messages.stream(
            **wishes, tool_choice=forced, thinking={"type": "disabled"}
        ) as stream:
            same = await stream.get_final_message()
        assert [(use.name, use.input) for use in same.content] == [
            (use.name, use.input) for use in called.content
        ]
        async with client.messages.stream(
            **wishes, thinking={"type": "enabled", "budget_tokens": 16}
        ) as stream:
            streamed = await stream.get_final_message()
        assert streamed.stop_reason in ("end_turn", "tool_use", "max_tokens")
        assert streamed.usage.output_tokens_details.thinking_tokens <= 16
        first = await client.messages.create(**wishes)
        again = await client.messages.create(**wishes)
        assert again.usage.cache_read_input_tokens > 0
        billed = [
            m.usage.input_tokens
            + m.usage.cache_read_input_tokens
            + m.usage.cache_creation_input_tokens
            for m in (first, again)
        ]
        assert billed[0] == billed[1]
