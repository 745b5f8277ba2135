"""A client that goes away, at any moment and on every API, with a real uvicorn: its request is
aborted soon.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
import uvicorn

from ossia.engine.request import SampledToken
from ossia.server import ScriptedEngine, Settings, create_app
from ossia.tokenizer import Tokenizer

MESSAGES = [{"role": "user", "content": "hi"}]
ASKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/responses": {"input": "hi"},
    "/v1/completions": {"prompt": "hi", "max_tokens": 100_000},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 100_000},
}
SOON = 1.5  # seconds


class Slow(ScriptedEngine):
    """Endless, and for so many steps it reads its prompt and says nothing."""

    silent = 0

    def step(self) -> list[SampledToken]:
        self.silent -= 1
        tokens = super().step()
        return [] if self.silent >= 0 else tokens


@asynccontextmanager
async def served(tokenizer: Tokenizer, silent: int) -> AsyncIterator[tuple[str, Slow]]:
    said = (
        tokenizer.encode_with_specials("<|channel|>final<|message|>")
        + tokenizer.encode("on ") * 50_000
    )
    engine = Slow([said], delay=0.005)
    engine.silent = silent
    app = create_app(engine, tokenizer, Settings(model_name="nano", drain=0.0))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    task = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", engine
    finally:
        server.should_exit = True
        await task


async def leave(url: str, path: str, stream: bool, engine: Slow, wait: float) -> None:
    """Asks, goes away when the engine has begun and `wait` seconds are over, and sees that the
    engine forgets it.
    """
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        asking = asyncio.ensure_future(
            client.post(path, json={"model": "nano", "stream": stream, **ASKS[path]})
        )
        async with asyncio.timeout(5):
            while not engine.has_work():
                await asyncio.sleep(0.005)
        await asyncio.sleep(wait)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
    async with asyncio.timeout(SOON):
        while engine.has_work():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("path", ASKS)
@pytest.mark.parametrize(
    "silent", [0, 10_000], ids=["while it is answered", "while its prompt is read"]
)
def test_what_nobody_waits_for_is_not_computed(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture, path: str, stream: bool, silent: int
) -> None:
    async def run() -> None:
        async with served(tokenizer, silent) as (url, engine):
            await leave(url, path, stream, engine, 0.05)

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    assert not [
        record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info
    ]
