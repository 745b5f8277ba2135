"""PostgreSQL: what two servers see of each other, and a database that goes away and comes back."""

from __future__ import annotations

import asyncio
import builtins
import logging
import re
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from postgres_server import Postgres as Server

from ossia.errors import RequestError
from ossia.server.store import postgres
from ossia.server.store.approved import ApprovedTable
from ossia.server.store.opening import database_of
from ossia.server.store.postgres import Postgres, shown
from ossia.server.store.protocol import StoreError, StoreUnreachable
from ossia.server.store.store import Store
from ossia.server.store.tables import StoredResponse
from ossia.server.wire.errors import ApiError

pytestmark = pytest.mark.anyio
slow = pytest.mark.slow


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def store(url: str, limit: int = 1 << 20) -> Store:
    return Store(database_of(url), 3600.0, limit)


def stored(id: str, status: str = "completed") -> StoredResponse:
    return StoredResponse(id, "ann", {"id": id, "status": status}, [], [{"id": f"item_{id}"}])


async def both(url: str) -> tuple[Store, Store]:
    """Two servers that start together."""
    made = store(url), store(url)
    await asyncio.gather(*(each.open() for each in made))
    return made


@slow
async def test_two_servers_start_together_and_share_all(new_database: str) -> None:
    stores = [store(new_database) for _ in range(6)]
    await asyncio.gather(*(each.open() for each in stores))
    await asyncio.gather(
        *(each.put(stored(f"r{n}_{k}")) for n, each in enumerate(stores) for k in range(5))
    )
    for n in range(6):
        for each in stores:
            assert await each.get("ann", f"r{n}_4") is not None
    size = len(b'{"id":"r0_0","status":"completed"}') + len(b'[][{"id":"item_r0_0"}]') + 256
    assert {await each.used() for each in stores} == {30 * size}
    for each in stores:
        await each.close()


@slow
async def test_what_only_one_may_do(new_database: str) -> None:
    one, two = await both(new_database)
    tables = ApprovedTable(one), ApprovedTable(two)
    for n in range(5):
        begun = await asyncio.gather(*(each.begin_call("ann", f"mcpr_{n}") for each in tables))
        assert sorted(begun) == [False, True]
    for n in range(10):  # a cancel there and an end here
        await one.put(stored(f"r{n}", "in_progress"))
        done = await asyncio.gather(
            two.put(stored(f"r{n}", "cancelled")), one.put(stored(f"r{n}", "completed"))
        )
        found = await one.get("ann", f"r{n}")
        assert found is not None and sorted(done) == [False, True]
        assert found.response["status"] == ("cancelled" if done[0] else "completed")
    await one.close()
    await two.close()


@slow
async def test_items_that_two_servers_add(new_database: str) -> None:
    one, two = await both(new_database)
    id = (await one.new_conversation("ann", {}))["id"]
    message = {"type": "message", "id": "msg_1"}
    added = await asyncio.gather(
        *((one, two)[n % 2].add_items("ann", id, [message, message]) for n in range(20))
    )
    items = await two.items("ann", id)
    assert len({item["id"] for item in items}) == len(items) == 40
    ids = [item["id"] for item in items]
    for pair in added:  # what was added together stays together
        place = ids.index(pair[0]["id"])
        assert ids[place + 1] == pair[1]["id"]
    await one.close()
    await two.close()


