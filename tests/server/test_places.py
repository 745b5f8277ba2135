"""Places for costly work, and the turns of callers at them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from ossia.server.access import Whose
from ossia.server.places import Places

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Work:
    """Pieces of work at places, each of which ends when it is told to."""

    def __init__(self, number: int) -> None:
        self.places = Places(number)
        self.begun: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def ask(self, caller: str, name: str, *, is_batch: bool = False) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._do(Whose(caller, is_batch), name))
        await asyncio.sleep(0)

    async def _do(self, whose: Whose, name: str) -> None:
        async with self.places.place(whose):
            self.begun.append(name)
            await self._ends[name].wait()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self.tasks[name]

    async def leave(self, name: str) -> None:
        self.tasks[name].cancel()
        with suppress(asyncio.CancelledError):
            await self.tasks[name]


async def test_a_light_caller_is_next() -> None:
    work = Work(1)
    for n in range(20):
        await work.ask("heavy", f"h{n}")
    assert work.begun == ["h0"] and not work.places.is_wanted(Whose("heavy"))
    await work.ask("light", "l0")
    await work.ask("light", "l1")
    assert work.places.is_wanted(Whose("heavy"))
    for name in ("h0", "l0", "h1", "l1", "h2"):
        assert work.begun[-1] == name
        await work.end(name)
    assert work.begun[-1] == "h3"
    for n in range(3, 20):
        await work.end(f"h{n}")


async def test_one_caller_never_has_all_places() -> None:
    """Work such as reading a PDF gives no place back before its end."""
    work = Work(2)
    await work.ask("heavy", "h0")
    await work.ask("heavy", "h1")
    assert work.begun == ["h0"], "one place stays for others"
    await work.ask("light", "l0")
    assert work.begun == ["h0", "l0"]
    await work.ask("light", "l1")
    assert not work.places.is_wanted(Whose("heavy")), "nobody could have its place"
    await work.ask("third", "t0")
    assert work.places.is_wanted(Whose("heavy")) and work.places.is_wanted(Whose("light"))
    await work.end("l0")
    assert work.begun[2:] == ["t0"]
    for name in ("h0", "t0", "h1", "l1"):
        await work.end(name)
    assert work.begun[3:] == ["l1", "h1"]


async def test_batch_work_comes_last_and_leaves_a_place_for_others() -> None:
    work = Work(2)
    for n in range(3):
        await work.ask(f"batch {n}", f"b{n}", is_batch=True)
    assert work.begun == ["b0"]
    await work.ask("chat", "c0")
    assert work.begun == ["b0", "c0"]
    await work.ask("chat", "c1")
    assert not work.places.is_wanted(Whose("chat")), "it gives way to no batch work"
    assert not work.places.is_wanted(Whose("batch 0", is_batch=True)), "one place is the caller's"
    await work.ask("other", "o0")
    assert work.places.is_wanted(Whose("batch 0", is_batch=True))
    await work.end("b0")
    assert work.begun[-1] == "o0"
    for name in ("c0", "c1", "o0"):
        await work.end(name)
    assert work.begun[3:] == ["c1", "b1"]
    for name in ("b1", "b2"):
        await work.end(name)


async def test_who_leaves_frees_a_place_and_holds_up_nobody() -> None:
    work = Work(3)
    for n in range(4):
        await work.ask("a", f"a{n}")
    await work.leave("a2")  # waits
    await work.leave("a0")  # is at work
    assert work.begun == ["a0", "a1", "a3"]
    for n in range(3):
        await work.ask("b", f"b{n}")
    assert work.begun[3:] == ["b0"]
    await work.leave("a1")
    assert work.begun[-1] == "b1"
    await work.end("b0")
    assert work.begun[-1] == "b2"
    for name in ("a3", "b1", "b2"):
        await work.end(name)
    await work.ask("a", "a4")
    await work.ask("a", "a5")
    await work.ask("b", "b3")
    assert work.begun[-3:] == ["a4", "a5", "b3"], "all places are free again"
    for name in ("a4", "a5", "b3"):
        await work.end(name)


async def test_who_is_called_while_it_leaves_passes_the_place_on() -> None:
    work = Work(1)
    for name in ("a", "b", "c"):
        await work.ask(name, name)
    ending = asyncio.create_task(work.end("a"))
    await asyncio.sleep(0)
    work.tasks["b"].cancel()
    await ending
    await asyncio.sleep(0.01)
    assert work.begun[-1] == "c"
    await work.end("c")
