"""The store that several servers share: PostgreSQL, by asyncpg (`pip install 'ossia[fleet]'`).

The first server makes the tables, under a lock, so that two which start together do not collide.
Writers take turns by locking the row of `used`, so that the rules above see what a single writer
would see, whichever server it is. While the database does not answer, every request that needs it
is refused, and the log has one line; it is connected to again when it is asked again. A connection
that breaks takes nothing with it but the statement that was on it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from ossia.errors import RequestError
from ossia.server.store.protocol import DiskFull, Row, StoreError, StoreUnreachable
from ossia.server.store.tables import OVERHEAD, UNFINISHED, plain

if TYPE_CHECKING:
    import asyncpg

log = logging.getLogger("ossia.server")
VERSION = 2  # of the tables below
LOCK = 0x6F737369  # "ossi": of whoever makes the tables
CONNECTIONS = 8  # of one server
CONNECT = 5.0  # seconds
STATEMENT = 30.0  # seconds
SCRUB = 3600.0  # seconds: of large tables it takes long, and holds up nobody
# a server that stops in the middle of a transaction must not hold up the others
SESSION = {"application_name": "ossia", "idle_in_transaction_session_timeout": "15s"}
AGAIN = 0.5  # seconds in which a database that did not answer is not tried again
HOST = r"(\[[0-9a-fA-F:.%]+\]|[\w.-]*)(:\d+)?"
SHOWN = re.compile(rf"{HOST}(,{HOST})*(/[\w.%-]*)?")  # hosts with ports, and a database
# What was deleted for good; and where a call that was approved is run.
FORGOTTEN = """
CREATE TABLE forgotten (  -- `id`: of a file; '': all that was the owner's. See forgotten.py
    owner TEXT NOT NULL, id TEXT NOT NULL, at DOUBLE PRECISION NOT NULL, PRIMARY KEY (owner, id)
);
ALTER TABLE approved ADD COLUMN home TEXT NOT NULL DEFAULT '';
"""
SCHEMA = f"""
CREATE TABLE ossia (version INTEGER NOT NULL);
INSERT INTO ossia VALUES ({VERSION});
CREATE TABLE entry (  -- a response or a conversation
    key BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind TEXT NOT NULL, owner TEXT NOT NULL,
    id TEXT NOT NULL, status TEXT, body BYTEA NOT NULL, history BYTEA, input BYTEA, thread TEXT,
    expires DOUBLE PRECISION NOT NULL, written BIGINT NOT NULL, size BIGINT NOT NULL,
    home TEXT NOT NULL DEFAULT '', UNIQUE (kind, owner, id)
);
CREATE INDEX entry_written ON entry (written);
CREATE INDEX entry_expires ON entry (expires);
CREATE INDEX entry_status ON entry (status) WHERE status IN {UNFINISHED};
CREATE TABLE item (  -- of a conversation; `position` orders them
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entry BIGINT NOT NULL REFERENCES entry ON DELETE CASCADE,
    id TEXT NOT NULL, body BYTEA NOT NULL, UNIQUE (entry, id)
);
CREATE INDEX item_entry ON item (entry, position);
CREATE TABLE part (  -- an item of a response: of its input, or its output
    id TEXT NOT NULL, entry BIGINT NOT NULL REFERENCES entry ON DELETE CASCADE,
    PRIMARY KEY (id, entry)
);
CREATE INDEX part_entry ON part (entry);
CREATE TABLE approved (  -- a call that was begun because somebody approved of it
    owner TEXT NOT NULL, id TEXT NOT NULL, result BYTEA, begun DOUBLE PRECISION NOT NULL,
    size BIGINT NOT NULL DEFAULT {OVERHEAD}, PRIMARY KEY (owner, id)
);
CREATE INDEX approved_begun ON approved (begun);
CREATE TABLE thought (  -- the messages that led to a call, for clients that drop them
    owner TEXT NOT NULL, id TEXT NOT NULL, body BYTEA NOT NULL, expires DOUBLE PRECISION NOT NULL,
    size BIGINT NOT NULL, position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    UNIQUE (owner, id)
);
CREATE INDEX thought_expires ON thought (expires);
CREATE TABLE replica (home TEXT PRIMARY KEY, seen DOUBLE PRECISION NOT NULL);
CREATE TABLE account (  -- what was used: `day` since 1970, 0: of no day; see accounts/ledger.py
    owner TEXT NOT NULL, kind TEXT NOT NULL, part TEXT NOT NULL, day BIGINT NOT NULL,
    amount DOUBLE PRECISION NOT NULL, rate DOUBLE PRECISION NOT NULL, at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (owner, kind, part, day)
);
CREATE INDEX account_day ON account (day);
CREATE TABLE used (  -- sums of sizes: all that counts, of it approved calls; and thoughts
    bytes BIGINT NOT NULL, calls BIGINT NOT NULL, thoughts BIGINT NOT NULL
);
INSERT INTO used VALUES (0, 0, 0);
CREATE FUNCTION count_size() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE grown BIGINT := 0;
BEGIN
    IF TG_OP <> 'DELETE' THEN grown := grown + NEW.size; END IF;
    IF TG_OP <> 'INSERT' THEN grown := grown - OLD.size; END IF;
    IF TG_TABLE_NAME = 'thought' THEN UPDATE used SET thoughts = thoughts + grown;
    ELSIF TG_TABLE_NAME = 'approved' THEN
        UPDATE used SET bytes = bytes + grown, calls = calls + grown;
    ELSE UPDATE used SET bytes = bytes + grown; END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER sized AFTER INSERT OR DELETE OR UPDATE OF size ON entry
    FOR EACH ROW EXECUTE FUNCTION count_size();
