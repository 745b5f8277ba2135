"""What callers have used, over several servers of one store: sums, days, limits that hold for
all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from ossia.server.access import LEASE, Access, Caller, Lease, secret_digest
from ossia.server.accounts.ledger import Ledger
from ossia.server.accounts.tally import DAY, Used
from ossia.server.settings import ApiKey, Limits
from ossia.server.store.postgres import Postgres
from ossia.server.store.protocol import Database, StoreUnreachable
from ossia.server.store.sqlite import Sqlite
from ossia.server.store.store import Store
from ossia.turn.events import Usage

pytestmark = pytest.mark.anyio
NOTHING = Usage()
NOON = 20_000 * DAY + DAY // 2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Fleet:
    """Servers of one store, and a clock that all of them have."""

    database: Database
    now: float = NOON
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        self.store = Store(self.database, 1e9, 1 << 30, clock=lambda: self.now)

    def server(self, *, shared: bool = True, model: str = "m", **limits: int) -> Server:
        keys = [ApiKey(name, secret_digest(name), Limits(**limits)) for name in ("ann", "bob")]
        access = Access(keys, clock=lambda: self.now)
        for caller in access.callers():
            caller.today.clock = lambda: self.now
        return Server(access, Ledger(self.store, access, model, shared=shared))


@dataclass
class Server:
    access: Access
    ledger: Ledger

    def caller(self, name: str = "ann") -> Caller:
        return self.access.caller({"x-api-key": name})

    async def told(self) -> None:
        """Until the other servers know what is said at once."""
        await asyncio.gather(*self.ledger._soon)

    async def ask(self, usage: Usage = NOTHING, name: str = "ann") -> str | None:
        """A request and its end: the code of its refusal, or None."""
        lease = Lease(self.access, self.caller(name), name)
        lease.hold()
        await self.ledger.admit(lease.caller)
        refusal = lease.caller.refusal(0)
        if refusal is None:
            lease.caller.spend(usage)
        lease.release()
        await self.told()
        return None if refusal is None else refusal.code


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.slow)])
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    database: Database = Sqlite(None)
    if request.param == "postgres":
        database = Postgres(request.getfixturevalue("new_database"))
    await database.open()
    yield Fleet(database)
    await database.close()


async def test_sums_by_day_caller_and_model(fleet: Fleet) -> None:
    one = fleet.server(shared=False)
    other = fleet.server(shared=False, model="n")
    await one.ask(Usage(10, 4, 3))
    await one.ask(Usage(1, 0, 1))
    one.caller().count_call()
    await other.ask(Usage(100, 0, 50))
    await other.ask(Usage(7, 0, 7), "bob")
    for server in (one, other):
        await server.ledger.settle_ended()
        await server.ledger.settle_ended()  # nothing is counted twice
    fleet.now += DAY
    await one.ask(Usage(2, 1, 2))
    await one.ledger.close()
    day = NOON // DAY
    told = [(each.day - day, each.owner, each.model, each.used) for each in await all_of(one)]
    assert told == [
        (0, "ann", "m", Used(11, 4, 4, 1)),
        (0, "ann", "n", Used(100, 0, 50)),
        (0, "bob", "n", Used(7, 0, 7)),
        (1, "ann", "m", Used(2, 1, 2)),
    ]
    assert [each.owner for each in await one.ledger.usage(day, day, "bob")] == ["bob"]
    await one.ledger.sweep(DAY)
    assert len(await all_of(one)) == 4
    fleet.now += DAY
    await one.ledger.sweep(DAY)
    assert [each.day - day for each in await all_of(one)] == [1]
    assert await one.ledger.forget("ann") and not await all_of(one)


async def all_of(server: Server) -> list:
    return await server.ledger.usage(0, 10**6)


@pytest.mark.parametrize("shared", [False, True])
async def test_a_days_tokens_are_one_sum_over_servers_and_restarts(
    shared: bool, fleet: Fleet
) -> None:
    one, other = (fleet.server(shared=shared, tokens_per_day=100) for _ in range(2))
    assert await one.ask(Usage(30, 0, 30)) is None
    assert await other.ask() is None
    assert await one.ask(Usage(30, 0, 30)) is None, "the last may take more than is left"
    for server in (one, other):
        await server.ledger.settle_ended()
    assert await one.ask() == "insufficient_quota"
    await other.ledger.settle(other.caller())
    assert await other.ask() == "insufficient_quota"
    assert await other.ask(name="bob") is None
    again = fleet.server(shared=shared, tokens_per_day=100)
    assert await again.ask() == "insufficient_quota"
    fleet.now += DAY / 2 + 1
    for server in (one, other, again):
        assert await server.ask() is None


async def test_limits_of_a_minute_hold_over_all_servers(fleet: Fleet) -> None:
    one, other = (fleet.server(tokens_per_minute=600) for _ in range(2))
    await one.ask(Usage(500))
    await other.ask()
    await one.ask()  # tells what was spent
    await other.ask(Usage(400))
    assert await other.ask() == "rate_limit_exceeded"
    assert await one.ask() == "rate_limit_exceeded"
    assert other.caller().tokens_left == one.caller().tokens_left == -300
    fleet.now += 31
    assert await one.ask() is None and await other.ask() is None
    assert one.caller().tokens_left == pytest.approx(10)


async def test_calls_of_tools_and_pages_too(fleet: Fleet) -> None:
    one, other = (fleet.server(tool_seconds_per_minute=60, pages_per_minute=6) for _ in range(2))
    await one.ask()
    one.caller().tool_seconds.spend(70)
    one.caller().pages.spend(6)
    await one.ask()
    await other.ask()
    assert other.caller().tool_seconds.is_used_up and other.caller().pages.is_used_up
    fleet.now += 11
    await other.ask()
    assert not other.caller().tool_seconds.is_used_up and not other.caller().pages.is_used_up


async def test_samples_at_a_time_count_over_all_servers(fleet: Fleet) -> None:
    one, other = (fleet.server(concurrent=2) for _ in range(2))
    leases = [Lease(server.access, server.caller(), "ann") for server in (one, other)]
    for lease, server in zip(leases, (one, other), strict=True):
        lease.hold()
        await server.ledger.admit(lease.caller)
        assert lease.caller.refusal(0) is None
    assert await one.ask() == await other.ask() == "concurrency_limit_exceeded"
    leases[0].release()
    await one.told()
    assert await other.ask() is None and await one.ask() is None
    leases[1].release()
    await other.told()
    leases[0].hold()
    await one.ledger.admit(one.caller())
    assert await other.ask() is None
    fleet.now += 50
    await one.ledger.settle_ended()
    fleet.now += 50
    await other.ask()
    assert other.caller().elsewhere == 1, "it runs for long, and its server says so"
    fleet.now += 61
    await other.ask()
    assert other.caller().elsewhere == 0, "its server has died"


async def test_who_was_deleted_once_counts_as_others_do(fleet: Fleet) -> None:
    """Also while nothing of the new answers is written yet."""
    one, other = (fleet.server(concurrent=2) for _ in range(2))
    await one.ledger.forget("ann")
    fleet.now += 1
    lease = Lease(one.access, one.caller(), "ann")
    lease.hold()
    await one.ledger.admit(lease.caller)
    fleet.now += 50
    await one.ledger.settle_ended()
    fleet.now += 50
    await other.ask()
    assert other.caller().elsewhere == 1, "it runs for long, and its server says so"


async def test_what_is_used_after_a_deletion_is_counted(fleet: Fleet) -> None:
    """A server that is told late drops what was used before, and nothing else."""
    server = fleet.server(shared=False)
    leases = []
    for _ in range(3):
        leases.append(Lease(server.access, server.caller(), "ann"))
        leases[-1].begun = fleet.now
        fleet.now += 10
    before, after, last = leases

    async def used(lease: Lease, *told: float) -> list[int]:
        token = LEASE.set(lease)
        lease.caller.spend(Usage(7))
        LEASE.reset(token)
        for at in told:
            await server.ledger.drop("ann", at)
        await server.ledger.settle(lease.caller)
        return [each.used.prompt for each in await all_of(server)]

    deleted = NOON + 5
    assert await used(before, deleted) == []
    assert await used(after, deleted) == [7]
    assert await used(before) == [7], "it began before"
    server.caller().forgotten = 0.0  # as of a server, or a user, that is new here
    assert await used(last, deleted) == [14]


async def test_a_server_alone_asks_nothing_before_a_request(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fleet.server(shared=False, concurrent=2, tokens_per_minute=9)

    def none() -> None:
        raise AssertionError("a statement")

    monkeypatch.setattr(fleet.store, "session", none)
    assert await server.ask(Usage(20)) is None
    assert await server.ask() == "rate_limit_exceeded"


async def test_a_store_that_fails_loses_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Limits hold by what this server knows; one line says so, however many callers there are."""
    server = fleet.server(tokens_per_minute=600)
    await server.ask(Usage(100))
    await server.ask(Usage(5), "bob")

    def none() -> None:
        raise StoreUnreachable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(fleet.store, "session", none)
        assert await server.ask(Usage(600)) is None
        assert await server.ask() == "rate_limit_exceeded"
        caplog.clear()
        await server.ledger.settle_ended()
        assert len(caplog.records) == 1
    await server.ledger.settle_ended()
    assert [each.used.prompt for each in await all_of(server)] == [700, 5]


