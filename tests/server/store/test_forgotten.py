"""What was deleted for good does not come back: neither by an answer that was running then, nor by
a server that was away. Over both databases.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from one_process_fleet import OneDatabase

from ossia.harmony import Message
from ossia.server.hosted.approvals import UNKNOWN, ApprovedCalls
from ossia.server.store import approved
from ossia.server.store.approved import ApprovedTable
from ossia.server.store.forgotten import Forgotten, ForgottenTable
from ossia.server.store.postgres import Postgres
from ossia.server.store.protocol import Database, StoreError
from ossia.server.store.replicas import SILENT, Replicas
from ossia.server.store.store import Store
from ossia.server.store.tables import StoredResponse
from ossia.server.store.thoughts import Thoughts
from ossia.tools import ToolResult

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approved, "AGAIN", 0.001)


@dataclass
class Servers:
    """Of one database, with one clock."""

    database: Database
    now: float = 1_000_000.0

    def store(self) -> Store:
        return Store(self.database, 3600.0, 1 << 20, clock=lambda: self.now)


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.slow)])
async def servers(request: pytest.FixtureRequest) -> AsyncIterator[Servers]:
    database: Any = OneDatabase()
    if request.param == "postgres":
        database = Postgres(request.getfixturevalue("new_database"))
    await database.open()
    yield Servers(database)
    await database.close()
    getattr(database, "end", lambda: None)()


def response(id: str, begun: float = 0.0, owner: str = "ann", **fields: Any) -> StoredResponse:
    body = {"id": id, "status": "completed"} | fields
    return StoredResponse(id, owner, body, [], [{"id": f"i_{id}"}], begun=begun)


async def test_what_began_before_its_owner_was_deleted_is_not_kept(servers: Servers) -> None:
    one, two = servers.store(), servers.store()
    begun = servers.now
    await one.put(response("running", status="in_progress"))
    read = await two.get("ann", "running")
    assert read is not None
    servers.now += 5
    await one.forget("ann")
    servers.now += 5
    assert not await two.put(response("late", begun)) and not await two.put(read, again=True)
    for id in ("late", "running"):
        assert await one.get("ann", id) is None
    assert await two.put(response("late", begun, "bob")), "others' are kept"
    assert await two.put(response("new", servers.now)) and await two.put(response("now"))
    assert await one.get("ann", "new") is not None
    assert (await one.forget("ann"))["responses"] == 2


async def test_nor_is_what_it_thought_and_what_it_calls(servers: Servers) -> None:
    store = servers.store()
    begun = servers.now
    table, thoughts = ApprovedTable(store), Thoughts(store)
    thought = [Message("assistant", "secret", channel="analysis")]
    await table.begin_call("ann", "mcpr_1", begun)
    servers.now += 5
    await store.forget("ann")
    servers.now += 5
    await table.end_call("ann", "mcpr_1", ToolResult("secret"))
    with pytest.raises(StoreError, match="was deleted"):
        await table.begin_call("ann", "mcpr_2", begun)
    await thoughts.remember("ann", "call_1", thought, begun)
    await thoughts.remember("ann", "call_2", thought, servers.now)
    assert set(await thoughts.before("ann", ["call_1", "call_2"])) == {"call_2"}
    assert await count(store, "ann") == 0
    assert await table.begin_call("ann", "mcpr_2", servers.now)


async def count(store: Store, owner: str) -> int:
    async with store.session() as db:
        found = await db.one("SELECT count(*) FROM approved WHERE owner = $1", owner)
    assert found is not None
    return int(found[0])


async def test_servers_are_told_what_was_deleted(servers: Servers) -> None:
    one, two = servers.store(), servers.store()
    here, there = ForgottenTable(one), ForgottenTable(two)
    began = servers.now
    await here.add("ann", "file-1")
    servers.now += 10
    await here.add("bob", "file-2")
    servers.now += 10
    await one.forget("ann")
    assert await there.since(began) == [
        Forgotten("bob", "file-2", began + 10),
        Forgotten("ann", "", began + 20),
    ], "all that was hers is more than a file"
    assert await there.since(began + 15) == [Forgotten("ann", "", began + 20)]
    servers.now += 100
    await here.sweep(105)
    assert [each.owner for each in await there.since(0)] == ["ann"]


async def test_who_asks_at_another_server_waits_for_a_call(servers: Servers) -> None:
    """As long as the server that runs it is there."""
    homes = ("http://one", "http://two")
    one, two = (ApprovedTable(servers.store(), home) for home in homes)
    replicas = Replicas(servers.store())
    await replicas.beat("http://one")
    assert await one.begin_call("ann", "mcpr_1") and not await two.begin_call("ann", "mcpr_1")
    asked = asyncio.create_task(two.ended_call("ann", "mcpr_1"))
    done, _ = await asyncio.wait((asked,), timeout=0.02)
    assert not done
    await one.end_call("ann", "mcpr_1", ToolResult("done"))
    assert await asked == ToolResult("done")
    assert await one.begin_call("ann", "mcpr_2")
    assert await one.ended_call("ann", "mcpr_2") is None, "it runs here no more: nobody knows"
    asked = asyncio.create_task(two.ended_call("ann", "mcpr_2"))
    done, _ = await asyncio.wait((asked,), timeout=0.02)
    assert not done
    servers.now += SILENT + 1
    assert await asked is None, "nor does anybody, if its server has gone"
    calls = ApprovedCalls(one)
    asked = asyncio.create_task(calls.once("ann", "mcpr_4", asyncio.Event().wait))  # type: ignore[arg-type]
    while await count(servers.store(), "ann") < 3:
        await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await replicas.beat("http://one")
    given_up = await two.ended_call("ann", "mcpr_4")
    assert given_up == ToolResult(UNKNOWN, failed=True), "nobody waits for what was given up"
    assert await one.begin_call("ann", "mcpr_5")
    servers.now += 311
    await replicas.beat("http://one")
    assert await two.ended_call("ann", "mcpr_5") is None, "no call takes so long"
    assert await two.ended_call("ann", "mcpr_3") is None
