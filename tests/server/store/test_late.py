"""Writes that wait for a database: nothing is lost, nothing comes twice, and order stays."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import pytest

from ossia.server.store.late import LateWrites
from ossia.server.store.protocol import StoreFull, StoreUnreachable


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


pytestmark = pytest.mark.anyio


class Fake:
    """A database that does not answer the first so many times."""

    def __init__(self, silent: int) -> None:
        self.silent = silent
        self.asked: list[tuple[str, bool]] = []
        self.kept: list[str] = []

    async def write(self, name: str, again: bool) -> None:
        self.asked.append((name, again))
        if self.silent > 0:
            self.silent -= 1
            raise StoreUnreachable("gone")
        if name == "full":
            raise StoreFull("no room")
        self.kept.append(name)


async def until_kept(fake: Fake, count: int) -> None:
    async with asyncio.timeout(10):
        while len(fake.kept) < count:
            await asyncio.sleep(0.001)


async def test_a_write_waits_for_a_database_that_is_back_soon() -> None:
    fake = Fake(silent=2)
    late = LateWrites(60.0, 0.0)
    await late.keep("one", lambda again: fake.write("one", again))
    assert fake.kept == ["one"]  # before anybody is told
    assert fake.asked == [("one", False), ("one", True), ("one", True)]
    await late.close()


async def test_what_is_left_for_later_comes_in_order(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake(silent=9)
    late = LateWrites(0.0, 0.001)
    names = ["one", "full", "two", "three"]

    async def kept(name: str) -> None:
        await late.keep(name, lambda again: fake.write(name, again))

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(kept(name))
    await until_kept(fake, 3)
    assert fake.kept == ["one", "two", "three"]
    assert "full is not kept: no room" in caplog.text
    fake.silent = 3
    await kept("four")  # the database goes away once more
    await until_kept(fake, 4)
    await late.close()


async def test_other_errors_are_the_answers_own() -> None:
    fake = Fake(silent=0)
    late = LateWrites(0.0, 0.0)
    with pytest.raises(StoreFull):
        await late.keep("full", lambda again: fake.write("full", again))
    await late.close()


async def test_what_never_came_is_told_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake(silent=1_000_000)
    late = LateWrites(0.0, 60.0)
    await late.keep("one", lambda again: fake.write("one", again))
    await asyncio.sleep(0)
    await late.close()
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert errors[-1] == "one is not kept: the database does not answer"


async def test_a_database_that_is_back_at_the_end_gets_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = Fake(silent=3)
    late = LateWrites(0.0, 60.0)
    for name in ("one", "two"):
        await late.keep(name, partial(fake.write, name))
    await asyncio.sleep(0)
    assert len(fake.asked) == 3, "the next try is a minute away"
    await late.close()
    assert fake.kept == ["one", "two"]
    assert "not kept" not in caplog.text


async def test_what_fails_for_good_keeps_no_other(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake(silent=0)
    late = LateWrites(0.0, 0.001)

    async def broken(again: bool) -> None:
        if again:
            raise KeyError("a bug")
        raise StoreUnreachable("gone")

    await late.keep("broken", broken)
    fake.silent = 1
    await late.keep("one", lambda again: fake.write("one", again))
    await until_kept(fake, 1)
    assert "broken is not kept" in caplog.text
    await late.close()


async def test_what_is_being_written_at_the_end_is_told_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    late = LateWrites(0.0, 0.0)
    begun = asyncio.Event()

    async def endless(again: bool) -> None:
        if not again:
            raise StoreUnreachable("gone")
        begun.set()
        await asyncio.Event().wait()

    await late.keep("one", endless)
    await begun.wait()
    await late.close()
    assert "one is not kept: the database does not answer" in caplog.text
