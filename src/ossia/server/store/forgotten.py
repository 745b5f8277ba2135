"""What was deleted for good, and when, so that neither an answer that was running then nor a server
that was away brings it back.

All that was an owner's, or one file. What began before that is not kept any more; what a server
still has of it on its disk, it deletes when it is told (`accounts/forgetting.py`). Remembered for
as long as anything of it could be anywhere. Knows the store; nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass

from ossia.server.store.store import FORGET, Store


@dataclass(frozen=True)
class Forgotten:
    """`id`: of a file; "": all that was the owner's. `at`: seconds since 1970."""

    owner: str
    id: str
    at: float


class ForgottenTable:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, owner: str, id: str) -> None:
        """A file is deleted. Raises `StoreError`."""
        async with self._store.session() as db:
            await db.run(FORGET, owner, id, self._store.clock())

    async def since(self, time: float) -> list[Forgotten]:
        """The earliest first."""
        async with self._store.session() as db:
            query = "SELECT owner, id, at FROM forgotten WHERE at >= $1 ORDER BY at"
            rows = await db.all(query, time)
        return [Forgotten(*row) for row in rows]

    async def sweep(self, seconds: float) -> None:
        """What was deleted longer ago."""
        async with self._store.session() as db:
            await db.run("DELETE FROM forgotten WHERE at < $1", self._store.clock() - seconds)
