"""A choice that requires a call gets one, from a model that samples freely, on every API."""

from __future__ import annotations

import json
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


ODD: dict[str, dict[str, Any]] = {
    "format uri": {"page": {"type": "string", "format": "uri", "maxLength": 20}},
    "format unknown": {"page": {"type": "string", "format": "phone", "maxLength": 20}},
    "lookahead": {"page": {"type": "string", "pattern": "^(?=a)", "maxLength": 20}},
    "category": {"page": {"type": "string", "pattern": r"^\p{L}+$", "maxLength": 20}},
    "uniqueItems": {"page": {"enum": [[1], [2]], "uniqueItems": True}},
    "not": {"page": {"type": "boolean", "not": {"const": False}}},
    "null keyword": {"page": {"type": "boolean", "description": None, "enum": None}},
}


@pytest.mark.anyio
@pytest.mark.parametrize("odd", ODD)
async def test_one_odd_keyword_leaves_the_others_in_force(llm: LLM, odd: str) -> None:
    """What nano would never say by itself, so the grammar holds it to the rest of the schema."""
    schema = SCHEMA | {"properties": {**SCHEMA["properties"], **ODD[odd]}}  # type: ignore[dict-item]
    function = FUNCTION | {"parameters": schema}
    body = {"messages": USER, "max_tokens": 400, "temperature": 1, "seed": 3}
    body |= {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    app = create_app(llm.engine, llm.tokenizer, Settings(model_name="nano"))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            answer = await client.post("/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert arguments["city"] in ("Bonn", "Rome") and 1 <= arguments["days"] <= 9
