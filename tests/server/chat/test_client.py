"""The openai client against Chat Completions: what it sends, streams and parses; a scripted model,
and nano.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from ossia.llm import LLM
from ossia.server import Settings, create_app

pytestmark = pytest.mark.anyio
USER: Any = [{"role": "user", "content": "What is the weather in Rome?"}]
THOUGHT = "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant"
PREAMBLE = "<|channel|>commentary<|message|>I look it up.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>It is sunny.<|return|>"
CALL = (
    '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city":"Rome"}<|call|>'
)
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": SCHEMA, "strict": True},
}


class Place(BaseModel):
    city: str
    sunny: bool


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def openai_of(client: httpx.AsyncClient) -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url="http://server/v1", api_key="none", http_client=client, max_retries=0
    )


@pytest.fixture
def model_says(client_for: Callable[..., Any]) -> Callable[..., Any]:
    @asynccontextmanager
    async def made(*texts: str, **more: Any) -> AsyncIterator[AsyncOpenAI]:
        async with client_for(*texts, **more) as client:
            api = openai_of(client)
            api.engine = client.engine  # type: ignore[attr-defined]
            yield api

    return made


async def test_create(model_says: Callable[..., Any]) -> None:
    async with model_says(THOUGHT + FINAL) as api:
        answer = await api.chat.completions.create(model="nano", messages=USER)
    message = answer.choices[0].message
    assert (
        message.content == "It is sunny."
        and message.reasoning_content == message.reasoning == "Let me see."
    )
    assert answer.usage is not None and answer.usage.completion_tokens_details.reasoning_tokens > 0


async def test_a_stream(model_says: Callable[..., Any]) -> None:
    async with model_says(THOUGHT + FINAL) as api:
        stream = await api.chat.completions.create(
            model="nano", messages=USER, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "It is sunny."
    assert chunks[-1].usage.total_tokens > 0 and not chunks[-1].choices


async def test_the_stream_helper_adds_up_to_the_body(model_says: Callable[..., Any]) -> None:
    wishes: Any = {
        "model": "nano",
        "messages": USER,
        "tools": [WEATHER],
        "logprobs": True,
        "top_logprobs": 1,
    }
    async with model_says(THOUGHT + PREAMBLE + CALL) as api:
        async with api.chat.completions.stream(
            **wishes, stream_options={"include_usage": True}
        ) as stream:
            kinds = {event.type async for event in stream}
            streamed = await stream.get_final_completion()
        whole = await api.chat.completions.create(**wishes)
    assert {"chunk", "content.delta", "content.done", "tool_calls.function.arguments.done"} <= kinds
    one, other = streamed.choices[0], whole.choices[0]
    assert one.message.content == other.message.content == "I look it up."
    assert one.message.reasoning == other.message.reasoning
    assert one.message.tool_calls[0].function.parsed_arguments == {"city": "Rome"}
    assert (
        other.message.tool_calls[0].function.arguments
        == one.message.tool_calls[0].function.arguments
    )
    assert one.finish_reason == other.finish_reason == "tool_calls"
    assert one.logprobs.content == other.logprobs.content
    assert streamed.usage == whole.usage


async def test_parse_gives_a_model(model_says: Callable[..., Any]) -> None:
    async with model_says(
        THOUGHT + '<|channel|>final<|message|>{"city":"Rome","sunny":true}<|return|>'
    ) as api:
        answer = await api.chat.completions.parse(
            model="nano", messages=USER, response_format=Place
        )
        async with api.chat.completions.stream(
            model="nano", messages=USER, response_format=Place
        ) as stream:
            streamed = await stream.get_final_completion()
    assert (
        answer.choices[0].message.parsed
        == streamed.choices[0].message.parsed
        == Place(city="Rome", sunny=True)
    )


async def test_parse_is_told_that_the_answer_is_cut(model_says: Callable[..., Any]) -> None:
    async with model_says(
        '<|channel|>final<|message|>{"city":"Rome","sunny":true}<|return|>'
    ) as api:
        with pytest.raises(openai.LengthFinishReasonError):
            await api.chat.completions.parse(
                model="nano", messages=USER, response_format=Place, max_tokens=6
            )


async def test_a_tool_is_called_and_its_result_answered(
    model_says: Callable[..., Any], tokenizer: Any
) -> None:
    messages = list(USER)
    async with model_says(THOUGHT + PREAMBLE + CALL, FINAL) as api:
        first = await api.chat.completions.create(model="nano", messages=messages, tools=[WEATHER])
        (call,) = first.choices[0].message.tool_calls
        messages += [
            first.choices[0].message,
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ]
        second = await api.chat.completions.create(model="nano", messages=messages, tools=[WEATHER])
        prompts = [tokenizer.decode(ids) for ids in api.engine.submitted]
    assert second.choices[0].message.content == "It is sunny."
    result = (
        "<|start|>functions.weather to=assistant<|channel|>commentary<|message|>sunny<|end|>"
        "<|start|>assistant"
    )
    assert prompts[1] == prompts[0] + THOUGHT + PREAMBLE + CALL + result


async def test_errors_are_the_clients_own(model_says: Callable[..., Any]) -> None:
    async with model_says(FINAL) as api:
        with pytest.raises(openai.BadRequestError) as caught:
            await api.chat.completions.create(model="nano", messages=USER, temperature=-1)
        with pytest.raises(openai.BadRequestError):
            await api.chat.completions.create(
                model="nano", messages=USER, tool_choice="required", stream=True
            )
    assert caught.value.param == "temperature"


async def test_an_error_in_the_midst_of_a_stream_is_raised(model_says: Callable[..., Any]) -> None:
    async with model_says(FINAL) as api:
        step, left = api.engine.step, [3]
        api.engine.delay = 0.02

        def failing() -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("a wire is cut")
            return step()

        api.engine.step = failing
        stream = await api.chat.completions.create(model="nano", messages=USER, stream=True)
        with pytest.raises(openai.APIError, match="the engine failed"):
            async for _ in stream:
                pass


@pytest.fixture(scope="module")
async def nano(llm: LLM, anyio_backend: str) -> AsyncIterator[AsyncOpenAI]:
    """The client of a server with nano in it."""
    app = create_app(llm.engine, llm.tokenizer, Settings(model_name="nano"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client,
    ):
        yield openai_of(client)


async def test_nano_keeps_to_a_schema(nano: AsyncOpenAI) -> None:
    answer = await nano.chat.completions.create(
        model="nano",
        messages=USER,
        reasoning_effort="none",
        max_tokens=300,
        seed=1,
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "place",
                "strict": True,
                "schema": {
                    "type": "object",
                    "properties": {
                        "city": {"enum": ["Rome", "Oslo"]},
                        "sunny": {"type": "boolean"},
                    },
                    "required": ["city", "sunny"],
                    "additionalProperties": False,
                },
            },
        },
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "stop" and choice.message.reasoning is None  # type: ignore[attr-defined]
    assert Place.model_validate_json(choice.message.content or "").city in ("Rome", "Oslo")


async def test_nano_calls_what_it_must(nano: AsyncOpenAI) -> None:
    shift: Any = {
        "type": "function",
        "function": {
            "name": "shift",
            "parameters": {
                "type": "object",
                "properties": {"by": {"enum": [1, 2, 3]}},
                "required": ["by"],
                "additionalProperties": False,
            },
        },
    }
    choice: Any = {"type": "function", "function": {"name": "shift"}}
    wishes: Any = {
        "model": "nano", "messages": USER, "tools": [WEATHER, shift], "tool_choice": choice,
        "seed": 3,
        "max_tokens": 600, "extra_body": {"reasoning": {"max_tokens": 20}},
    }  # fmt: skip
    whole = await nano.chat.completions.create(**wishes)
    async with nano.chat.completions.stream(**wishes) as stream:
        streamed = await stream.get_final_completion()
    for answer in (whole, streamed):
        assert answer.choices[0].finish_reason == "tool_calls"
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function" and call.function.name == "shift"
        assert json.loads(call.function.arguments)["by"] in (1, 2, 3)
    assert whole.choices[0].message.reasoning == streamed.choices[0].message.reasoning  # type: ignore[attr-defined]
    assert whole.usage is not None and whole.usage.completion_tokens_details is not None
    assert (
        whole.usage.completion_tokens_details.reasoning_tokens or 0
    ) <= 40  # 20 of text, and what ends messages


async def test_nanos_samples_differ_and_repeat(nano: AsyncOpenAI) -> None:
    wishes: Any = {
        "model": "nano",
        "messages": USER,
        "n": 3,
        "seed": 11,
        "max_tokens": 24,
        "logprobs": True,
    }
    wishes["temperature"] = 2.0  # at 1 it is sure of every word
    one = await nano.chat.completions.create(**wishes)
    two = await nano.chat.completions.create(**wishes)
    texts = [(c.message.reasoning, c.message.content) for c in one.choices]  # type: ignore[attr-defined]
    assert texts == [(c.message.reasoning, c.message.content) for c in two.choices]  # type: ignore[attr-defined]
    assert len(set(texts)) > 1
    assert one.usage is not None and two.usage is not None
    assert one.usage.prompt_tokens == two.usage.prompt_tokens and two.usage.completion_tokens <= 72
    for choice in one.choices:
        assert choice.logprobs is not None
        data = b"".join(bytes(token.bytes or ()) for token in choice.logprobs.content or ())
        assert data.decode(errors="replace").startswith(choice.message.content or "")


async def test_a_bias_decides_nanos_words(nano: AsyncOpenAI, tokenizer: Any) -> None:
    """Banned tokens are not said."""
    first = await nano.chat.completions.create(
        model="nano",
        messages=USER,
        temperature=0,
        max_tokens=40,
        reasoning_effort="none",
        logprobs=True,
    )
    assert first.choices[0].logprobs is not None and first.choices[0].logprobs.content
    (word,) = tokenizer.encode(first.choices[0].logprobs.content[0].token)
    second = await nano.chat.completions.create(
        model="nano", messages=USER, temperature=0, max_tokens=40, reasoning_effort="none",
        logprobs=True,
        logit_bias={str(word): -100},
    )  # fmt: skip
    assert second.choices[0].logprobs is not None
    assert word not in [
        tokenizer.encode(t.token)[0] for t in second.choices[0].logprobs.content or () if t.token
    ]
