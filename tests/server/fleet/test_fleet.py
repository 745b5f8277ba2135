"""Two replicas, one database, and a front without stickiness: what a team would lose, were a
response, a conversation or a running answer bound to the server that made it.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
from amounts import thorough
from front import router

from .conftest import Pair, in_turn, two_servers

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
CONVERSATIONS = 200 if thorough() else 40
TURNS = 5
AT_ONCE = 16
LONG = "Write a long story about a lighthouse, with many chapters."


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A connection for every request, so that each goes to the next server."""
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:
        yield client


async def asked(client: httpx.AsyncClient, text: str, **more: Any) -> dict[str, Any]:
    body = {"input": text, "max_output_tokens": 4, "reasoning": {"effort": "none"}} | more
    answer = await client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@asynccontextmanager
async def routed(urls: list[str]) -> AsyncIterator[str]:
    program = shutil.which("vllm-router", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("vllm-router is not installed")
    with router(program, "round_robin", [int(urlsplit(url).port or 0) for url in urls]) as port:
        yield f"http://127.0.0.1:{port}"


def questions(listed: dict[str, Any]) -> list[str]:
    """The oldest first. Lists are asked for without a query, which vllm-router would drop."""
    assert not listed["has_more"]
    asked = [each for each in listed["data"] if each.get("role") == "user"]
    return [each["content"][0]["text"] for each in reversed(asked)]


async def by_response(client: httpx.AsyncClient, n: int) -> None:
    """Each turn names the response before; in the end all that was said is there."""
    last: dict[str, Any] = {}
    for turn in range(TURNS):
        text = f"{n}, turn {turn}"
        last = await asked(client, text, previous_response_id=last.get("id"))
    listed = (await client.get(f"/v1/responses/{last['id']}/input_items")).json()
    assert questions(listed) == [f"{n}, turn {turn}" for turn in range(TURNS)]


async def by_conversation(client: httpx.AsyncClient, n: int) -> None:
    made = (await client.post("/v1/conversations")).json()["id"]
    count = 0
    for turn in range(TURNS):
        answer = await asked(client, f"{n}, turn {turn}", conversation=made)
        count += 1 + len(answer["output"])
    listed = (await client.get(f"/v1/conversations/{made}/items")).json()
    assert questions(listed) == [f"{n}, turn {turn}" for turn in range(TURNS)]
    assert len(listed["data"]) == count


@pytest.mark.parametrize("front", ["in turn", "vllm-router"])
async def test_conversations_without_stickiness(pair: Pair, front: str) -> None:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(client: httpx.AsyncClient, n: int) -> None:
        async with places:
            await (by_response if n % 2 else by_conversation)(client, n)

    fronts = {"in turn": in_turn, "vllm-router": routed}
    async with fronts[front](pair.urls) as url, asking(url) as client:
        await asyncio.gather(*(one(client, n) for n in range(CONVERSATIONS)))
    for url in pair.urls:  # both have worked
        async with asking(url) as client:
            metrics = (await client.get("/metrics")).text
        answered = [
            line for line in metrics.splitlines() if "/v1/responses" in line and "200" in line
        ]
        assert answered, metrics[:2000]


async def events_of(client: httpx.AsyncClient, id: str, after: int = -1) -> list[dict[str, Any]]:
    found = []
    path = f"/v1/responses/{id}?stream=true&starting_after={after}"
    async with client.stream("GET", path) as stream:
        assert stream.status_code == 200, await stream.aread()
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                found.append(orjson.loads(line[6:]))
    return found


async def begun(client: httpx.AsyncClient) -> str:
    answer = await asked(client, LONG, background=True, ignore_eos=True, max_output_tokens=3000)
    assert answer["status"] == "queued"
    return str(answer["id"])


async def test_streamed_and_cancelled_at_another(pair: Pair) -> None:
    async with asking(pair.one.url) as one, asking(pair.two.url) as two:
        id = await begun(one)
        listening = [asyncio.create_task(events_of(each, id)) for each in (one, two)]
        path = f"/v1/responses/{id}?stream=true"
        async with two.stream("GET", path) as stream:  # it grows there
            lines = stream.aiter_lines()
            while "delta" not in await anext(lines):
                pass
        cancelled = await two.post(f"/v1/responses/{id}/cancel")
        assert cancelled.status_code == 200 and cancelled.json()["status"] == "cancelled"
        here, there = await asyncio.gather(*listening)
        assert here == there and here[-1]["response"]["status"] == "cancelled"
        assert [each["sequence_number"] for each in here] == list(range(len(here)))
        assert await events_of(two, id, here[-3]["sequence_number"]) == here[-2:], "after the end"
        other = await begun(one)
        assert (await two.delete(f"/v1/responses/{other}")).json()["deleted"]
        assert (await one.get(f"/v1/responses/{other}")).status_code == 404
        assert (await two.get(f"/v1/responses/{other}")).status_code == 404


async def test_nobody_passes_for_a_server(pair: Pair) -> None:
    async with asking(pair.one.url) as one:
        for given in ("", "x", "x.y.z", "0.YW5u.0", "ffffffff..", "é"):
            headers = {"x-ossia-passed": given.encode()}
            answer = await one.get("/v1/responses/resp_1", headers=headers)
            assert answer.status_code == 401, given


async def test_one_is_killed(pair: Pair) -> None:
    """Only its running answers fail, and say so; all else goes on, its conversations too."""
    async with (
        in_turn(pair.urls) as front,
        asking(front) as client,
        asking(pair.one.url) as one,
        asking(pair.two.url) as two,
    ):
        conversation = (await one.post("/v1/conversations")).json()["id"]
        first = await asked(one, "remember 7", conversation=conversation)
        stays = await begun(two)
        dies = await begun(one)
        pair.one.process.kill()
        pair.one.process.wait()
        early = await two.post(f"/v1/responses/{dies}/cancel")
        assert early.status_code == 503 and "does not answer" in early.text
        for _ in range(3):
            await asked(client, "and 8", conversation=conversation)
        listed = (await client.get(f"/v1/conversations/{conversation}/items?limit=100")).json()
        assert first["output"][0]["id"] in {each["id"] for each in listed["data"]}
        found = (await client.get(f"/v1/responses/{dies}")).json()
        while found["status"] != "failed":  # in half a minute
            assert found["status"] in ("queued", "in_progress")
            await asyncio.sleep(0.5)
            found = (await client.get(f"/v1/responses/{dies}")).json()
        assert "is gone" in found["error"]["message"]
        assert (await events_of(two, dies))[-1]["type"] == "response.failed"
        goes_on = (await two.get(f"/v1/responses/{stays}")).json()
        assert goes_on["status"] in ("in_progress", "completed", "incomplete")


async def test_a_keys_limit_holds_over_both(new_database: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ann ann-s-key tokens-per-day=300\nbob bob-s-key\n")
    shared = ("--api-key-file", str(keys))
    with two_servers(new_database, tmp_path, shared, shared) as pair:
        async with asking(pair.one.url) as one, asking(pair.two.url) as two:
            body = {"input": "Hi", "max_output_tokens": 4, "store": False}

            async def status(client: httpx.AsyncClient, name: str) -> int:
                headers = {"authorization": f"Bearer {name}-s-key"}
                return (await client.post("/v1/responses", json=body, headers=headers)).status_code

            asked = [await status(client, "ann") for _ in range(10) for client in (one, two)]
            first = asked.index(429)
            assert 1 <= first < 10 and asked[:first] == [200] * first
            assert asked[first:] == [429] * len(asked[first:]), "at both, whichever was asked more"
            assert [await status(client, "bob") for client in (one, two)] == [200, 200]
