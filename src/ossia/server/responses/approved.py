"""The calls that were run because somebody approved of them, in the store's file: each is begun
once, over restarts too.

Knows the store's connection; nothing of approvals. A row goes when its id cannot be answered any
more. Together they have a share of the store: the oldest results go first, and when there is none
left no more calls are begun, as a call that is not remembered could be run twice.
"""

from __future__ import annotations

import logging
import sqlite3

import orjson

from ossia.server.hosted.approvals import LASTS
from ossia.server.responses.store import OVERHEAD, Store, StoreError, StoreFull
from ossia.tools import ToolResult

log = logging.getLogger("ossia.server")
SHARE = 4  # the store's limit over what calls may have of it
LONGEST = 1 << 20  # characters of a result that is kept
MARGIN = 3600.0  # seconds by which clocks may differ
CUT = "\n[... {} more characters of this result were not kept]"
GONE = "error: the call was carried out before, and its result is not kept any more"
# of the oldest call whose result is still there
DROP = """
UPDATE approved SET result = ?, size = ?
WHERE (owner, id) = (SELECT owner, id FROM approved WHERE size > ? ORDER BY begun LIMIT 1)
"""


class ApprovedTable:
    """See `approvals.Ledger`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._limit = store.limit // SHARE
        self._gone = _written(ToolResult(GONE, failed=True))
        with store.writing() as db:  # the store may have been allowed to be larger
            self._shrink(db)

    def begin_call(self, owner: str, id: str) -> bool:
        """Raises `StoreError`: what cannot be remembered must not be run."""
        now = self._store.clock()
        old = now - LASTS - MARGIN
        with self._store.writing(durably=True) as db:
            db.execute("DELETE FROM approved WHERE begun < ?", (old,))
            query = "INSERT OR IGNORE INTO approved (owner, id, begun, size) VALUES (?, ?, ?, ?)"
            is_new = db.execute(query, (owner, id, now, OVERHEAD)).rowcount == 1
            if is_new and not self._shrink(db):
                raise StoreFull(
                    "too many approved calls are remembered: approve more when the oldest is "
                    f"{LASTS / 86400:.0f} days old, or start the server with more --store-bytes"
                )
            return is_new

    def end_call(self, owner: str, id: str, result: ToolResult) -> None:
        """The call has been carried out, whether or not its result can be kept."""
        longest = min(LONGEST, self._limit // SHARE)
        left_out = len(result.text) - longest
        text = result.text[:longest] + (CUT.format(left_out) if left_out > 0 else "")
        kept = _written(ToolResult(text, failed=result.failed))
        try:
            with self._store.writing() as db:
                query = "UPDATE approved SET result = ?, size = ? WHERE owner = ? AND id = ?"
                db.execute(query, (kept, OVERHEAD + len(kept), owner, id))
                self._shrink(db)
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

    def _shrink(self, db: sqlite3.Cursor) -> bool:
        """Drops the oldest results until calls fit their share; whether they do."""
        while db.execute("SELECT calls FROM used").fetchone()[0] > self._limit:
            if db.execute(DROP, (self._gone, OVERHEAD, OVERHEAD)).rowcount == 0:
                return False
        return True


def _written(result: ToolResult) -> bytes:
    text = result.text.encode("utf-8", "replace").decode()
    return orjson.dumps({"text": text, "failed": result.failed})
