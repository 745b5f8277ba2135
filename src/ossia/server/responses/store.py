"""Responses and conversations that clients can come back for: one SQLite file, or memory.

Holds wire items (the JSON that clients send and get) and does not look into them, apart from their
ids. What belongs to one owner does not exist for another. Everything goes at its time: `ttl`
seconds after it was last written, and the oldest first when all of it together is larger than
`limit` bytes. Knows no routes and nothing that runs.

One connection behind one lock; every call takes about a millisecond, so that coroutines may make
them. The file is locked while it is open: what an answer of another server is about to write must
not look like one that died.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ossia.errors import DISK_FULL, STORE_FULL, OssiaError
from ossia.tools.kinds import KINDS
from ossia.turn.events import new_id

log = logging.getLogger("ossia.server")

APPLICATION = 0x6F737369  # "ossi" in the file's header: it is ours
VERSION = 5  # of the tables below
UNFINISHED = ("queued", "in_progress")  # statuses of a response that an answer is still to change
SHORT = 256 << 10  # bytes that are compressed in a few milliseconds
WINDOW = 32 << 10  # bytes that zlib looks back
ZLIB = b"\x78"  # how what zlib wrote begins, and JSON never does
OVERHEAD = 256  # bytes of a row besides its JSON: keys, indexes

PARTS = """
CREATE TABLE part (  -- an item of a response: of its input, or its output
    id TEXT NOT NULL, entry INTEGER NOT NULL REFERENCES entry ON DELETE CASCADE,
    PRIMARY KEY (id, entry)
) WITHOUT ROWID;
CREATE INDEX part_entry ON part (entry);
"""
APPROVED = """
CREATE TABLE approved (  -- a call that was begun because somebody approved of it
    owner TEXT NOT NULL, id TEXT NOT NULL, result BLOB, begun REAL NOT NULL,
    PRIMARY KEY (owner, id)
) WITHOUT ROWID;
"""
# What calls take counts with all else, and by itself: it does not go when there is no room.
COUNTED = f"""
ALTER TABLE approved ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
ALTER TABLE used ADD COLUMN calls INTEGER NOT NULL DEFAULT 0;  -- bytes of approved calls
CREATE INDEX approved_begun ON approved (begun);
CREATE TRIGGER call_begun AFTER INSERT ON approved BEGIN
    UPDATE used SET bytes = bytes + new.size, calls = calls + new.size; END;
CREATE TRIGGER call_ended AFTER UPDATE OF size ON approved BEGIN
    UPDATE used SET bytes = bytes + new.size - old.size, calls = calls + new.size - old.size; END;
CREATE TRIGGER call_gone AFTER DELETE ON approved BEGIN
    UPDATE used SET bytes = bytes - old.size, calls = calls - old.size; END;
UPDATE approved SET size = {OVERHEAD} + length(coalesce(result, ''));
"""
SCHEMA = f"""
CREATE TABLE entry (  -- a response or a conversation
    key INTEGER PRIMARY KEY, kind TEXT NOT NULL, owner TEXT NOT NULL, id TEXT NOT NULL,
    status TEXT, body BLOB NOT NULL, history BLOB, input BLOB, thread TEXT,
    expires REAL NOT NULL, written INTEGER NOT NULL, size INTEGER NOT NULL, UNIQUE (kind, owner, id)
);
CREATE INDEX entry_written ON entry (written);
CREATE INDEX entry_expires ON entry (expires);
CREATE INDEX entry_status ON entry (status) WHERE status IN {UNFINISHED};
CREATE TABLE item (  -- of a conversation; `position` orders them
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    entry INTEGER NOT NULL REFERENCES entry ON DELETE CASCADE,
    id TEXT NOT NULL, body BLOB NOT NULL, UNIQUE (entry, id)
);
CREATE INDEX item_entry ON item (entry, position);
{PARTS}
{APPROVED}
CREATE TABLE used (bytes INTEGER NOT NULL);  -- the sum of all sizes
INSERT INTO used VALUES (0);
CREATE TRIGGER entry_made AFTER INSERT ON entry BEGIN UPDATE used SET bytes = bytes + new.size; END;
CREATE TRIGGER entry_sized AFTER UPDATE OF size ON entry BEGIN
    UPDATE used SET bytes = bytes + new.size - old.size; END;
