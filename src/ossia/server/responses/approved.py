"""The calls that were run because somebody approved of them, in the store's file: each is begun
once, over restarts too.

Knows the store's connection; nothing of approvals. A row goes when its id cannot be answered any
more.
"""

from __future__ import annotations

import logging

import orjson

from ossia.server.hosted.approvals import LASTS
from ossia.server.responses.store import Store, StoreError
from ossia.tools import ToolResult

log = logging.getLogger("ossia.server")
LONGEST = 1 << 16  # characters of a result that is kept
MARGIN = 3600.0  # seconds by which clocks may differ


class ApprovedTable:
    """See `approvals.Ledger`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin_call(self, owner: str, id: str) -> bool:
        """Raises `StoreError`: what cannot be remembered must not be run."""
        now = self._store.clock()
        old = now - LASTS - MARGIN
        with self._store.writing(durably=True) as db:
            db.execute("DELETE FROM approved WHERE begun < ?", (old,))
            query = "INSERT OR IGNORE INTO approved (owner, id, begun) VALUES (?, ?, ?)"
            return db.execute(query, (owner, id, now)).rowcount == 1

    def end_call(self, owner: str, id: str, result: ToolResult) -> None:
        """The call has been carried out, whether or not its result can be kept."""
        text = result.text[:LONGEST].encode("utf-8", "replace").decode()
        kept = orjson.dumps({"text": text, "failed": result.failed})
        try:
            with self._store.writing() as db:
                query = "UPDATE approved SET result = ? WHERE owner = ? AND id = ?"
                db.execute(query, (kept, owner, id))
        except StoreError as error:
            log.error("the result of an approved call is not kept: %s", error)

    def ended_call(self, owner: str, id: str) -> ToolResult | None:
        with self._store.reading() as db:
            query = "SELECT result FROM approved WHERE owner = ? AND id = ?"
            found = db.execute(query, (owner, id)).fetchone()
        if found is None or found[0] is None:
            return None
        told = orjson.loads(found[0])
        return ToolResult(told["text"], failed=told["failed"])
