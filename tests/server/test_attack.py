"""Everything at once against a process with a real model: mutated requests on all doors under two
keys, 64 streams of which many are left, and SIGTERM in the midst of it.

OSSIA_ATTACK_MINUTES says how long (1; before a release 30). Prints what it saw.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from hostile_bodies import OTHERS, VALID, hostile
from nano_server import QUESTIONS, Process, body, serving

MINUTES = float(os.environ.get("OSSIA_ATTACK_MINUTES", "1"))
KEYS = ("sk-one", "sk-two")
STREAMS = 64
ATTACKERS = 4
HEALTH = 1.0  # seconds that /health may take
WARM_UP = 10.0  # seconds of ordinary streams
ROOM = 0.10  # of its size that the process may have kept at the end
IDLE = 60.0  # seconds after which it is looked at
PATIENCE = 300.0  # seconds for an answer: some bodies ask for as much as fits the context
FEW = 16  # file descriptors that a pool or a log may still hold


@dataclass
class Seen:
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # MiB, every half minute
    left: int = 0
    ended: int = 0


def client_of(server: Process, key: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    headers = {"Authorization": f"Bearer {key}", "x-api-key": key}
    return httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, limits=limits, headers=headers)


async def attack(client: httpx.AsyncClient, rng: random.Random, end: float, seen: Seen) -> None:
    headers = {"Content-Type": "application/json"}
    while time.monotonic() < end:
        sent = hostile(rng)
        request = client.build_request(sent.method, sent.path, content=sent.body, headers=headers)
        patience = 0.05 if rng.random() < 0.2 else PATIENCE
        try:
            async with asyncio.timeout(patience):
                response = await client.send(request)
        except TimeoutError:
            seen.left += 1
            if patience > 1:
                seen.failures.append(f"no answer: {sent.path} {sent.body[:300]!r}")
            continue
        except httpx.TransportError as error:
            seen.failures.append(f"{error!r} {sent.method} {sent.path} {sent.body[:300]!r}")
            continue
        seen.statuses[response.status_code] += 1
        if response.status_code >= 500:
            seen.failures.append(f"{response.status_code} {sent.path} {sent.body[:300]!r}")


async def stream(client: httpx.AsyncClient, rng: random.Random, end: float, seen: Seen) -> None:
    while time.monotonic() < end:
        asked = body(rng.choice(QUESTIONS), rng.choice((5, 40, 120)))
        stays = rng.random() < 0.6
        async with client.stream("POST", "/v1/chat/completions", json=asked) as response:
            seen.statuses[response.status_code] += 1
            if response.status_code >= 500:
                seen.failures.append(f"{response.status_code} for a stream")
            last = rng.randrange(30)
            number = 0
            async for line in response.aiter_lines():
                if not stays and number > last:
                    break
                number += 1
                if line == "data: [DONE]":
                    seen.ended += 1
        if response.status_code == 429:
            await asyncio.sleep(1)


def watch(server: Process, end: float, seen: Seen) -> None:
    """In a thread of its own, so that what the other clients here do is not waited for, too."""
    next_look = time.monotonic() + 30
    with httpx.Client(base_url=server.url) as client:
        while time.monotonic() < end:
            began = time.monotonic()
            if began > next_look:
                seen.sizes.append(server.resident() >> 20)
                next_look += 30
            response = client.get("/health")
            seen.health.append(time.monotonic() - began)
            if response.status_code != 200:
                seen.failures.append(f"/health: {response.status_code}")
            time.sleep(0.25)


async def warmed_up(server: Process) -> None:
    """Every door has been used once, and has refused once: what is imported and made on the first
    use stays, and is no leak. Then as many ordinary streams run as will run later, for a moment, so
    that the size before is that of a server in service.
    """
    async with client_of(server, KEYS[0]) as client:
        for path, valid in VALID:
            assert (await client.post(path, json=valid)).status_code == 200, path
            assert (await client.post(path, json=[])).status_code == 400, path
        for path in OTHERS:
            await client.get(path)
        end = time.monotonic() + WARM_UP
        streams = [stream(client, random.Random(n), end, Seen()) for n in range(STREAMS)]
        await asyncio.gather(*streams)


async def size_of(server: Process) -> tuple[int, int]:
    """Bytes and open files, once connections that are closed are."""
    await asyncio.sleep(5)
    return server.resident(), len(os.listdir(f"/proc/{server.process.pid}/fd"))


async def attacked(server: Process, seconds: float) -> Seen:
    seen = Seen()
    await warmed_up(server)
    size, files = await size_of(server)
    end = time.monotonic() + seconds
    async with client_of(server, KEYS[0]) as one, client_of(server, KEYS[1]) as two:
        both = (one, two)
        tasks = [asyncio.to_thread(watch, server, end, seen)]
        tasks += [stream(both[n % 2], random.Random(n), end, seen) for n in range(STREAMS)]
        tasks += [attack(both[n % 2], random.Random(-n - 1), end, seen) for n in range(ATTACKERS)]
        await asyncio.gather(*tasks)
    await asyncio.sleep(IDLE)
    size_after, files_after = await size_of(server)
    waits = sorted(seen.health)
    print(
        f"{sum(seen.statuses.values())} answers {dict(seen.statuses)}, "
        f"{seen.ended} streams to their end, {seen.left} left; "
        f"/health median {waits[len(waits) // 2]:.3f} s, worst {waits[-1]:.3f} s; "
        f"size {size >> 20} -> {seen.sizes} -> {size_after >> 20} MiB, "
        f"files {files} -> {files_after}"
    )
    assert size_after <= size * (1 + ROOM), (size, size_after)
    assert files_after <= files + FEW
    return seen


async def stopped_under_fire(server: Process) -> None:
    seen, end = Seen(), time.monotonic() + 60
    async with client_of(server, KEYS[0]) as client:
        tasks = [
            asyncio.ensure_future(stream(client, random.Random(n), end, seen)) for n in range(32)
        ]
        await asyncio.sleep(1.5)
        server.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(server.process.wait, 45)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert code == 0


@pytest.mark.slow
def test_a_mixed_attack(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("".join(f"user{n} {key}\n" for n, key in enumerate(KEYS)))
    keys.chmod(0o600)
    with serving("--api-key-file", str(keys)) as server:
        seen = asyncio.run(attacked(server, MINUTES * 60))
        assert server.process.poll() is None, f"the server has ended: {server.process.returncode}"
        assert not seen.failures, seen.failures[:5]
        assert max(seen.health) < HEALTH
        asyncio.run(stopped_under_fire(server))
