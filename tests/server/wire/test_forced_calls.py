"""A choice that requires a call gets one, from a model that samples freely, on every API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ossia.llm import LLM
from ossia.server import Settings, create_app

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Bonn", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
FUNCTION = {"name": "weather", "description": "", "parameters": SCHEMA}
TEXT = "Tell me a long story about a frog."
USER = [{"role": "user", "content": TEXT}]


def chat(choice: bool, tokens: int) -> tuple[str, dict[str, Any]]:
    named = {"type": "function", "function": {"name": "weather"}}
    body = {"messages": USER, "max_tokens": tokens}
    body["tools"] = [{"type": "function", "function": FUNCTION}]
    return "/v1/chat/completions", body | {"tool_choice": named if choice else "required"}


def responses(choice: bool, tokens: int) -> tuple[str, dict[str, Any]]:
    named = {"type": "function", "name": "weather"}
    body = {"input": TEXT, "max_output_tokens": tokens}
    body["tools"] = [{"type": "function", **FUNCTION}]
    return "/v1/responses", body | {"tool_choice": named if choice else "required"}


def messages(choice: bool, tokens: int) -> tuple[str, dict[str, Any]]:
    named = {"type": "tool", "name": "weather"}
    body = {"messages": USER, "max_tokens": tokens}
    body["tools"] = [{"name": "weather", "input_schema": SCHEMA}]
    return "/v1/messages", body | {"tool_choice": named if choice else {"type": "any"}}


def called(api: Callable[..., Any], text: str) -> bool:
    """Whether the answer, or its last events, say that it ended with a call."""
    said = {chat: '"tool_calls"', responses: '"function_call"', messages: '"tool_use"'}
    broken = ('"length"', '"incomplete"', '"max_tokens",')
    return said[api] in text and not any(word in text for word in broken)


@pytest.mark.anyio
@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("api", [chat, responses, messages])
async def test_a_call_comes(llm: LLM, api: Callable[..., Any], is_streamed: bool) -> None:
    app = create_app(llm.engine, llm.tokenizer, Settings(model_name="nano"))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            for seed, tokens in enumerate((48, 100, 300)):
                path, body = api(seed % 2 == 0, tokens)
                sent = {**body, "stream": is_streamed, "seed": seed, "temperature": 1.5}
                answer = await client.post(path, json=sent, timeout=60)
                assert answer.status_code == 200, answer.text
                assert called(api, answer.text.replace(" ", "")), answer.text
