"""Many clients at once, some of which go away, on a process with a real model; and its end while
they are there.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from nano_server import QUESTIONS, Process, body, serving

CLIENTS = 64
LENGTHS = (5, 40, 120)  # at most, of an answer
GROWTH = 32 << 20  # bytes that a process may grow by while it serves the same again and again


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        yield client


@dataclass
class Heard:
    """What a client got of one answer. `left`: it went away by itself."""

    content: str = ""
    reasoning: str = ""
    finish: str | None = None
    usage: dict[str, Any] | None = None
    done: bool = False
    left: bool = False
    error: dict[str, Any] | None = None

    @property
    def answer(self) -> tuple[Any, ...]:
        return (
            self.content,
            self.reasoning,
            self.finish,
            self.usage and self.usage["completion_tokens"],
        )


async def ask(
    client: httpx.AsyncClient,
    question: str,
    tokens: int,
    leave_after: int | None = None,
    **more: Any,
) -> Heard:
    """`leave_after`: events."""
    heard, events = Heard(), 0
    async with client.stream(
        "POST", "/v1/chat/completions", json=body(question, tokens, **more)
    ) as response:
        if response.status_code != 200:
            await response.aread()
            heard.error = response.json()["error"]
            return heard
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            events += 1
            if leave_after is not None and events > leave_after:
                heard.left = True
                return heard
            if line == "data: [DONE]":
                heard.done = True
                continue
            chunk = json.loads(line[6:])
            heard.error = chunk.get("error", heard.error)
            heard.usage = chunk.get("usage") or heard.usage
            for choice in chunk.get("choices", ()):
                heard.content += choice["delta"].get("content") or ""
                heard.reasoning += choice["delta"].get("reasoning") or ""
                heard.finish = choice["finish_reason"] or heard.finish
    return heard


async def metrics(client: httpx.AsyncClient) -> dict[str, float]:
    """By the name and the one label that matters."""
    text = (await client.get("/metrics")).text
    found: dict[str, float] = {}
    for name, labels, value in re.findall(r"^ossia:(\w+)\{(.*?)\} (\S+)$", text, re.MULTILINE):
        reason = re.search(r'finished_reason="(\w+)"', labels)
        key = f"{name}:{reason[1]}" if reason else name
        found[key] = found.get(key, 0.0) + float(value)
    return found


@dataclass
class Load:
    heard: list[tuple[tuple[str, int], Heard]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # of the process


async def put_under_load(server: Process, client: httpx.AsyncClient, seconds: float) -> Load:
    load, end = Load(), time.monotonic() + seconds

    async def one(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < end:
            asked = rng.choice(QUESTIONS), rng.choice(LENGTHS)
            leave_after = rng.randrange(30) if rng.random() < 1 / 3 else None
            load.heard.append((asked, await ask(client, *asked, leave_after)))

    async def watch() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(seconds / 20)
            load.sizes.append(server.resident())

    await asyncio.gather(watch(), *(one(number) for number in range(CLIENTS)))
    return load


async def check_load(server: Process, seconds: float) -> None:
    async with connected(server.url) as client:
        alone = {
            (q, tokens): (await ask(client, q, tokens)).answer
            for q in QUESTIONS
            for tokens in LENGTHS
        }
        before = await metrics(client)
        load = await put_under_load(server, client, seconds)
        for asked, heard in load.heard:
            assert heard.error is None, heard.error
            assert heard.left or (heard.done and heard.answer == alone[asked]), asked
        left = sum(heard.left for _, heard in load.heard)
        assert left > CLIENTS / 8 and len(load.heard) - left > CLIENTS / 2
        await settled(client)
        check_books(load, before, await metrics(client))
    first, last = load.sizes[len(load.sizes) // 2], load.sizes[-1]
    assert last - first < GROWTH, f"grew from {first} to {last} bytes in the second half"


async def settled(client: httpx.AsyncClient) -> None:
    """Nothing runs, and no answer holds memory."""
    async with asyncio.timeout(10):
        while True:
            now = await metrics(client)
            if not (
                now["num_requests_running"]
                or now["num_requests_waiting"]
                or now["kv_cache_usage_perc"]
            ):
                return
            await asyncio.sleep(0.1)


def check_books(load: Load, before: dict[str, float], after: dict[str, float]) -> None:
    def counted(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    stayed = [heard for _, heard in load.heard if not heard.left]
    ended = {
        reason: counted(f"request_success_total:{reason}")
        for reason in ("stop", "length", "calls", "abort", "error")
    }
    assert sum(ended.values()) == len(load.heard) and ended["error"] == 0
    # who left late may have been answered
    assert ended["stop"] + ended["length"] + ended["calls"] >= len(stayed)
    assert counted("e2e_request_latency_seconds_count") == len(load.heard)
    tokens = sum(heard.usage["completion_tokens"] for heard in stayed if heard.usage)
    most = sum(asked[1] for asked, heard in load.heard if heard.left)
    assert tokens <= counted("generation_tokens_total") <= tokens + most
    prompts = sum(heard.usage["prompt_tokens"] for heard in stayed if heard.usage)
    assert counted("prompt_tokens_total") >= prompts
    assert counted("request_generation_tokens_sum") == counted("generation_tokens_total")


async def check_stop(server: Process) -> None:
    """SIGTERM: what runs is answered to its end, what comes then is refused, and the process ends
    by itself.
    """
    async with connected(server.url) as client:
        wanted = [(random.Random(n).choice(QUESTIONS), 120) for n in range(32)]
        alone = {asked: (await ask(client, *asked)).answer for asked in set(wanted)}
        running = [asyncio.ensure_future(ask(client, *asked)) for asked in wanted]
        async with asyncio.timeout(30):
            while True:  # until the server has them all: what comes after the signal is refused
                ended = sum(one.done() for one in running)
                now = await metrics(client)
                if ended + now["num_requests_running"] + now["num_requests_waiting"] >= len(wanted):
                    break
                await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        with suppress(httpx.TransportError):  # it may be gone already
            assert (await ask(client, *wanted[0])).error is not None
        answers = await asyncio.gather(*running)
        assert [heard.answer for heard in answers] == [alone[asked] for asked in wanted]
        assert all(heard.done for heard in answers)
        assert await asyncio.to_thread(server.process.wait, 15) == 0


async def check(server: Process, seconds: float) -> None:
    await check_load(server, seconds)
    await check_stop(server)


@pytest.mark.slow
def test_a_short_load_and_an_end_that_loses_no_answer() -> None:
    with serving() as server:
        asyncio.run(check(server, 3))


@pytest.mark.slow
def test_a_minute_of_load() -> None:
    with serving() as server:
        asyncio.run(check(server, 60))


def test_stopping_does_not_wait_for_ever() -> None:
    """An answer that does not end in time is told so, in the words of its API."""

    async def run(server: Process) -> None:
        async with connected(server.url) as client:
            asked = ask(client, "Count to a thousand.", 1900, ignore_eos=True)
            answer = asyncio.ensure_future(asked)
            async with asyncio.timeout(10):
                while not (await metrics(client))["num_requests_running"]:
                    await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            heard = await asyncio.wait_for(answer, 10)
            assert heard.error is not None and not heard.done
            assert await asyncio.to_thread(server.process.wait, 10) == 0

    with serving("--drain", "0s", "--unconstrained") as server:
        asyncio.run(run(server))
