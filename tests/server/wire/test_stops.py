"""Stop strings of a request: how many there may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ossia.server.wire.sampling import MAX_STOPS

MANY = [f"stop {n}" for n in range(MAX_STOPS + 1)]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, "stop"),
        ("/v1/completions", {"prompt": "hi"}, "stop"),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
            "stop_sequences",
        ),
    ],
)
async def test_too_many_are_refused(
    client_for: Callable[..., Any], path: str, body: dict[str, Any], field: str
) -> None:
    async with client_for("<|channel|>final<|message|>Hi<|return|>") as client:
        fine = await client.post(path, json={**body, field: MANY[1:]})
        assert fine.status_code == 200, fine.text
        refused = await client.post(path, json={**body, field: MANY})
        assert refused.status_code == 400 and refused.json()["error"]["message"].startswith(
            f"{field} has 17"
        )