CREATE TRIGGER entry_gone AFTER DELETE ON entry BEGIN UPDATE used SET bytes = bytes - old.size; END;
{COUNTED}
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""
# from a version to the next; items of older responses cannot be referred to
UPGRADES = {
    1: "ALTER TABLE entry ADD COLUMN thread TEXT;",
    2: PARTS,
    3: APPROVED,
    4: COUNTED,
}
AWAY = "move it away, or name another file"
NEXT = "(SELECT coalesce(max(written), 0) + 1 FROM entry)"
PREFIXES = {  # of the ids of items
    **{kind.item: kind.id_prefix for kind in KINDS},
    "message": "msg",
    "reasoning": "rs",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "compaction": "cmp",
    "compaction_trigger": "cmpt",
    # of tools that other servers run: what they did is no part of the prompt
    "file_search_call": "fs",
    "image_generation_call": "ig",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcprs",
    "apply_patch_call_output": "apco",
    "shell_call_output": "sho",
    "local_shell_call": "lsh",
    "local_shell_call_output": "lsho",
}
PUT_RESPONSE = f"""
INSERT INTO entry (
    kind, owner, id, status, body, history, input, expires, size, thread, written
)
VALUES ('response', ?, ?, ?, ?, ?, ?, ?, ?, ?, {NEXT})
ON CONFLICT (kind, owner, id) DO UPDATE SET
    status = excluded.status, body = excluded.body, history = excluded.history,
    input = excluded.input, thread = excluded.thread, expires = excluded.expires,
    size = excluded.size, written = excluded.written
RETURNING key
"""


class StoreError(OssiaError):
    """The file cannot be used, or the disk failed."""


class DiskFull(StoreError):
    """There is no room on the disk: nothing can be kept, nor deleted, until there is some."""

    code = DISK_FULL


class StoreFull(StoreError):
    """There is no room for it in all that the store may have."""

    code = STORE_FULL


@dataclass(frozen=True)
class StoredResponse:
    """`response`: the Response object. `history`: the items before this request, `input`: this
    request's, all with ids. `expires`: seconds since 1970; 0: the store decides. `thread`: the
    first response of its chain, or its conversation: whose state its tools see; "": itself.
    """

    id: str
    owner: str
    response: dict[str, Any]
    history: list[dict[str, Any]]
    input: list[dict[str, Any]]
    expires: float = 0.0
    thread: str = ""

    @property
    def item_ids(self) -> list[str]:
        """Of this request's items and its answer's."""
        output = self.response.get("output") or []
        return [item["id"] for item in (*self.input, *output) if item.get("id")]

    @property
    def is_finished(self) -> bool:
        return self.response.get("status") not in UNFINISHED


