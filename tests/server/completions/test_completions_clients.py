"""What clients do to /v1/completions besides asking well: they leave, and they send text that is no
Unicode. And OpenAI's own client.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ossia.server import ScriptedEngine, Settings, create_app
from ossia.tokenizer import Tokenizer

openai = pytest.importorskip("openai")
httpx2 = pytest.importorskip("httpx2")  # what the client speaks HTTP with
FINAL = "<|channel|>final<|message|>Hi<|return|>"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messages"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_who_leaves_is_not_answered_further(
    path: str, streamed: bool, tokenizer: Tokenizer
) -> None:
    said = tokenizer.encode_with_specials("<|channel|>final<|message|>" + "word " * 4000)
    engine = ScriptedEngine([said], delay=0.001)
    app = create_app(engine, tokenizer, Settings())
    body: dict[str, Any] = {"stream": streamed, "max_tokens": 4000}
    prompts = {"prompt": ["a", "b"], "n": 2}
    more = (
        prompts if path == "/v1/completions" else {"messages": [{"role": "user", "content": "a"}]}
    )
    begun = asyncio.Event()
    gone = asyncio.Event()
    requests = iter(
        [{"type": "http.request", "body": json.dumps(body | more).encode(), "more_body": False}]
    )

    async def receive() -> dict[str, Any]:
        request = next(requests, None)
        if request is not None:
            return request
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            begun.set()

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "client": ("c", 1),
        "server": ("s", 1), "headers": [(b"content-type", b"application/json")], "state": {},
    }  # fmt: skip
    async with app.router.lifespan_context(app):
        request = asyncio.ensure_future(app(scope, receive, send))
        if streamed:
            await begun.wait()
        else:
            while not engine.has_work():
                await asyncio.sleep(0.005)
        assert engine.has_work()
        gone.set()
        await request
        for _ in range(200):
            if not engine.has_work():
                break
            await asyncio.sleep(0.005)
        assert not engine.has_work()


@pytest.mark.anyio
async def test_text_that_is_no_unicode(client_for: Any) -> None:
    lone = "\ud800"
    call = {"type": "tool_use", "id": lone, "name": f"a b<|end|>{lone}", "input": {lone: lone}}
    result = {"type": "tool_result", "tool_use_id": lone, "content": lone}
    turns = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    hello = [{"role": "user", "content": lone}]
    bodies: list[tuple[str, dict[str, Any]]] = [
        (
            "/v1/completions",
            {"prompt": lone, "echo": True, "logprobs": 1, "stop": [lone], "model": lone},
        ),
        (
            "/v1/completions",
            {"prompt": "a", "cache_salt": lone, "user": lone, "logit_bias": {lone: 1}},
        ),
        ("/v1/messages", {"max_tokens": 9, "model": lone, "messages": hello, "system": lone}),
        ("/v1/messages", {"max_tokens": 9, "stop_sequences": [lone], "messages": turns}),
        ("/v1/messages", {"max_tokens": 9, "messages": hello, "tools": [{"name": lone}]}),
        ("/v1/messages", {"max_tokens": 9, "messages": hello, "output_config": {"effort": lone}}),
        (
            "/v1/messages",
            {"max_tokens": 9, "messages": [{"role": lone, "content": [{"type": lone}]}]},
        ),
    ]
    async with client_for(FINAL) as client:
        for path, body in bodies:
            for streamed in (False, True):
                content = json.dumps({**body, "stream": streamed}).encode()
                answer = await client.post(
                    path, content=content, headers={"content-type": "application/json"}
                )
                assert answer.status_code in (200, 400), answer.text
                assert "the server failed" not in answer.text


@pytest.mark.anyio
async def test_openais_client(client_for: Any, tokenizer: Tokenizer) -> None:
    async with client_for(tokenizer.encode(" upon a time")) as server:
        http = httpx2.AsyncClient(transport=httpx2.ASGITransport(server.app))
        async with openai.AsyncOpenAI(
            base_url="http://server/v1", api_key="none", max_retries=0, http_client=http
        ) as client:
            whole = await client.completions.create(
                model="nano", prompt="Once", logprobs=2, echo=True, max_tokens=8
            )
            assert (
                whole.choices[0].text == "Once upon a time"
                and whole.choices[0].finish_reason == "length"
            )
            assert whole.choices[0].logprobs.token_logprobs[0] is None
            assert whole.usage.total_tokens == len(tokenizer.encode("Once")) + len(
                tokenizer.encode(" upon a time")
            )
            options = {"include_usage": True}
            chunks = await client.completions.create(
                model="nano", prompt="Once", stream=True, stream_options=options
            )
            texts, usage = [], None
            async for chunk in chunks:
                texts += [choice.text for choice in chunk.choices]
                usage = chunk.usage or usage
            assert "".join(texts) == " upon a time" and usage.completion_tokens == len(
                tokenizer.encode(" upon a time")
            )
            with pytest.raises(openai.BadRequestError) as refused:
                await client.completions.create(model="nano", prompt="Once", suffix="end")
            assert refused.value.param == "suffix"
