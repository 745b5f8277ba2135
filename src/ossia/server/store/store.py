"""Responses and conversations that clients can come back for.

Holds wire items (the JSON that clients send and get) and does not look into them, apart from their
ids. What belongs to one owner does not exist for another. Everything goes at its time: `ttl`
seconds after it was last written, and the oldest first when all of it together is larger than
`limit` bytes. Knows no routes and nothing that runs, and of the database only `protocol.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import orjson

from ossia.server.settings import Retention
from ossia.server.store.protocol import (
    Database,
    DiskFull,
    Row,
    Statements,
    StoreError,
    StoreFull,
    StoreUnreachable,
)
from ossia.server.store.tables import (
    OVERHEAD,
    PREFIXES,
    UNFINISHED,
    Packing,
    StoredResponse,
    plain,
)
from ossia.turn.events import new_id

log = logging.getLogger("ossia.server")
AT_ONCE = 500  # ids that one statement asks for
SWEEP = 1.0  # seconds for which expired entries may take room
FULL = 5.0  # seconds between two answers that find out whether the disk is still full
NEXT = "(SELECT coalesce(max(written), 0) + 1 FROM entry)"
COLUMNS = "id, owner, body, history, input, expires, thread, home"
# An answer that comes late changes nothing of a response that was cancelled or given up meanwhile.
PUT_RESPONSE = f"""
INSERT INTO entry (
    kind, owner, id, status, body, history, input, expires, size, thread, home, written
)
VALUES ('response', $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, {NEXT})
ON CONFLICT (kind, owner, id) DO UPDATE SET
    status = excluded.status, body = excluded.body, history = excluded.history,
    input = excluded.input, thread = excluded.thread, home = excluded.home,
    expires = excluded.expires, size = excluded.size, written = excluded.written