@slow
async def test_a_database_that_goes_away_and_comes_back(
    database_server: Server, new_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept = store(new_database)
    await kept.open()
    await kept.put(stored("r1"))
    asks: list[Callable[[], Awaitable[Any]]] = [
        lambda: kept.get("ann", "r1"),
        lambda: kept.check_writable(),
        lambda: kept.put(stored("r2"), must=True),
        lambda: kept.add_items("ann", "conv", []),
    ]
    database_server.stop()
    try:
        for ask in asks * 3:
            with pytest.raises(StoreUnreachable) as caught:
                await ask()
            told = ApiError.of(caught.value)
            assert (told.status, told.code) == (503, "store_unreachable")
            assert "ask again" in told.message and "Retry-After" in told.headers
        errors = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert len(errors) == 1 and "does not answer" in errors[0].getMessage()
        with pytest.raises(StoreUnreachable):
            await kept.put(stored("r3"))
    finally:
        database_server.start()
    for _ in range(200):
        try:
            assert await kept.get("ann", "r1") is not None
            break
        except StoreUnreachable:
            await asyncio.sleep(0.05)
    assert await kept.put(stored("r2"), must=True) and "answers again" in caplog.text
    await kept.close()


@slow
async def test_one_broken_connection_breaks_no_other(new_database: str) -> None:
    kept = store(new_database)
    await kept.open()
    await kept.put(stored("r1"))
    async with kept.session() as good, kept.session() as bad:
        found = await bad.one("SELECT pg_backend_pid()")
        assert found is not None
        await good.one("SELECT pg_terminate_backend($1)", found[0])
        with pytest.raises(StoreUnreachable):
            async with kept.session() as third:
                await third.one("SELECT pg_terminate_backend(pg_backend_pid())")
        assert await good.one("SELECT 1") == (1,)
        assert await kept.get("ann", "r1") is not None  # and nobody is refused meanwhile
    await kept.close()


@slow
async def test_to_clean_up_takes_its_own_time(
    new_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a statement may: it waits for others, and nobody waits for it."""
    import asyncpg

    made = store(new_database)
    await made.open()
    await made.close()
    monkeypatch.setattr(postgres, "STATEMENT", 1.0)
    kept = store(new_database)
    await kept.open()
    other = await asyncpg.connect(new_database)
    holding = other.transaction()
    await holding.start()
    await other.execute("LOCK TABLE entry IN SHARE UPDATE EXCLUSIVE MODE")
    cleaning = asyncio.create_task(kept.scrub())
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    long = "clock_timestamp() - query_start > interval '2 s'"  # a statement would be given up
    while not await other.fetchval(f"{waits} AND {long}"):
        await asyncio.sleep(0.02)
    await holding.rollback()
    await other.close()
    await cleaning
    await kept.close()


@slow
async def test_urls_and_certificates_that_do_not_work(new_database: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.crt"
    empty.write_text("no certificate\n")
    for more, error, named in (
        ("sslmode=yes", StoreError, "by this URL: .*sslmode"),
        (f"sslmode=verify-full&sslrootcert={empty}", StoreUnreachable, "sslrootcert=FILE"),
        (f"sslmode=verify-full&sslrootcert={tmp_path}/no.crt", StoreUnreachable, "No such file"),
    ):
        with pytest.raises(error, match=named):
            await store(f"{new_database}&{more}").open()


@slow
async def test_tables_of_an_earlier_version_are_changed_once(new_database: str) -> None:
    """By whichever of the servers is the first."""
    import asyncpg

    old = store(new_database)
    await old.open()
    await old.put(stored("r1"))
    await old.close()
    connection = await asyncpg.connect(new_database)
    await connection.execute("DROP TABLE forgotten; ALTER TABLE approved DROP COLUMN home")
    await connection.execute("UPDATE ossia SET version = 1")
    await connection.close()
    one, two = await both(new_database)
    assert await two.get("ann", "r1") is not None
    assert (await one.forget("ann"))["responses"] == 1
    assert await ApprovedTable(two, "http://two").begin_call("ann", "mcpr_1")
    for each in (one, two):
        await each.close()


@slow
async def test_databases_that_are_no_store(new_database: str) -> None:
    kept = store(new_database)
    await kept.open()
    async with kept.session() as db:
        await db.run("UPDATE ossia SET version = 99")
    await kept.close()
    with pytest.raises(StoreError, match="another version"):
        await store(new_database).open()
    import asyncpg

    connection = await asyncpg.connect(new_database)
    await connection.execute("DROP TABLE ossia")
    await connection.close()
    with pytest.raises(StoreError, match="another program"):
        await store(new_database).open()


async def test_no_database_there(tmp_path: Any) -> None:
    kept = store(f"postgresql://ann:secret@/x?host={tmp_path}")
    with pytest.raises(StoreUnreachable) as caught:
        await kept.open()
    assert "secret" not in str(caught.value) and "postgresql:///x" in str(caught.value)


def test_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *more: Any) -> Any:
        if name == "asyncpg":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.delitem(sys.modules, "asyncpg", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(RequestError, match=r"ossia\[fleet\]"):
        postgres.driver()


def test_passwords_are_not_shown() -> None:
    assert shown("postgresql://ann:s@e@db:5432/x?y=z") == "postgresql://db:5432/x"
    assert shown("postgresql://ann:s%23@a:1,[::1]:2/x-y") == "postgresql://a:1,[::1]:2/x-y"
    assert shown("postgresql://ann:12#34") == shown("postgresql://ann:12?3@4") == "postgresql://..."
    assert isinstance(database_of("postgresql://db/x"), Postgres)


@pytest.mark.parametrize("secret", ["se#cr", "se#@cr", "se/cr", "se?cr", "@se:cr?", "[se"])
async def test_nor_is_any_part_of_one_that_is_no_part_of_a_url(secret: str, tmp_path: Any) -> None:
    """And its error says how it is written."""
    parts = [each for each in re.split(r"\W", secret) if each]
    for url in (
        f"postgresql://ann:{secret}@127.0.0.1:1/x",
        f"postgresql://ann:{secret}",
        f"postgresql:///x?host={tmp_path}&password={secret}@db",
    ):
        told = shown(url)
        assert not any(part in told for part in parts), told
    kept = store(f"postgresql://ann:{secret}@/x?host={tmp_path}")
    with pytest.raises(StoreError) as caught:
        await kept.open()
    told = "".join(traceback.format_exception(caught.value))
    lines = [line for line in told.splitlines() if line.startswith(("ValueError", "ossia."))]
    assert lines and not any(f"'{part}" in line for line in lines for part in parts), lines
