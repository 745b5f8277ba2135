"""What Chat Completions answer: stream and body, with reasoning, calls, stops, log-probabilities
and tokens.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from chat_wire import (
    CALL,
    FINAL,
    HELLO,
    NOTE,
    PATH,
    PREAMBLE,
    THOUGHT,
    WEATHER,
    both,
    chunks_of,
    folded,
    told,
    without_ids,
)
from openai.types.chat import ChatCompletion

from ossia.server.chat.routes import merge_streams
from ossia.turn.events import Progress, TurnEvent, Usage

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def test_an_answer_whole_and_as_a_stream(client_for: Callable[..., Any]) -> None:
    async with client_for(THOUGHT + FINAL) as client:
        body, chunks = await both(client)
    message = body["choices"][0]["message"]
    assert (
        body["object"] == "chat.completion"
        and body["id"].startswith("chatcmpl-")
        and body["model"] == "nano"
    )
    assert message == {
        "role": "assistant", "content": "It is sunny.", "refusal": None, "annotations": [],
        "reasoning": "Let me see.", "reasoning_content": "Let me see.",
    }  # fmt: skip
    assert body["choices"][0]["finish_reason"] == "stop"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert folded(chunks) == told(body)
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == body["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_usage_is_complete(
    client_for: Callable[..., Any], script: Callable[[str], list[int]]
) -> None:
    async with client_for(THOUGHT + FINAL) as client:
        body, _ = await both(client)
        prompt = len(client.engine.submitted[0])
    assert body["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": len(script(THOUGHT + FINAL)),
        "total_tokens": prompt + len(script(THOUGHT + FINAL)),
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": prompt},
        "completion_tokens_details": {"reasoning_tokens": len(script("Let me see.<|end|>"))},
    }


async def test_usage_is_sent_only_if_it_is_asked_for(client_for: Callable[..., Any]) -> None:
    async with client_for(FINAL) as client:
        plain = chunks_of((await client.post(PATH, json=HELLO | {"stream": True})).text)
    assert all("usage" not in chunk and chunk["choices"] for chunk in plain)


async def test_continuous_usage_counts_every_token(client_for: Callable[..., Any]) -> None:
    options = {"continuous_usage_stats": True, "include_usage": True}
    async with client_for(THOUGHT + FINAL) as client:
        response = await client.post(PATH, json=HELLO | {"stream": True, "stream_options": options})
        chunks = chunks_of(response.text)
        prompt = len(client.engine.submitted[0])
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts) and counts[0] == 1
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {prompt}
    texts = [
        chunk["usage"]["completion_tokens"]
        for chunk in chunks[:-1]
        if "content" in chunk["choices"][0]["delta"]
    ]
    assert len(set(texts)) == len(texts)  # each text with its token


async def test_obfuscation_hides_the_length_of_texts(client_for: Callable[..., Any]) -> None:
    async with client_for(
        "<|channel|>final<|message|>a longer word here, and I<|return|>"
    ) as client:
        wish = {"stream": True, "stream_options": {"include_obfuscation": True}}
        chunks = chunks_of((await client.post(PATH, json=HELLO | wish)).text)
        plain = chunks_of((await client.post(PATH, json=HELLO | {"stream": True})).text)
    sizes = {
        len(chunk["choices"][0]["delta"]["content"]) + len(chunk["obfuscation"])
        for chunk in chunks[1:-1]
    }
    assert (
        len(sizes) == 1
        and len({len(chunk["choices"][0]["delta"]["content"]) for chunk in plain[1:-1]}) > 1
    )


async def test_a_call_after_reasoning_and_a_preamble(client_for: Callable[..., Any]) -> None:
    async with client_for(THOUGHT + PREAMBLE + CALL) as client:
        body, chunks = await both(client, tools=[WEATHER])
    message = body["choices"][0]["message"]
    assert message["content"] == "I look it up." and message["reasoning"] == "Let me see."
    (call,) = message["tool_calls"]
    assert call["type"] == "function" and call["function"] == {
        "name": "weather",
        "arguments": '{"city":"Rome"}',
    }
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert without_ids(folded(chunks)) == without_ids(told(body))


async def test_a_call_alone_has_no_content(client_for: Callable[..., Any]) -> None:
    async with client_for(CALL) as client:
        body, _ = await both(client, tools=[WEATHER])
    assert body["choices"][0]["message"]["content"] is None


async def test_a_custom_tool_is_called_with_text(client_for: Callable[..., Any]) -> None:
    async with client_for(
        '<|channel|>commentary to=functions.note code<|message|>say "hi"<|call|>'
    ) as client:
        whole = (await client.post(PATH, json=HELLO | {"tools": [NOTE]})).json()
        streamed = await client.post(PATH, json=HELLO | {"tools": [NOTE], "stream": True})
    ChatCompletion.model_validate(whole)
    (call,) = whole["choices"][0]["message"]["tool_calls"]
    assert call["type"] == "custom" and call["custom"] == {"name": "note", "input": 'say "hi"'}
    chunks = [
        json.loads(line[6:]) for line in streamed.text.split("\n\n") if line.startswith("data: {")
    ]
    assert without_ids(folded(chunks)) == without_ids(told(whole))


async def test_functions_are_answered_with_a_function_call(client_for: Callable[..., Any]) -> None:
    async with client_for(THOUGHT + CALL) as client:
        body, chunks = await both(client, functions=[WEATHER["function"]])
    choice = body["choices"][0]
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city":"Rome"}'}
    assert "tool_calls" not in choice["message"] and choice["finish_reason"] == "function_call"
    parts = [
        delta
        for chunk in chunks
        for c in chunk["choices"]
        if (delta := c["delta"].get("function_call"))
    ]
    assert (
        parts[0]["name"] == "weather"
        and "".join(part["arguments"] for part in parts) == '{"city":"Rome"}'
    )


async def test_what_was_said_and_then_answered_stays_apart(client_for: Callable[..., Any]) -> None:
    async with client_for(PREAMBLE + FINAL) as client:
        body, chunks = await both(client, tools=[WEATHER])
    assert body["choices"][0]["message"]["content"] == "I look it up.\n\nIt is sunny."
    assert folded(chunks) == told(body)


async def test_a_preamble_does_not_spoil_json(client_for: Callable[..., Any]) -> None:
    async with client_for(PREAMBLE + '<|channel|>final<|message|>{"a": 1}<|return|>') as client:
        body, chunks = await both(client, tools=[WEATHER], response_format={"type": "json_object"})
    message = body["choices"][0]["message"]
    assert json.loads(message["content"]) == {"a": 1} and message["reasoning"] == "I look it up."
    assert folded(chunks) == told(body)


@pytest.mark.parametrize("wish", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}])
async def test_reasoning_can_be_left_out(
    client_for: Callable[..., Any], wish: dict[str, Any]
) -> None:
    async with client_for(THOUGHT + FINAL) as client:
        body, chunks = await both(client, **wish)
    assert body["choices"][0]["message"]["reasoning"] is None
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    assert folded(chunks) == told(body)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_length(client_for: Callable[..., Any], field: str) -> None:
    async with client_for(THOUGHT + FINAL) as client:
        body, chunks = await both(client, **{field: 4})
    assert (
        body["choices"][0]["finish_reason"] == "length"
        and body["choices"][0]["message"]["content"] == ""
    )
    assert body["usage"]["completion_tokens"] == 4
    assert folded(chunks) == told(body)


async def test_max_completion_tokens_comes_before_max_tokens(
    client_for: Callable[..., Any],
) -> None:
    async with client_for(FINAL) as client:
        body, _ = await both(client, max_tokens=9, max_completion_tokens=3)
    assert body["usage"]["completion_tokens"] == 3


async def test_several_choices_share_a_prompt(
    client_for: Callable[..., Any], script: Callable[..., Any]
) -> None:
    texts = [f"<|channel|>final<|message|>Answer {n}<|return|>" for n in range(3)]
    async with client_for(*texts, *texts) as client:
        body, chunks = await both(client, n=3)
        prompts = client.engine.submitted
    assert sorted(choice["message"]["content"] for choice in body["choices"]) == [
        "Answer 0",
        "Answer 1",
        "Answer 2",
    ]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert len(prompts) == 6 and len(set(map(tuple, prompts))) == 1
    assert body["usage"]["prompt_tokens"] == len(prompts[0])
    assert body["usage"]["completion_tokens"] == sum(len(script(text)) for text in texts)
    deltas = [(choice["index"], choice["delta"]) for chunk in chunks for choice in chunk["choices"]]
    assert all(
        next(delta for at, delta in deltas if at == n)["role"] == "assistant" for n in range(3)
    )
    assert folded(chunks) == told(body)
    assert chunks[-1]["usage"] == body["usage"]


async def test_one_choice_that_fails_fails_the_request(client_for: Callable[..., Any]) -> None:
    async with client_for(FINAL, []) as client:
        whole = await client.post(PATH, json=HELLO | {"n": 2})
    assert whole.status_code == 400 and "script is empty" in whole.json()["error"]["message"]


@pytest.mark.parametrize(
    ("stop", "left", "by"),
    [
        ("sunny", "It is ", "sunny"),
        ([" is sun", "zzz"], "It", " is sun"),
        (["y.", "nn"], "It is su", "nn"),
        (["see"], "It is sunny.", None),  # said in the reasoning only
        ([], "It is sunny.", None),
        ("sunny.!", "It is sunny.", None),  # held back, and then said
    ],
)
async def test_stop_strings_end_the_answer(
    client_for: Callable[..., Any], stop: Any, left: str, by: str | None
) -> None:
    async with client_for(THOUGHT + FINAL) as client:
        body, chunks = await both(client, stop=stop)
    choice = body["choices"][0]
    assert choice["message"]["content"] == left and choice["finish_reason"] == "stop"
    assert choice["stop_reason"] == by
    assert folded(chunks) == told(body)


async def test_logprobs_belong_to_the_content(client_for: Callable[..., Any]) -> None:
    text = "Grüße, 東京! 🌍"
    async with client_for(f"{THOUGHT}<|channel|>final<|message|>{text}<|return|>") as client:
        body, chunks = await both(client, logprobs=True, top_logprobs=3)
        plain, _ = await both(client)
    assert plain["choices"][0]["logprobs"] is None
    tokens = body["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in tokens).decode() == text
    assert all(len(token["top_logprobs"]) == 3 and token["logprob"] == -0.5 for token in tokens)
    assert folded(chunks) == told(body)


async def test_logprobs_end_with_a_stop_string(client_for: Callable[..., Any]) -> None:
    async with client_for("<|channel|>final<|message|>one two three<|return|>") as client:
        body, chunks = await both(client, logprobs=True, stop=" three")
    tokens = body["choices"][0]["logprobs"]["content"]
    assert (
        b"".join(bytes(token["bytes"]) for token in tokens).decode()
        == body["choices"][0]["message"]["content"]
    )
    assert folded(chunks) == told(body)


async def test_a_failure_in_the_midst_is_told_in_the_stream(
    client_for: Callable[..., Any], script: Callable[..., Any]
) -> None:
    async with client_for(FINAL) as client:
        step, left = client.engine.step, [3]
        client.engine.delay = 0.02  # so that the first tokens are on their way when it happens

        def failing() -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("a wire is cut")
            return step()

        client.engine.step = failing
        response = await client.post(PATH, json=HELLO | {"stream": True})
        later = await client.post(PATH, json=HELLO)
    assert response.status_code == 200
    *begin, last = [line for line in response.text.split("\n\n") if line]
    assert json.loads(begin[0].removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
    assert "[DONE]" not in response.text
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "overloaded_error"
    assert later.status_code == 503 and later.headers["retry-after"]


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("fails", [False, True])
async def test_choices_end_together(choices: int, fails: bool) -> None:
    """When nobody listens any more, or one of them fails; whatever the others wait for."""
    closed = []

    async def answer(number: int) -> AsyncGenerator[TurnEvent, None]:
        try:
            for count in range(3):
                await asyncio.sleep(0)
                yield Progress(Usage(completion=count))
            if fails and number == choices - 1:
                raise ValueError("no more")
            await asyncio.Event().wait()
        finally:
            closed.append(number)

    events = merge_streams([answer(n) for n in range(choices)])
    seen = [await anext(events) for _ in range(3 * choices)]
    assert sorted(n for n, _ in seen) == sorted([*range(choices)] * 3)
    if fails:
        with pytest.raises(ValueError, match="no more"):
            await anext(events)
    else:
        await events.aclose()
    assert sorted(closed) == [*range(choices)]
