"""The store of one server: an SQLite file, or memory.

One connection, which coroutines use in turn; every statement takes about a millisecond, so that
they are not moved to a thread. The file is locked while it is open: what an answer of another
server is about to write must not look like one that died.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from ossia.server.store.protocol import DiskFull, Row, StoreError
from ossia.server.store.tables import OVERHEAD, UNFINISHED, plain

APPLICATION = 0x6F737369  # "ossi" in the file's header: it is ours
VERSION = 7  # of the tables below

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
# What several servers have to know of each other; a file's server is alone, and has no address.
SHARED = """
ALTER TABLE entry ADD COLUMN home TEXT NOT NULL DEFAULT '';  -- where it is being answered
CREATE TABLE thought (  -- the messages that led to a call, for clients that drop them
    owner TEXT NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL, expires REAL NOT NULL,
    size INTEGER NOT NULL, position INTEGER PRIMARY KEY AUTOINCREMENT, UNIQUE (owner, id)
);
CREATE INDEX thought_expires ON thought (expires);
ALTER TABLE used ADD COLUMN thoughts INTEGER NOT NULL DEFAULT 0;  -- bytes, not among the others
CREATE TRIGGER thought_made AFTER INSERT ON thought BEGIN
    UPDATE used SET thoughts = thoughts + new.size; END;
CREATE TRIGGER thought_gone AFTER DELETE ON thought BEGIN
    UPDATE used SET thoughts = thoughts - old.size; END;
CREATE TABLE replica (home TEXT PRIMARY KEY, seen REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE account (  -- what was used: `day` since 1970, 0: of no day; see accounts/ledger.py
    owner TEXT NOT NULL, kind TEXT NOT NULL, part TEXT NOT NULL, day INTEGER NOT NULL,
    amount REAL NOT NULL, rate REAL NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (owner, kind, part, day)
) WITHOUT ROWID;
CREATE INDEX account_day ON account (day);
"""
# What was deleted for good; and where a call that was approved is run.
FORGOTTEN = """
CREATE TABLE forgotten (  -- `id`: of a file; '': all that was the owner's. See forgotten.py
    owner TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (owner, id)
) WITHOUT ROWID;
ALTER TABLE approved ADD COLUMN home TEXT NOT NULL DEFAULT '';
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
{SHARED}
{FORGOTTEN}
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""
# from a version to the next; items of older responses cannot be referred to
UPGRADES = {
    1: "ALTER TABLE entry ADD COLUMN thread TEXT;",
    2: PARTS,
    3: APPROVED,
    4: COUNTED,
    5: SHARED,
    6: FORGOTTEN,
}
AWAY = "move it away, or name another file"


class Sqlite:
    """`path` None: in memory. Raises `StoreError` for a file that is not a store, damaged, or in
    use by another server. See `protocol.Database`.
    """

    is_shared = False

    def __init__(self, path: Path | None) -> None:
        self.path = path
        # One cursor for all: of each, the connection would keep a reference, small and for long.
        self._db = _opened(path).cursor()
        self._turn = asyncio.Lock()

    @property
    def packs(self) -> bool:
        return self.path is None

    async def open(self) -> None:
        """It is open already: what is wrong with the file is said before a model is loaded."""

    async def close(self) -> None:
        self._db.connection.close()

    async def scrub(self) -> None:
        """Deleted rows are overwritten at once; the log still has pages from before."""
        async with self._turn:
            with self._telling():
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def clock(self) -> float:
        return time.time()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[_Statements]:
        async with self._turn:
            with self._telling():
                yield _Statements(self._db)

    @asynccontextmanager
    async def transaction(self, *, durably: bool = False) -> AsyncIterator[_Statements]:
        async with self._turn:
            with self._telling(), self._committing(durably=durably):
                yield _Statements(self._db)

    @contextmanager
    def _committing(self, *, durably: bool) -> Iterator[None]:
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durably else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.connection.in_transaction:  # some errors end it themselves
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if _kind(error) == sqlite3.SQLITE_FULL:
                raise DiskFull(
                    "the disk that responses are kept on is full: ask again when there is room "
                    "on it, or with store: false"
                ) from error
            raise StoreError(
                f"the store of responses ({self.path or 'in memory'}) failed: {error}"
            ) from error


class _Statements:
    """See `protocol.Statements`."""

    def __init__(self, db: sqlite3.Cursor) -> None:
        self._db = db

    async def all(self, query: str, *values: Any) -> list[Row]:
        return self._db.execute(_numbered(query), plain(values)).fetchall()

    async def one(self, query: str, *values: Any) -> Row | None:
        found = self._db.execute(_numbered(query), plain(values)).fetchall()  # all: then it is over
        return found[0] if found else None

    async def run(self, query: str, *values: Any) -> int:
        return self._db.execute(_numbered(query), plain(values)).rowcount

    async def many(self, query: str, rows: Sequence[Row]) -> None:
        self._db.executemany(_numbered(query), [plain(row) for row in rows])


@lru_cache(256)
def _numbered(query: str) -> str:
    """SQLite numbers values with `?1`; `$1` would be a name."""
    return re.sub(r"\$(\d+)", r"?\1", query)


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
    db.execute("PRAGMA secure_delete = ON")  # zeros in the place of what is deleted
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
