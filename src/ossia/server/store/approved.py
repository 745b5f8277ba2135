"""The calls that were run because somebody approved of them: each is begun once, over restarts and
by one server.

Knows the store; nothing of approvals. A row goes when its id cannot be answered any more. Together
they have a share of the store: the oldest results go first, and when there is none left no more
calls are begun, as a call that is not remembered could be run twice.
"""

from __future__ import annotations

import asyncio
import logging

import orjson

from ossia.server.hosted.approvals import LASTS
from ossia.server.store.protocol import Statements, StoreError, StoreFull
from ossia.server.store.replicas import Replicas
from ossia.server.store.store import Store, calls_and_forgotten, calls_of
from ossia.server.store.tables import OVERHEAD
from ossia.tools import ToolResult

log = logging.getLogger("ossia.server")
SHARE = 4  # the store's limit over what calls may have of it
LONGEST = 1 << 20  # characters of a result that is kept
AGAIN = 0.5  # seconds until it is asked again what a call at another server has become
MOMENT = 10.0  # seconds in which a call that has ended is written
MARGIN = 3600.0  # seconds by which clocks may differ
CUT = "\n[... {} more characters of this result were not kept]"
GONE = "error: the call was carried out before, and its result is not kept any more"
BEGIN = """
INSERT INTO approved (owner, id, begun, size, home) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
"""
# of the oldest call whose result is still there
DROP = """
UPDATE approved SET result = $1, size = $2
WHERE (owner, id) = (SELECT owner, id FROM approved WHERE size > $3 ORDER BY begun LIMIT 1)
"""


class ApprovedTable:
    """See `approvals.Ledger`. `home`: the address of this server, where several share the store.
    `longest`: seconds that a call may take.
    """

    def __init__(self, store: Store, home: str = "", longest: float = 300.0) -> None:
        self._store = store
        self._home = home
        self._longest = longest
        self._replicas = Replicas(store)
        self._limit = store.limit // SHARE
        self._gone = _written(ToolResult(GONE, failed=True))

    async def open(self) -> None:
        """The store may have been allowed to be larger before."""
        async with self._store.writing() as db:
            await self._shrink(db)

    async def begin_call(self, owner: str, id: str, begun: float | None = None) -> bool:
        """Raises `StoreError`: what cannot be remembered must not be run."""
        now = self._store.clock()
        async with self._store.writing(durably=True) as db:
            _, is_forgotten = await calls_and_forgotten(db, owner, begun or now)
            if is_forgotten:
                raise StoreError("all that is yours was deleted after this answer began: ask again")
            await db.run("DELETE FROM approved WHERE begun < $1", now - LASTS - MARGIN)
            is_new = await db.run(BEGIN, owner, id, now, OVERHEAD, self._home) == 1
            if is_new and not await self._shrink(db):
                raise StoreFull(
                    "too many approved calls are remembered: approve more when the oldest is "
                    f"{LASTS / 86400:.0f} days old, or start the server with more --store-bytes"
                )
        return is_new

    async def end_call(self, owner: str, id: str, result: ToolResult) -> None:
        """The call has been carried out, whether or not its result can be kept."""
        longest = min(LONGEST, self._limit // SHARE)
        left_out = len(result.text) - longest
        text = result.text[:longest] + (CUT.format(left_out) if left_out > 0 else "")
        kept = _written(ToolResult(text, failed=result.failed))
        try:
            async with self._store.writing() as db:
                query = "UPDATE approved SET result = $1, size = $2 WHERE owner = $3 AND id = $4"
                await db.run(query, kept, OVERHEAD + len(kept), owner, id)
                await self._shrink(db)
        except StoreError as error:
            log.error("the result of an approved call is not kept: %s", error)

    async def ended_call(self, owner: str, id: str) -> ToolResult | None:
        """Waits as long as another server that is there may run the call."""
        while True:
            async with self._store.session() as db:
                query = "SELECT result, home, begun FROM approved WHERE owner = $1 AND id = $2"
                found = await db.one(query, owner, id)
            if found is None:
                return None
            result, home, begun = found
            if result is not None:
                told = orjson.loads(result)
                return ToolResult(told["text"], failed=told["failed"])
            is_over = self._store.clock() - begun > self._longest + MOMENT
            if home == self._home or is_over or home not in await self._replicas.living():
                return None
            await asyncio.sleep(AGAIN)

    async def _shrink(self, db: Statements) -> bool:
        """Drops the oldest results until calls fit their share; whether they do."""
        while await calls_of(db) > self._limit:
            if await db.run(DROP, self._gone, OVERHEAD, OVERHEAD) == 0:
                return False
        return True


def _written(result: ToolResult) -> bytes:
    text = result.text.encode("utf-8", "replace").decode()
    return orjson.dumps({"text": text, "failed": result.failed})
