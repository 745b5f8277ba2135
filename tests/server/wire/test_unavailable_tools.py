"""Hosted tools that the operator has not switched on: the response says so, on every API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

FINAL = "<|channel|>final<|message|>Fine.<|return|>"
USER = [{"role": "user", "content": "Hello"}]
APIS = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/responses": {"input": "Hello"},
    "/v1/messages": {"messages": USER, "max_tokens": 50},
}
TOOLS = [{"type": "web_search"}, {"type": "mcp", "server_label": "x"}, {"type": "web_search"}]
TOLD = {"unavailable_tools": ["web_search", "mcp"]}


@pytest.mark.anyio
@pytest.mark.parametrize("path", APIS)
async def test_they_are_named(client_for: Callable[..., Any], path: str) -> None:
    async with client_for(FINAL) as client:
        body = {**APIS[path], "tools": TOOLS}
        whole = (await client.post(path, json=body)).json()
        assert whole["x-ossia"] == TOLD
        streamed = (await client.post(path, json={**body, "stream": True})).text
        lines = [line[6:] for line in streamed.splitlines() if line.startswith("data: {")]
        first = json.loads(lines[0])
        assert first.get("response", first.get("message", first))["x-ossia"] == TOLD
        plain = (await client.post(path, json=APIS[path])).json()
        assert "x-ossia" not in plain


@pytest.mark.anyio
async def test_a_stored_response_says_so_too(client_for: Callable[..., Any]) -> None:
    async with client_for(FINAL) as client:
        made = (await client.post("/v1/responses", json={"input": "Hi", "tools": TOOLS})).json()
        kept = (await client.get(f"/v1/responses/{made['id']}")).json()
        assert kept == made and kept["x-ossia"] == TOLD