class Store:
    """`path` None: in memory. `ttl` in seconds, `limit` in bytes of JSON. Raises `StoreError` for a
    file that is not a store, damaged, or in use by another server; so does every method when the
    disk fails.
    """

    def __init__(
        self, path: Path | None, ttl: float, limit: int, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self.ttl = ttl
        self.limit = limit
        self.clock = clock
        self._lock = threading.RLock()
        # One cursor for all: of each, the connection would keep a reference, small and for long.
        self._db = _opened(path).cursor()
        self._alike = b""  # what compressed responses are compared with: the first one

    def close(self) -> None:
        with self._lock:
            self._db.connection.close()

    @property
    def used(self) -> int:
        """Bytes. Expired entries count until the next write."""
        with self.reading() as db:
            return int(db.execute("SELECT bytes FROM used").fetchone()[0])

    # Responses

    def check_writable(self) -> None:
        """To be asked before an answer that is to be kept is begun. Raises `StoreError`."""
        with self.writing() as db:
            db.execute("UPDATE used SET bytes = bytes")

    def put(self, stored: StoredResponse, *, must: bool = False) -> None:
        """Inserts or replaces. An answer must not be lost because it cannot be kept: if there is no
        room, or the disk fails, that is logged, and the response is not found later. If it `must`
        be kept, raises `StoreError`.
        """
        try:
            parts = [orjson.dumps(p) for p in (stored.response, stored.history, stored.input)]
            size = sum(map(len, parts)) + OVERHEAD
            room = self.limit - self._calls()  # these stay, whatever else goes
            if size > room:
                self.delete(stored.owner, stored.id)  # what it was before it grew
                raise StoreFull(f"it has {size} bytes, and responses may have {room}")
            expires = stored.expires or self.clock() + self.ttl
            status = stored.response.get("status")
            row = (stored.owner, stored.id, status, *map(self._packed, parts), expires, size)
            with self.writing() as db:
                key = db.execute(PUT_RESPONSE, (*row, stored.thread)).fetchone()[0]
                db.execute("DELETE FROM part WHERE entry = ?", (key,))
                items = [(id, key) for id in stored.item_ids]
                db.executemany("INSERT OR IGNORE INTO part VALUES (?, ?)", items)
        except StoreError as error:
            if must:
                raise
            log.error("response %s is not kept: %s", stored.id, error)

    def get(self, owner: str, id: str) -> StoredResponse | None:
        found = self._responses("owner = ? AND id = ?", owner, id)
        return found[0] if found else None

    def with_item(self, owner: str, item: str) -> StoredResponse | None:
        """The newest response that has an item of this id in its input or output."""
        found = self._responses(
            "owner = ? AND key IN (SELECT entry FROM part WHERE id = ?)", owner, item
        )
        return found[-1] if found else None

    def delete(self, owner: str, id: str) -> bool:
        """Whether it was there."""
        return self._delete("response", owner, id)

    def unfinished(self) -> list[StoredResponse]:
        """Everybody's responses that are queued or in progress."""
        return self._responses(f"status IN {UNFINISHED}")

    def _responses(self, where: str, *values: str) -> list[StoredResponse]:
        columns = "id, owner, body, history, input, expires, thread"
        query = f"SELECT {columns} FROM entry WHERE kind = 'response' AND {where}"
        with self.reading() as db:
            rows = db.execute(
                f"{query} AND expires > ? ORDER BY written", (*values, self.clock())
            ).fetchall()
        return [
            StoredResponse(
                id,
                owner,
                self._read(body),
                self._read(history),
                self._read(given),
                expires,
                thread or "",
            )
            for id, owner, body, history, given, expires, thread in rows
        ]

    def _packed(self, data: bytes) -> bytes:
        """In memory, it takes less of it; what is long would hold up everybody."""
        if self.path is not None or len(data) > SHORT:
            return data
        with self._lock:
            self._alike = self._alike or data[:WINDOW]
        packing = zlib.compressobj(1, zdict=self._alike)
        return packing.compress(data) + packing.flush()

    def _read(self, data: bytes) -> Any:
        if data.startswith(ZLIB):
            data = zlib.decompressobj(zdict=self._alike).decompress(data)
        return orjson.loads(data)

    # Conversations: {"id", "object": "conversation", "created_at", "metadata"}

    def new_conversation(
        self, owner: str, metadata: dict[str, Any], items: Sequence[dict[str, Any]] = ()
    ) -> dict[str, Any]:
        """The wire object. Raises `StoreFull`."""
        id = new_id("conv")
        made = {
            "id": id,
            "object": "conversation",
            "created_at": int(self.clock()),
            "metadata": metadata,
        }
        with self.writing() as db:
            query = (
                "INSERT INTO entry (kind, owner, id, body, expires, size, written)"
                f" VALUES ('conversation', ?, ?, x'', 0, ?, {NEXT}) RETURNING key"
            )
            key = db.execute(query, (owner, id, OVERHEAD)).fetchone()[0]
            self._write_conversation(db, key, made)
            self._insert_items(db, key, items)
        return made

    def conversation(self, owner: str, id: str) -> dict[str, Any] | None:
        with self.reading() as db:
            found = self._find(db, owner, id)
            return None if found is None else found[1]

    def update_conversation(
        self, owner: str, id: str, metadata: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The wire object with its new metadata; None if there is no such conversation. Raises
        `StoreFull`.
        """
        with self.writing() as db:
            if (found := self._find(db, owner, id)) is None:
                return None
            updated = found[1] | {"metadata": metadata}
            self._write_conversation(db, found[0], updated)
            return updated

    def delete_conversation(self, owner: str, id: str) -> bool:
        """Whether it was there. Its items go with it."""
        return self._delete("conversation", owner, id)

    def items(self, owner: str, conversation_id: str) -> list[dict[str, Any]]:
        """In the order in which they were added; nothing if there is no such conversation."""
        return self._items(owner, conversation_id)

    def item(self, owner: str, conversation_id: str, id: str) -> dict[str, Any] | None:
        found = self._items(owner, conversation_id, id)
        return found[0] if found else None

    def add_items(
        self, owner: str, conversation_id: str, items: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The items as they were added: an item without an id, or with one that is taken, gets a
        new one. Raises `KeyError` for an unknown conversation, and `StoreFull`.
        """
        with self.writing() as db:
            if (found := self._find(db, owner, conversation_id)) is None:
                raise KeyError(conversation_id)
            return self._insert_items(db, found[0], items)

    def delete_item(self, owner: str, conversation_id: str, id: str) -> bool:
        """Whether it was there."""
        with self.writing() as db:
            if (found := self._find(db, owner, conversation_id)) is None:
                return False
            query = "DELETE FROM item WHERE entry = ? AND id = ? RETURNING length(body)"
            gone = db.execute(query, (found[0], id)).fetchone()
            if gone is not None:
                self._touch(db, found[0], -gone[0] - OVERHEAD)
            return gone is not None

    def _items(
        self, owner: str, conversation_id: str, id: str | None = None
    ) -> list[dict[str, Any]]:
        with self.reading() as db:
            if (found := self._find(db, owner, conversation_id)) is None:
                return []
            query = (
                "SELECT body FROM item WHERE entry = ? AND (? IS NULL OR id = ?) ORDER BY position"
            )
            return [orjson.loads(body) for (body,) in db.execute(query, (found[0], id, id))]

    def _insert_items(
        self, db: sqlite3.Cursor, key: int, items: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        made = []
        grown = 0
        for item in items:
            id = item.get("id")
            taken = "SELECT 1 FROM item WHERE entry = ? AND id = ?"
            if not id or db.execute(taken, (key, id)).fetchone() is not None:
                id = new_id(PREFIXES.get(item.get("type", "message"), "item"))
            made.append(item | {"id": id})
            body = orjson.dumps(made[-1])
            db.execute("INSERT INTO item (entry, id, body) VALUES (?, ?, ?)", (key, id, body))
            grown += len(body) + OVERHEAD
        self._touch(db, key, grown)
        return made

    def _find(self, db: sqlite3.Cursor, owner: str, id: str) -> tuple[int, dict[str, Any]] | None:
        """A conversation's key and wire object."""
        where = "kind = 'conversation' AND owner = ? AND id = ? AND expires > ?"
        query = f"SELECT key, body FROM entry WHERE {where}"
        found = db.execute(query, (owner, id, self.clock())).fetchone()
        if found is None:
            return None
        key, body = found
        return key, orjson.loads(body)

    def _write_conversation(
        self, db: sqlite3.Cursor, key: int, conversation: dict[str, Any]
    ) -> None:
        body = orjson.dumps(conversation)
        old = db.execute("SELECT length(body) FROM entry WHERE key = ?", (key,)).fetchone()[0]
        db.execute("UPDATE entry SET body = ? WHERE key = ?", (body, key))
        self._touch(db, key, len(body) - old)

    def _touch(self, db: sqlite3.Cursor, key: int, grown: int) -> None:
        """The conversation has `grown` by so many bytes, and becomes the newest of all. Raises
        `StoreFull`.
        """
        row = (grown, self.clock() + self.ttl, key)
        changes = f"size = size + ?, expires = ?, written = {NEXT}"
        update = f"UPDATE entry SET {changes} WHERE key = ? RETURNING size"
        size = db.execute(update, row).fetchone()[0]
        if size > self.limit:
            limit = f"the store keeps at most {self.limit}"
            raise StoreFull(f"the conversation would have {size} bytes; {limit}")

    # Both

    def _delete(self, kind: str, owner: str, id: str) -> bool:
        with self.writing() as db:
            query = "DELETE FROM entry WHERE kind = ? AND owner = ? AND id = ? RETURNING expires"
            gone = db.execute(query, (kind, owner, id)).fetchone()
            return gone is not None and gone[0] > self.clock()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Cursor]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                if _kind(error) == sqlite3.SQLITE_FULL:
                    raise DiskFull(
                        "the disk that responses are kept on is full: ask again when there is room "
                        "on it, or with store: false"
                    ) from error
                raise StoreError(
                    f"the store of responses ({self.path or 'in memory'}) failed: {error}"
                ) from error

    @contextmanager
    def writing(self, *, durably: bool = False) -> Iterator[sqlite3.Cursor]:
        """A transaction. At its end the oldest entries go until the rest fits. `durably`: a power
        cut does not take it.
        """
        with self.reading() as db:
            db.execute(f"PRAGMA synchronous = {'FULL' if durably else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                self._make_room(db)
                db.execute("COMMIT")
            except BaseException:
                if db.connection.in_transaction:  # some errors end it themselves
                    db.execute("ROLLBACK")
                raise

    def _calls(self) -> int:
        """Bytes of approved calls."""
        with self.reading() as db:
            calls: int = db.execute("SELECT calls FROM used").fetchone()[0]
        return calls

    def _make_room(self, db: sqlite3.Cursor) -> None:
        db.execute("DELETE FROM entry WHERE expires <= ?", (self.clock(),))
        oldest = "DELETE FROM entry WHERE key = (SELECT key FROM entry ORDER BY written LIMIT 1)"
        while db.execute("SELECT bytes FROM used").fetchone()[0] > self.limit:
            if db.execute(oldest).rowcount == 0:
                break  # approved calls of a store that was allowed to be larger


# The file


def _opened(path: Path | None) -> sqlite3.Connection:
    if path is None:
        db = _connected(":memory:")
        db.executescript(f"BEGIN; {SCHEMA} COMMIT;")
        return db
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # the files that SQLite adds next to it get its permissions
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        db = _connected(str(path))
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path} cannot be used to keep responses in: {error}") from error
    try:
        _check(db, path)
        path.chmod(0o600)
    except BaseException as error:
        db.close()
        if _is_busy(error):
            raise StoreError(
                f"{path} is in use by another server; give each a file of its own"
            ) from error
        if isinstance(error, OSError | sqlite3.Error):
            raise StoreError(
                f"{path} is damaged or is not a store of responses ({error}): {AWAY}"
            ) from error
        raise
    return db


def _kind(error: BaseException) -> int | None:
    """SQLite's extended codes keep the kind in their lowest byte."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _is_busy(error: BaseException) -> bool:
    """Whether another process holds the file."""
    return _kind(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _connected(name: str) -> sqlite3.Connection:
    db = sqlite3.connect(name, timeout=1.0, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA foreign_keys = ON")
    return db


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Makes the tables in a new file. Changes nothing in one that is not ours."""
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    is_new = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != (0 if is_new else APPLICATION) and not (
        is_new and application == APPLICATION
    ):
        raise StoreError(f"{path} is a database of another program: {AWAY}")
    while not is_new and version in UPGRADES:
        db.executescript(f"BEGIN; {UPGRADES[version]} PRAGMA user_version = {version + 1}; COMMIT;")
        version += 1
    if not is_new and version != VERSION:
        why = f"was written by another version of ossia (tables {version}, not {VERSION})"
        raise StoreError(f"{path} {why}: {AWAY}")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA journal_size_limit = {16 << 20}")
    # a power cut may take the last answers, never the file
    db.execute("PRAGMA synchronous = NORMAL")
    db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;" if is_new else "BEGIN IMMEDIATE; COMMIT;")
    told = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if told != "ok":
        raise StoreError(f"{path} is damaged ({told}): {AWAY}")
