"""Two servers of nano that share a PostgreSQL, and a front that asks them in turn."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from nano_server import Process, serving


@dataclass
class Pair:
    one: Process
    two: Process

    @property
    def urls(self) -> list[str]:
        return [self.one.url, self.two.url]


@contextmanager
def two_servers(database: str, folder: Path, *more: tuple[str, ...]) -> Iterator[Pair]:
    """`more`: options of the first, and of the second."""
    shared = ("--store", database, "--secret-file", str(folder / "secret"))
    with ExitStack() as stack:
        one, two = (stack.enter_context(serving(*shared, *own)) for own in more or ((), ()))
        yield Pair(one, two)


@pytest.fixture
def pair(new_database: str, tmp_path: Path) -> Iterator[Pair]:
    with two_servers(new_database, tmp_path) as made:
        yield made


@asynccontextmanager
async def in_turn(urls: list[str]) -> AsyncIterator[str]:
    """A front: every connection goes to the next server; to another, if that one is not there."""
    places = [(str(urlsplit(url).hostname), int(urlsplit(url).port or 0)) for url in urls]
    numbers = itertools.count()
    tasks: set[asyncio.Task[None]] = set()

    async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                to.write(data)
                await to.drain()
        to.close()
        with suppress(OSError):
            await to.wait_closed()

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in places:
            with suppress(OSError):
                return await asyncio.open_connection(*places[next(numbers) % len(places)])
        raise ConnectionError("none of them is there")

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await connect()
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(visit(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        if tasks:  # clients have closed their connections: these end by themselves
            await asyncio.wait(tasks)
        await asyncio.sleep(0)  # transports are closed in the loop's next turn