"""
UNLESS_ENDED = f" WHERE entry.status IN {UNFINISHED}"
NEW_CONVERSATION = f"""
INSERT INTO entry (kind, owner, id, body, expires, size, written)
VALUES ('conversation', $1, $2, $3, $4, $5, {NEXT}) RETURNING key
"""
DELETE = "DELETE FROM entry WHERE kind = $1 AND owner = $2 AND id = $3"
ITEMS = """
SELECT item.body FROM item JOIN entry ON entry.key = item.entry
WHERE kind = 'conversation' AND owner = $1 AND entry.id = $2 AND expires > $3
"""
FORGET = """
INSERT INTO forgotten (owner, id, at) VALUES ($1, $2, $3)
ON CONFLICT (owner, id) DO UPDATE SET at = excluded.at
"""
FORGOTTEN = "(SELECT count(*) FROM forgotten WHERE owner = $1 AND id = '' AND at > $2)"
OLDEST = "DELETE FROM entry WHERE key = (SELECT key FROM entry ORDER BY written LIMIT 1)"


Observe = Callable[[str, float, bool], object]
P = ParamSpec("P")
T = TypeVar("T")


def timed(
    method: Callable[Concatenate[Store, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Store, P], Coroutine[Any, Any, T]]:
    """The store's observer is told the method's name, how long it took, and whether the database
    failed: not if there was no room by the store's own limit.
    """

    @wraps(method)
    async def measured(self: Store, /, *args: P.args, **named: P.kwargs) -> T:
        began = time.perf_counter()
        failed = False
        try:
            return await method(self, *args, **named)
        except StoreError as error:
            failed = not isinstance(error, StoreFull)
            raise
        finally:
            name = method.__name__.lstrip("_")
            self.observe(name, time.perf_counter() - began, failed)

    return measured


class Store:
    """`ttl` in seconds, `limit` in bytes of JSON. Every method raises `StoreError` when the
    database fails.
    """

    def __init__(
        self,
        database: Database,
        ttl: float,
        limit: int,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.database = database
        self.ttl = ttl
        self.limit = limit
        self.clock = clock or database.clock
        self._packing = Packing()
        self._swept = 0.0  # when what has expired was last removed
        self.observe: Observe = lambda operation, seconds, failed: None
        self._full: tuple[float, DiskFull] | None = None  # when, on `time.monotonic`, and how
        self._lasts = {"response": ttl, "conversation": ttl}

    def keep_for(self, retention: Retention) -> None:
        """How long, where it is not `ttl`."""
        self._lasts = {
            "response": retention.responses or self.ttl,
            "conversation": retention.conversations or self.ttl,
        }

    async def open(self) -> None:
        await self.database.open()

    async def close(self) -> None:
        await self.database.close()

    async def used(self) -> int:
        """Bytes. Expired entries count until the next write."""
        async with self.session() as db:
            return await _used(db)

    def session(self) -> AbstractAsyncContextManager[Statements]:
        """Each statement for itself."""
        return self.database.session()

    @asynccontextmanager
    async def writing(self, *, durably: bool = False) -> AsyncIterator[Statements]:
        """A transaction. At its end the oldest entries go until the rest fits. `durably`: a power
        cut does not take it.
        """
        async with self.database.transaction(durably=durably) as db:
            yield db
            now = self.clock()
            if abs(now - self._swept) >= SWEEP:
                await db.run("DELETE FROM entry WHERE expires <= $1", now)
                self._swept = now
            while await _used(db) > self.limit:
                if await db.run(OLDEST) == 0:
                    break  # approved calls of a store that was allowed to be larger

    # Responses

    @timed
    async def check_writable(self) -> None:
        """To be asked before an answer that is to be kept is begun. Raises `StoreError`.

        PostgreSQL may have room for a small write and none for an answer. So when one could not be
        kept, the others are refused, but for one in `FULL` seconds that finds out.
        """
        if self._full is not None:
            since, error = self._full
            if time.monotonic() - since < FULL:
                raise DiskFull(str(error))
            self._full = (time.monotonic(), error)
        async with self.session() as db:
            await db.run("UPDATE used SET bytes = bytes")

    async def put(self, stored: StoredResponse, *, must: bool = False, again: bool = False) -> bool:
        """Inserts or replaces; one that has ended is replaced only `again`, and one whose owner was
        forgotten since it began is not kept. Whether it is what is kept now. An answer must not be
        lost because it cannot be kept: if there is no room, or the disk fails, that is logged, and
        the response is not found later. If it `must` be kept, raises
        `StoreError`; `StoreUnreachable` is raised always, as it may be kept later.
        """
        try:
            return await self._put(stored, again)
        except StoreUnreachable:
            raise
        except StoreError as error:
            if must:
                raise
            log.error("response %s is not kept: %s", stored.id, error)
            return False

    @timed
    async def _put(self, stored: StoredResponse, again: bool) -> bool:
        try:
            is_kept = await self._written(stored, again=again)
        except DiskFull as error:
            self._full = (time.monotonic(), error)
            raise
        self._full = None
        return is_kept

    async def _written(self, stored: StoredResponse, *, again: bool) -> bool:
        parts = [orjson.dumps(p) for p in (stored.response, stored.history, stored.input)]
        size = sum(map(len, parts)) + OVERHEAD
        status = stored.response.get("status")
        expires = stored.expires or self.clock() + self._lasts["response"]
        bodies = map(self._packed, parts)
        row = (stored.owner, stored.id, status, *bodies, expires, size, stored.thread, stored.home)
        query = f"{PUT_RESPONSE}{'' if again else UNLESS_ENDED} RETURNING key"
        begun = stored.begun or self.clock()
        async with self.writing() as db:
            calls, is_forgotten = await calls_and_forgotten(db, stored.owner, begun)
            if is_forgotten:
                return False
            room = self.limit - calls  # these stay, whatever else goes
            if size > room:  # nor does it stay what it was before it grew
                await db.run(DELETE, "response", stored.owner, stored.id)
            else:
                found = await db.one(query, *row)
                if found is None:
                    return False
                await db.run("DELETE FROM part WHERE entry = $1", found[0])
                items = [(id, found[0]) for id in stored.item_ids]
                await db.many("INSERT INTO part VALUES ($1, $2) ON CONFLICT DO NOTHING", items)
        if size > room:
            raise StoreFull(f"it has {size} bytes, and responses may have {room}")
        return True

    @timed
    async def get(self, owner: str, id: str) -> StoredResponse | None:
        found = await self._responses("owner = $2 AND id = $3", owner, id)
        return found[0] if found else None

    @timed
    async def with_item(self, owner: str, item: str) -> StoredResponse | None:
        """The newest response that has an item of this id in its input or output."""
        having = "key IN (SELECT entry FROM part WHERE id = $3)"
        found = await self._responses(f"owner = $2 AND {having}", owner, item)
        return found[-1] if found else None

    @timed
    async def delete(self, owner: str, id: str) -> bool:
        """Whether it was there."""
        return await self._delete("response", owner, id)

    @timed
    async def unfinished(self, home: str | None = None) -> list[StoredResponse]:
        """Everybody's responses that are queued or in progress, at that server if one is named."""
        if home is None:
            return await self._responses(f"status IN {UNFINISHED}")
        return await self._responses(f"status IN {UNFINISHED} AND home = $2", home)

    async def _responses(self, where: str, *values: str) -> list[StoredResponse]:
        query = f"SELECT {COLUMNS} FROM entry WHERE kind = 'response' AND expires > $1 AND {where}"
        now = self.clock()
        async with self.session() as db:
            rows = await db.all(f"{query} ORDER BY written", now, *values)
        return [self._stored(row, now) for row in rows]

    def _stored(self, row: Row, now: float) -> StoredResponse:
        id, owner, body, history, given, expires, thread, home = row
        read = self._packing.unpacked
        parts = (read(body), read(history), read(given))
        return StoredResponse(id, owner, *parts, expires, thread or "", home, now)

    def _packed(self, data: bytes) -> bytes:
        return self._packing.packed(data) if self.database.packs else data

    # Conversations: {"id", "object": "conversation", "created_at", "metadata"}

    @timed
    async def new_conversation(
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
        async with self.writing() as db:
            found = await db.one(NEW_CONVERSATION, owner, id, b"", 0.0, OVERHEAD)
            assert found is not None
            await self._write_conversation(db, found[0], made)
            await self._insert_items(db, found[0], items)
        return made

    @timed
    async def conversation(self, owner: str, id: str) -> dict[str, Any] | None:
        async with self.session() as db:
            found = await self._find(db, owner, id)
        return None if found is None else found[1]

    @timed
    async def update_conversation(
        self, owner: str, id: str, metadata: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The wire object with its new metadata; None if there is no such conversation. Raises
        `StoreFull`.
        """
        async with self.writing() as db:
            if (found := await self._find(db, owner, id)) is None:
                return None
            updated = found[1] | {"metadata": metadata}
            await self._write_conversation(db, found[0], updated)
        return updated

    @timed
    async def delete_conversation(self, owner: str, id: str) -> bool:
        """Whether it was there. Its items go with it."""
        return await self._delete("conversation", owner, id)

    @timed
    async def items(self, owner: str, conversation_id: str) -> list[dict[str, Any]]:
        """In the order in which they were added; nothing if there is no such conversation."""
        async with self.session() as db:
            rows = await db.all(f"{ITEMS} ORDER BY position", owner, conversation_id, self.clock())
        return [orjson.loads(body) for (body,) in rows]

    @timed
    async def item(self, owner: str, conversation_id: str, id: str) -> dict[str, Any] | None:
        async with self.session() as db:
            query = f"{ITEMS} AND item.id = $4"
            found = await db.one(query, owner, conversation_id, self.clock(), id)
        return None if found is None else orjson.loads(found[0])

    @timed
    async def add_items(
        self,
        owner: str,
        conversation_id: str,
        items: Sequence[dict[str, Any]],
        *,
        again: bool = False,
    ) -> list[dict[str, Any]]:
        """The items as they were added: an item without an id, or with one that is taken, gets a
        new one. `again`: a try before may have added them, though nobody was told; then what is
        there as it is here stays. Raises `KeyError` for an unknown conversation, and `StoreFull`.
        """
        async with self.writing() as db:
            if (found := await self._find(db, owner, conversation_id)) is None:
                raise KeyError(conversation_id)
            if again:
                there = {body for _, body in await self._with_ids_of(db, found[0], items)}
                items = [item for item in items if orjson.dumps(item) not in there]
            return await self._insert_items(db, found[0], items)

    @timed
    async def delete_item(self, owner: str, conversation_id: str, id: str) -> bool:
        """Whether it was there."""
        async with self.writing() as db:
            if (found := await self._find(db, owner, conversation_id)) is None:
                return False
            query = "DELETE FROM item WHERE entry = $1 AND id = $2 RETURNING length(body)"
            gone = await db.one(query, found[0], id)
            if gone is not None:
                await self._touch(db, found[0], -gone[0] - OVERHEAD)
        return gone is not None

    async def _insert_items(
        self, db: Statements, key: int, items: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        made = []
        rows = []
        taken = {id for id, _ in await self._with_ids_of(db, key, items)}
        for item in items:
            id = item.get("id")
            if not id or plain([id])[0] in taken:
                id = new_id(PREFIXES.get(item.get("type", "message"), "item"))
            taken |= set(plain([id]))
            made.append(item | {"id": id})
            rows.append((key, id, orjson.dumps(made[-1])))
        await db.many("INSERT INTO item (entry, id, body) VALUES ($1, $2, $3)", rows)
        await self._touch(db, key, sum(len(body) + OVERHEAD for _, _, body in rows))
        return made

    async def _with_ids_of(
        self, db: Statements, key: int, items: Sequence[dict[str, Any]]
    ) -> list[Row]:
        """Ids and bodies of what the conversation has under ids of the items."""
        wanted = plain(list({item["id"] for item in items if item.get("id")}))
        found: list[Row] = []
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            places = ", ".join(f"${n}" for n in range(2, 2 + len(some)))
            query = f"SELECT id, body FROM item WHERE entry = $1 AND id IN ({places})"
            found += await db.all(query, key, *some)
        return found

    async def _find(self, db: Statements, owner: str, id: str) -> tuple[int, dict[str, Any]] | None:
        """A conversation's key and wire object."""
        where = "kind = 'conversation' AND owner = $1 AND id = $2 AND expires > $3"
        query = f"SELECT key, body FROM entry WHERE {where}"
        found = await db.one(query, owner, id, self.clock())
        if found is None:
            return None
        key, body = found
        return key, orjson.loads(body)

    async def _write_conversation(
        self, db: Statements, key: int, conversation: dict[str, Any]
    ) -> None:
        body = orjson.dumps(conversation)
        old = await db.one("SELECT length(body) FROM entry WHERE key = $1", key)
        assert old is not None
        await db.run("UPDATE entry SET body = $1 WHERE key = $2", body, key)
        await self._touch(db, key, len(body) - old[0])

    async def _touch(self, db: Statements, key: int, grown: int) -> None:
        """The conversation has `grown` by so many bytes, and becomes the newest of all. Raises
        `StoreFull`.
        """
        changes = f"size = size + $1, expires = $2, written = {NEXT}"
        update = f"UPDATE entry SET {changes} WHERE key = $3 RETURNING size"
        size = await db.one(update, grown, self.clock() + self._lasts["conversation"], key)
        assert size is not None
        if size[0] > self.limit:
            limit = f"the store keeps at most {self.limit}"
            raise StoreFull(f"the conversation would have {size[0]} bytes; {limit}")

    # Both

    @timed
    async def sweep(self) -> None:
        """Removes what has expired. Other writes do so, too, but seldom."""
        now = self.clock()
        async with self.database.transaction() as db:
            await db.run("DELETE FROM entry WHERE expires <= $1", now)
            await db.run("DELETE FROM thought WHERE expires <= $1", now)

    @timed
    async def forget(self, owner: str) -> dict[str, int]:
        """Everything of an owner's, and how much that was. What has begun by now and is written
        later is not kept.
        """
        items = "SELECT count(*) FROM item JOIN entry ON entry.key = item.entry WHERE owner = $1"
        kinds = "DELETE FROM entry WHERE kind = $1 AND owner = $2"
        async with self.database.transaction(durably=True) as db:
            found = await db.one(items, owner)
            counts = {
                "responses": await db.run(kinds, "response", owner),
                "conversations": await db.run(kinds, "conversation", owner),
                "items": 0 if found is None else int(found[0]),
            }
            for name, table in (("approved_calls", "approved"), ("thoughts", "thought")):
                counts[name] = await db.run(f"DELETE FROM {table} WHERE owner = $1", owner)
            await db.run("DELETE FROM forgotten WHERE owner = $1", owner)  # its files are in it
            await db.run(FORGET, owner, "", self.clock())
        return counts

    async def scrub(self) -> None:
        """See `protocol.Database`."""
        await self.database.scrub()

    async def _delete(self, kind: str, owner: str, id: str) -> bool:
        async with self.writing() as db:
            gone = await db.one(f"{DELETE} RETURNING expires", kind, owner, id)
        return gone is not None and gone[0] > self.clock()


async def calls_of(db: Statements) -> int:
    """Bytes of approved calls."""
    found = await db.one("SELECT calls FROM used")
    assert found is not None
    return int(found[0])


async def calls_and_forgotten(db: Statements, owner: str, begun: float) -> tuple[int, bool]:
    """And whether all that was the owner's was deleted since."""
    found = await db.one(f"SELECT calls, {FORGOTTEN} FROM used", owner, begun)
    assert found is not None
    return int(found[0]), bool(found[1])


async def _used(db: Statements) -> int:
    found = await db.one("SELECT bytes FROM used")
    assert found is not None
    return int(found[0])