CREATE TRIGGER sized AFTER INSERT OR DELETE OR UPDATE OF size ON approved
    FOR EACH ROW EXECUTE FUNCTION count_size();
CREATE TRIGGER sized AFTER INSERT OR DELETE OR UPDATE OF size ON thought
    FOR EACH ROW EXECUTE FUNCTION count_size();
{FORGOTTEN}
"""
UPGRADES = {1: FORGOTTEN}  # from a version to the next


class Postgres:
    """`url`: as in postgresql://user:password@host/database. See `protocol.Database`."""

    is_shared = True
    packs = False

    def __init__(self, url: str) -> None:
        self.url = url
        self._pool: asyncpg.Pool[Any] | None = None
        self._opening = asyncio.Lock()
        self._ahead = 0.0  # seconds by which the database's clock is before ours
        self._tried: float | None = None  # when it did not answer, on `time.monotonic`

    async def open(self) -> None:
        """Makes the tables if there are none. Raises `StoreError`."""
        try:
            with self._telling():
                await self._connected()
        except StoreUnreachable as error:  # whoever starts a server wants to know why
            raise StoreUnreachable(f"{error} ({error.__cause__!r})") from error.__cause__

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()  # a database that is gone cannot be said goodbye to
            self._pool = None

    async def scrub(self) -> None:
        """What was deleted makes room. The database writes over it in its own time: only VACUUM
        FULL, under which everybody waits, makes new files at once.
        """
        async with self.session() as db:
            tables = "entry, item, part, approved, thought, account, forgotten"
            await db.connection.execute(f"VACUUM {tables}", timeout=SCRUB)

    def clock(self) -> float:
        return time.time() + self._ahead

    @asynccontextmanager
    async def session(self) -> AsyncIterator[_Statements]:
        with self._telling():
            pool = await self._connected()
            connection = await self._acquired(pool)
            try:
                yield _Statements(connection)
            except driver().InternalClientError:
                connection.terminate()  # it is in a state from which it does not come back
                raise
            finally:
                await pool.release(connection)

    @asynccontextmanager
    async def transaction(self, *, durably: bool = False) -> AsyncIterator[_Statements]:
        """Always durable: the database's own setting decides."""
        async with self.session() as db, db.connection.transaction():
            await db.one("SELECT bytes FROM used FOR UPDATE")
            yield db

    async def _connected(self) -> asyncpg.Pool[Any]:
        self._check_patience()
        if self._pool is not None:
            return self._pool
        async with self._opening:
            if self._pool is None:
                self._pool = await self._opened()
        return self._pool

    def _check_patience(self) -> None:
        """Requests need not each wait for a database that has just not answered."""
        if self._tried is not None and time.monotonic() - self._tried < AGAIN:
            raise self._silent()

    def _silent(self) -> StoreUnreachable:
        return StoreUnreachable(
            f"the database of responses ({shown(self.url)}) does not answer: ask again soon"
        )

    async def _opened(self) -> asyncpg.Pool[Any]:
        made = await driver().create_pool(
            self.url,
            min_size=0,
            max_size=CONNECTIONS,
            timeout=CONNECT,
            command_timeout=STATEMENT,
            server_settings=SESSION,
            reset=_left_as_it_is,
        )
        try:
            async with _first(made) as connection:
                await self._meet(connection)
        except BaseException:
            made.terminate()
            raise
        return made

    async def _acquired(self, pool: asyncpg.Pool[Any]) -> Any:
        """A connection that works, as far as one can tell. After a time without the database, it
        is looked at as a new one.
        """
        try:
            connection = await pool.acquire()
            if self._tried is None:
                return connection
            try:
                await self._meet(connection)
            except BaseException:
                await pool.release(connection)
                raise
        except _gone() as error:
            if self._tried is None:
                log.error("the database of responses does not answer: %r", error)
            self._tried = time.monotonic()
            raise
        return connection

    async def _meet(self, connection: Any) -> None:
        """The database may be another than it was: one that was empty, or whose clock differs."""
        await _check(connection, shown(self.url))
        now = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())")
        self._ahead = float(now) - time.time()
        if self._tried is not None:
            self._tried = None
            log.warning("the database of responses answers again")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Errors of the database as ours."""
        name = f"the database of responses ({shown(self.url)})"
        known = driver()
        try:
            yield
        except known.ClientConfigurationError as error:
            raise StoreError(f"{name} cannot be reached by this URL: {error}") from error
        except ssl.SSLError as error:
            raise StoreUnreachable(
                f"{name} is not connected to, for its certificate or its TLS: {error}. Name who "
                "signed it in the URL: sslmode=verify-full&sslrootcert=FILE"
            ) from error
        except _gone() as error:
            if isinstance(error, ValueError):  # a value that it does not take: a bug of ours
                raise
            log.debug("the database of responses failed: %r", error)
            raise self._silent() from error
        except known.DiskFullError as error:
            raise DiskFull(
                f"the disk of {name} is full: ask again when there is room on it, or with store: "
                "false"
            ) from error
        except known.PostgresError as error:
            raise StoreError(f"{name} failed: {error}") from error


class _Statements:
    """See `protocol.Statements`."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def all(self, query: str, *values: Any) -> list[Row]:
        return [tuple(row) for row in await self.connection.fetch(query, *plain(values))]

    async def one(self, query: str, *values: Any) -> Row | None:
        found = await self.connection.fetchrow(query, *plain(values))
        return None if found is None else tuple(found)

    async def run(self, query: str, *values: Any) -> int:
        told: str = await self.connection.execute(query, *plain(values))
        count = told.rpartition(" ")[2]  # as in "INSERT 0 1"; of VACUUM there is none
        return int(count) if count.isdecimal() else 0

    async def many(self, query: str, rows: Sequence[Row]) -> None:
        if rows:
            await self.connection.executemany(query, [plain(row) for row in rows])


