"""Numbers that are added up for a caller over periods, by all servers: one statement each."""

from __future__ import annotations

from collections.abc import Mapping

from ossia.server.store.store import Store


class Counters:
    """`period`: seconds since 1970 at which it begins; who counts decides how long it is."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, owner: str, amounts: Mapping[str, float], period: int) -> dict[str, float]:
        """What there is then, by name."""
        if not amounts:
            return {}
        values: list[object] = [owner, period]
        places = []
        for name in sorted(amounts):  # in one order, so that two servers do not wait in a circle
            values += [name, float(amounts[name])]
            places.append(f"($1, ${len(values) - 1}, $2, ${len(values)})")
        query = (
            f"INSERT INTO counter (owner, name, period, amount) VALUES {', '.join(places)} "
            "ON CONFLICT (owner, name, period) DO UPDATE SET "
            "amount = counter.amount + excluded.amount RETURNING name, amount"
        )
        async with self._store.session() as db:
            return dict(await db.all(query, *values))

    async def totals(self, since: int, until: int) -> list[tuple[str, str, int, float]]:
        """Owner, name, period and amount of every period that begins in that time."""
        query = (
            "SELECT owner, name, period, amount FROM counter "
            "WHERE period >= $1 AND period < $2 ORDER BY owner, name, period"
        )
        async with self._store.session() as db:
            return [(*row,) for row in await db.all(query, since, until)]

    async def forget(self, *, before: int | None = None, owner: str | None = None) -> None:
        """Periods that began earlier, or all of an owner's."""
        async with self._store.session() as db:
            if before is not None:
                await db.run("DELETE FROM counter WHERE period < $1", before)
            if owner is not None:
                await db.run("DELETE FROM counter WHERE owner = $1", owner)
