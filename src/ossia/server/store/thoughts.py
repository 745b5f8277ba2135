"""Reasoning between calls: a client that drops it would have the model forget why it called.

The messages that led to a call, by its id, for an hour. They have a share of their own beside what
the store may keep, so that answers of clients who never come back take no room of responses.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping, Sequence

from ossia.harmony import Message
from ossia.server.store.protocol import StoreError
from ossia.server.store.store import AT_ONCE, Store, calls_and_forgotten
from ossia.server.store.tables import OVERHEAD, plain

log = logging.getLogger("ossia.server")
LASTS = 3600.0  # seconds
SHARE = 2  # the store's limit over what all thoughts may have, beside it
PUT = """
INSERT INTO thought (owner, id, body, expires, size) VALUES ($1, $2, $3, $4, $5)
"""
OLD = "DELETE FROM thought WHERE expires <= $3 OR (owner = $1 AND id = $2)"
OLDEST = "DELETE FROM thought WHERE position = (SELECT min(position) FROM thought)"

Remembered = Mapping[str, tuple[Message, ...]]


class Thoughts:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._limit = store.limit // SHARE

    async def remember(
        self, owner: str, call_id: str, messages: Sequence[Message], begun: float | None = None
    ) -> None:
        """An answer goes on without it, if it cannot be kept. `begun`: when the answer began; None:
        now.
        """
        body = _written(messages)
        size = len(body) + OVERHEAD
        if size > self._limit:
            return
        now = self._store.clock()
        try:
            async with self._store.database.transaction() as db:
                await db.run(OLD, owner, call_id, now)
                _, is_forgotten = await calls_and_forgotten(db, owner, begun or now)
                if is_forgotten:
                    return
                await db.run(PUT, owner, call_id, body, now + LASTS, size)
                while True:
                    used = await db.one("SELECT thoughts FROM used")
                    assert used is not None
                    if used[0] <= self._limit:
                        break
                    await db.run(OLDEST)
        except StoreError as error:
            log.warning("what led to a call is not remembered: %s", error)

    async def before(self, owner: str, call_ids: Sequence[str]) -> Remembered:
        """Of those of the calls that are remembered."""
        asked = dict(zip(plain(call_ids), call_ids, strict=True))
        wanted = list(asked)
        found: dict[str, tuple[Message, ...]] = {}
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            places = ", ".join(f"${n}" for n in range(3, 3 + len(some)))
            where = f"owner = $1 AND expires > $2 AND id IN ({places})"
            query = f"SELECT id, body FROM thought WHERE {where}"
            async with self._store.session() as db:
                rows = await db.all(query, owner, self._store.clock(), *some)
            found |= {asked[id]: _read(body) for id, body in rows}
        return found


def _written(messages: Sequence[Message]) -> bytes:
    """In ASCII, so that half a surrogate pair comes back as it was."""
    return zlib.compress(json.dumps([each.to_dict() for each in messages]).encode(), 1)


def _read(body: bytes) -> tuple[Message, ...]:
    return tuple(Message.from_dict(each) for each in json.loads(zlib.decompress(body)))