async def test_many_at_the_same_time_add_up(fleet: Fleet) -> None:
    servers = [fleet.server(tokens_per_minute=10**9) for _ in range(3)]
    asked: list[Callable] = [servers[n % 3].ask for n in range(60)]
    await asyncio.gather(*(ask(Usage(1, 1, 2)) for ask in asked))
    for server in servers:
        await server.ledger.close()
    assert [each.used for each in await all_of(servers[0])] == [Used(60, 60, 120)]
    await asyncio.gather(*(server.ask() for server in servers))
    await asyncio.gather(*(server.ask() for server in servers))
    assert {server.caller().tokens_left for server in servers} == {10**9 - 180}


async def test_what_waits_for_its_turn_is_not_written_twice(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third comes between the end of the first and the beginning of the second."""
    server = fleet.server(shared=False)
    write = server.ledger._write

    async def slow(*asked: Any) -> Any:
        for _ in range(10):
            await asyncio.sleep(0)
        return await write(*asked)

    monkeypatch.setattr(server.ledger, "_write", slow)
    caller = server.caller()
    first = asyncio.create_task(server.ledger.settle(caller))
    second = asyncio.create_task(server.ledger.settle(caller))
    await asyncio.sleep(0)
    caller.spend(Usage(7, 0, 3))
    await first
    await asyncio.gather(second, *(server.ledger.settle(caller) for _ in range(3)))
    assert [each.used for each in await all_of(server)] == [Used(7, 0, 3)]


async def test_who_waits_when_writing_is_cancelled_is_written_later(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fleet.server(shared=False)
    for name in ("ann", "bob"):
        await server.ask(Usage(5), name)
    began = asyncio.Event()

    async def stuck(*asked: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(server.ledger, "_write", stuck)
        task = asyncio.create_task(server.ledger.settle_ended())
        await began.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await server.ledger.close()
    assert [each.used.prompt for each in await all_of(server)] == [5, 5]


async def test_a_statement_at_midnight_counts_for_the_day_before(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fleet.server(shared=False, tokens_per_day=100)
    fleet.now = NOON + DAY / 2 - 1
    write = server.ledger._write

    async def late(*asked: Any) -> Any:
        fleet.now += 2
        return await write(*asked)

    monkeypatch.setattr(server.ledger, "_write", late)
    server.caller().spend(Usage(200))
    await server.ledger.settle(server.caller())
    assert not server.caller().today.is_used_up, "the new day has begun"
