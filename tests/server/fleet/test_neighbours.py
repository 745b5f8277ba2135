"""Neighbours that hang or break, and a heartbeat that whatever fails beside it does not stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from one_process_fleet import OneDatabase

from ossia.server.fleet import fleet as fleets
from ossia.server.fleet import passing
from ossia.server.fleet.fleet import Fleet
from ossia.server.fleet.passing import Line, Proof
from ossia.server.sealing import Sealer
from ossia.server.store.replicas import Replicas
from ossia.server.store.store import Store
from ossia.server.store.tables import StoredResponse
from ossia.server.wire.errors import ApiError

pytestmark = pytest.mark.anyio
SECRET = b"s" * 32
HALF = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def neighbour(says: bytes, *, hangs: bool) -> AsyncIterator[str]:
    """A server that takes a request, says that, and then nothing more, or hangs up."""
    is_over = asyncio.Event()

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(says)
        await writer.drain()
        if hangs:
            await is_over.wait()
        writer.close()

    server = await asyncio.start_server(visit, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        is_over.set()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)  # connections are closed in the loop's next turns


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "breaks off"])
@pytest.mark.parametrize("says", [b"", HALF], ids=["at once", "in the middle"])
async def test_a_neighbour_that_does_not_answer_is_a_503(
    hangs: bool, says: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "READ", 0.05)
    line = Line(Proof(Sealer(SECRET)))
    async with neighbour(says, hangs=hangs) as home:
        with pytest.raises(ApiError) as caught:
            await line.read(home, "/v1/files", "ann")
    assert (caught.value.status, caught.value.code) == (503, "replica_unreachable")
    assert caught.value.headers["Retry-After"]
    await line.close()


class Beating:
    """A server that beats all the time, and what it is told to do beside that."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.fleet = Fleet(store, Sealer(SECRET), "http://here")
        self.calls = 0
        self.fails: list[Exception] = []
        self.given_up: list[str] = []

    async def catch_up(self) -> None:
        self.calls += 1
        if self.fails:
            raise self.fails.pop()

    async def give_up(self, stored: StoredResponse) -> None:
        self.given_up.append(stored.id)
        ended = StoredResponse(stored.id, stored.owner, {"status": "failed"}, [], [])
        await self.store.put(ended)

    async def until(self, calls: int) -> None:
        while self.calls < calls:
            await asyncio.sleep(0)


@pytest.fixture
async def beating(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Beating]:
    monkeypatch.setattr(fleets, "BEAT", 0.0)
    database = OneDatabase()
    made = Beating(Store(database, 3600.0, 1 << 20))
    await made.fleet.open(made.give_up, made.catch_up)
    yield made
    await made.fleet.close()
    database.end()


async def test_the_heartbeat_outlives_what_fails_beside_it(
    beating: Beating, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the others would take this server for gone, and give up its answers."""
    beats: list[str] = []
    beat = Replicas.beat

    async def counted(self: Replicas, home: str, **more: Any) -> None:
        beats.append(home)
        if len(beats) == 2:
            raise TypeError("a bug")
        await beat(self, home, **more)

    monkeypatch.setattr(Replicas, "beat", counted)
    beating.fails = [ValueError("a row that nobody expects"), KeyError("another")]
    await beating.until(beating.calls + 5)
    failures = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(failures) == 3 and all(each.exc_info for each in failures)
    assert len(beats) >= 6
    (here,) = await Replicas(beating.store).all()
    assert here.lives


async def test_who_has_not_heard_the_store_gives_nobody_up(
    beating: Beating, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before it has heard it for as long as others need to be heard again."""
    body = {"id": "resp_1", "status": "in_progress"}
    await beating.store.put(StoredResponse("resp_1", "ann", body, [], [], home="http://gone"))
    beating.fails = [RuntimeError("the store was away")]
    await beating.until(beating.calls + 5)
    assert beating.given_up == []
    monkeypatch.setattr(fleets, "SILENT", 0.0)
    await beating.until(beating.calls + 3)
    assert beating.given_up == ["resp_1"]
