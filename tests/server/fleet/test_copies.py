"""Copies of files that other servers have."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ossia.server.fleet.fleet import Fleet
from ossia.server.sealing import Sealer


class Copies(Fleet):
    """Counts copies, each of which waits."""

    def __init__(self) -> None:
        super().__init__(None, Sealer(b"k" * 32), "http://here")  # type: ignore[arg-type]
        self.made: list[tuple[str, str]] = []
        self.go_on = asyncio.Event()

    async def _copy(self, uploads: Any, caller: str, id: str, home: str) -> None:
        self.made.append((caller, id))
        await self.go_on.wait()


@pytest.mark.anyio
async def test_a_file_that_many_name_is_copied_once_at_a_time() -> None:
    fleet = Copies()
    uploads: Any = None
    asking = [asyncio.create_task(fleet._copied(uploads, "ann", "f", "there")) for _ in range(5)]
    asking.append(asyncio.create_task(fleet._copied(uploads, "bob", "f", "there")))
    await asyncio.sleep(0)
    asking[0].cancel()  # whoever leaves takes nothing from the others
    await asyncio.sleep(0)
    fleet.go_on.set()
    await asyncio.gather(*asking[1:])
    assert sorted(fleet.made) == [("ann", "f"), ("bob", "f")]
    await fleet._copied(uploads, "ann", "f", "there")
    assert len(fleet.made) == 3, "later, it is looked for again"