def driver() -> Any:
    """asyncpg. Raises `RequestError` if it is not installed."""
    try:
        import asyncpg
    except ImportError as error:
        raise RequestError(
            "--store postgresql://... needs asyncpg: pip install 'ossia[fleet]'"
        ) from error
    return asyncpg


def _gone() -> tuple[type[Exception], ...]:
    """The errors of a connection, not of what was asked."""
    known = driver()
    return (
        OSError,
        TimeoutError,
        known.InterfaceError,
        known.InternalClientError,
        known.PostgresConnectionError,
        known.CannotConnectNowError,
        known.AdminShutdownError,
        known.CrashShutdownError,
        known.TooManyConnectionsError,
    )


@asynccontextmanager
async def _first(pool: Any) -> AsyncIterator[Any]:
    """The first connection: only then the driver reads the URL, and its error would repeat parts of
    a password.
    """
    try:
        connection = await pool.acquire()
    except driver().ClientConfigurationError:  # it says which option is wrong
        raise
    except ValueError:
        raise StoreError(
            "the URL of the database cannot be read: in a password, write %23 for #, %2F for /, "
            "%3F for ?, %40 for @, %3A for : and %25 for %"
        ) from None
    try:
        yield connection
    finally:
        await pool.release(connection)


async def _left_as_it_is(connection: Any) -> None:
    """Nothing of a session is ever changed here, and to reset it would be one more way there."""


def shown(url: str) -> str:
    """The URL without its password. Of one whose password has characters that end a part of a URL,
    nobody can say where it ends: nothing is shown.
    """
    scheme, _, rest = url.partition("://")
    place, _, options = rest.partition("?")
    host = place.rpartition("@")[2]
    is_plain = "#" not in rest and "@" not in options and SHOWN.fullmatch(host)
    return f"{scheme}://{host if is_plain else '...'}"


async def _check(connection: Any, name: str) -> None:
    """Makes the tables in a new database, and changes those of an earlier version. Changes nothing
    in one that is not ours.
    """
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
        if await connection.fetchval("SELECT to_regclass('ossia')") is None:
            if await connection.fetchval("SELECT to_regclass('entry')") is not None:
                raise StoreError(
                    f"{name} has tables of another program: give the store a database of its own"
                )
            await connection.execute(SCHEMA)
            return
        version = await connection.fetchval("SELECT version FROM ossia")
        while version in UPGRADES:
            await connection.execute(UPGRADES[version])
            version += 1
            await connection.execute("UPDATE ossia SET version = $1", version)
        if version != VERSION:
            raise StoreError(
                f"{name} was written by another version of ossia (tables {version}, not "
                f"{VERSION}): name another database"
            )
