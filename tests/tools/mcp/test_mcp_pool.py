"""Which connection a caller has, and which ones end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ossia.errors import McpError
from ossia.tools.mcp.config import McpConfig
from ossia.tools.mcp.connection import Connection
from ossia.tools.mcp.pool import IDLE_SECONDS, MOST, Pool

CONFIG = McpConfig("team", ("true",))


def on_loop(test: Callable[[], None]) -> Callable[[], None]:
    """On an event loop, where a pool lives."""

    def run() -> None:
        async def inside() -> None:
            test()

        asyncio.run(inside())

    run.__name__ = test.__name__
    return run


@on_loop
def test_each_caller_has_its_own() -> None:
    first = Connection(CONFIG)
    pool = Pool(CONFIG, first)
    assert pool.known("ann") is None
    assert pool.of("ann") is first  # nobody has called through it
    assert pool.of("bob") is not first
    assert pool.of("ann") is first and pool.known("ann") is first
    assert pool.of("bob") is pool.known("bob")


@on_loop
def test_the_least_recently_used_gives_way_unless_it_is_in_use() -> None:
    pool = Pool(CONFIG)
    connections = [pool.of(str(n)) for n in range(MOST)]
    pool.of("0")
    connections[1].busy = 1
    pool.of("one more")
    assert pool.known("0") and pool.known("1") and pool.known("2") is None
    for n in range(MOST):
        pool.of(str(n) if n != 2 else "one more").busy = 1
    with pytest.raises(McpError, match="in use: try again later"):
        pool.of("another")


@on_loop
def test_those_that_nobody_uses_end() -> None:
    now = [0.0]
    pool = Pool(CONFIG, clock=lambda: now[0])
    pool.of("ann")
    pool.of("bob").busy = 1
    now[0] = IDLE_SECONDS + 1
    pool.of("cid")
    assert pool.known("ann") is None and pool.known("bob") is not None
    now[0] *= 3
    assert pool.of("cid") is pool.known("cid")
