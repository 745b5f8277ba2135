"""Who of the servers that share the store is there: each tells its address every few seconds."""

from __future__ import annotations

from dataclasses import dataclass

from ossia.server.store.store import Store
from ossia.server.store.tables import StoredResponse

SILENT = 30.0  # seconds after which a server that says nothing counts as gone
REMEMBERED = 7 * 86400.0  # seconds for which it is known that there was one
BEAT = """
INSERT INTO replica (home, seen) VALUES ($1, $2)
ON CONFLICT (home) DO UPDATE SET seen = excluded.seen
"""


@dataclass(frozen=True)
class Replica:
    home: str
    lives: bool


class Replicas:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def beat(self, home: str, *, leaves: bool = False) -> None:
        """It is there, or `leaves` now."""
        now = self._store.clock()
        async with self._store.session() as db:
            await db.run(BEAT, home, now - SILENT if leaves else now)
            await db.run("DELETE FROM replica WHERE seen < $1", now - REMEMBERED)

    async def all(self) -> list[Replica]:
        async with self._store.session() as db:
            rows = await db.all("SELECT home, seen FROM replica ORDER BY home")
        since = self._store.clock() - SILENT
        return [Replica(home, seen > since) for home, seen in rows]

    async def living(self) -> set[str]:
        """Their addresses."""
        return {each.home for each in await self.all() if each.lives}

    async def orphans(self) -> list[StoredResponse]:
        """Unfinished responses of servers that are gone."""
        living = await self.living()
        return [each for each in await self._store.unfinished() if each.home not in living]
