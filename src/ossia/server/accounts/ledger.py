"""What callers have used, written to the store: who used how much on which day, and limits that
hold over all servers together.

    await ledger.settle(caller)     # before a request: one statement, and the caller knows the sums
    await ledger.settle_ended()     # of requests that are over, every few seconds (`chores.py`)

A row is an amount of one kind. Of one with a `rate`, so much goes by itself every second: what was
spent of a limit per minute. `running` has the samples that one server answers, and counts for a
minute after it was last written, so that a server that dies leaves nothing behind. Knows callers
and the store's protocol; nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from ossia.server.access import Access, Allowance, Caller
from ossia.server.accounts.tally import DAY, KINDS, Used
from ossia.server.store.protocol import Row, StoreError
from ossia.server.store.store import Store

log = logging.getLogger("ossia.server")
ALIVE = 60.0  # seconds that a server's running samples count
OF_DAY = "tokens"  # kinds that are no part of `Used`
RUNNING = "running"
MINUTES = {"minute:tokens": "tokens", "minute:tools": "tool_seconds", "minute:pages": "pages"}
COLUMNS = 7
# What was there before, less what went by itself. Nothing goes of a row without a rate.
LEFT = """
CASE WHEN excluded.rate = 0 THEN account.amount
     WHEN account.amount > excluded.rate * (excluded.at - account.at)
     THEN account.amount - excluded.rate * (excluded.at - account.at) ELSE 0 END
"""
ADD = f"""
INSERT INTO account (owner, kind, part, day, amount, rate, at) VALUES {{rows}}
ON CONFLICT (owner, kind, part, day) DO UPDATE SET
    amount = excluded.amount + {LEFT}, rate = excluded.rate, at = excluded.at
RETURNING kind, amount, (
    SELECT coalesce(sum(other.amount), 0) FROM account AS other
    WHERE other.owner = {{owner}} AND other.kind = '{RUNNING}'
    AND other.part <> {{part}} AND other.at > {{since}}
)
"""


class Amount(NamedTuple):
    """What is added."""

    kind: str
    part: str
    day: int
    amount: float
    rate: float = 0.0


@dataclass(frozen=True)
class DayUsage:
    """What one caller used of one model on one day; days since 1970."""

    owner: str
    day: int
    model: str
    used: Used


class Ledger:
    """`shared`: limits hold for all servers of the store together, which takes a statement before
    every request of a caller that has any. Otherwise only a day's tokens do, some seconds late.
    """

    def __init__(self, store: Store, access: Access, model: str, *, shared: bool) -> None:
        self.store = store
        self.access = access
        self.model = model
        self.shared = shared
        self._home = secrets.token_hex(8)
        # two at a time would write the same twice
        self._turns: WeakKeyDictionary[Caller, asyncio.Lock] = WeakKeyDictionary()
        self._soon: set[asyncio.Task[bool]] = set()
        if shared:
            access.changed = self._change

    async def admit(self, caller: Caller) -> None:
        """Before a request: what the caller's limits have to know."""
        limits = caller.limits
        is_new = limits.tokens_per_day is not None and not caller.today.is_known
        if is_new or (self.shared and _has_limits(caller)):
            await self.settle(caller)

    def _change(self, caller: Caller) -> None:
        """Other servers are told at once: there the caller may be waiting to ask again."""
        if _counts(caller):
            task = asyncio.get_running_loop().create_task(self.settle(caller))
            self._soon.add(task)
            task.add_done_callback(self._soon.discard)

    async def close(self) -> None:
        """Writes the rest."""
        if self._soon:
            await asyncio.wait(self._soon)
        await self.settle_ended()

    async def settle_ended(self) -> None:
        """Of every caller of whom a request has ended since, or is being answered and counts."""
        waiting = self.access.ended
        self.access.ended = {}
        if self.shared:
            waiting |= {each.name: each for each in self.access.busy() if _counts(each)}
        try:
            while waiting:
                name = next(iter(waiting))
                caller = waiting[name]
                if not _is_gone(caller) and not await self.settle(caller):
                    return
                del waiting[name]
        finally:  # also if this is cancelled
            self.access.ended |= waiting

    async def settle(self, caller: Caller) -> bool:
        """Writes what is not written, and tells the caller the sums; whether that was possible. A
        store that fails is logged: the limits hold here all the same, and it is written later.
        """
        turn = self._turns.setdefault(caller, asyncio.Lock())
        try:
            async with turn:
                await self._settle(caller)
            return True
        except StoreError as error:
            self.access.ended[caller.name] = caller
            log.warning("what has been used is not written yet: %s", error)
            return False

    async def _settle(self, caller: Caller) -> None:
        used = caller.tally.used.copy()
        running = caller.running
        spent = {kind: limit.unwritten for kind, limit in self._minutes(caller)}
        day = int(self.store.clock() // DAY)
        amounts = [
            *self._of_minutes(caller, spent),
            *self._of_running(caller, running),
            *self._of_day(day, used - caller.tally.written),
        ]
        sums = {}
        elsewhere = 0
        for kind, amount, others in await self._write(caller.name, amounts):
            sums[kind] = amount
            elsewhere = int(others)
        caller.tally.wrote(used)
        caller.running_written = running if RUNNING in sums else caller.running_written
        caller.elsewhere = elsewhere if self.shared else 0
        caller.today.told(day, int(sums[OF_DAY]) + (caller.tally.used - used).tokens)
        for kind, limit in self._minutes(caller):
            limit.unwritten -= spent[kind]
            limit.told(sums[kind])

    def _minutes(self, caller: Caller) -> list[tuple[str, Allowance]]:
        if not self.shared:
            return []
        limits = ((kind, getattr(caller, name)) for kind, name in MINUTES.items())
        return [(kind, limit) for kind, limit in limits if limit.per_minute is not None]

    def _of_minutes(self, caller: Caller, spent: dict[str, float]) -> Iterable[Amount]:
        for kind, limit in self._minutes(caller):
            assert limit.per_minute is not None
            yield Amount(kind, "", 0, spent[kind], limit.per_minute / 60)

    def _of_running(self, caller: Caller, running: int) -> Iterable[Amount]:
        if self.shared and _counts(caller):
            yield Amount(RUNNING, self._home, 0, running - caller.running_written)

    def _of_day(self, day: int, used: Used) -> Iterable[Amount]:
        for kind in KINDS:
            amount = getattr(used, kind)
            if amount:
                yield Amount(kind, self.model, day, amount)
        yield Amount(OF_DAY, "", day, used.tokens)

    async def _write(self, owner: str, amounts: Sequence[Amount]) -> list[Row]:
        """Rows of (kind, its sum, samples of other servers)."""
        now = self.store.clock()
        values: list[Any] = []
        rows = []
        for each in amounts:
            places = range(len(values) + 1, len(values) + 1 + COLUMNS)
            rows.append(f"({', '.join(f'${n}' for n in places)})")
            values += (owner, each.kind, each.part, each.day, each.amount, each.rate, now)
        more = [f"${len(values) + n}" for n in (1, 2, 3)]
        named = dict(zip(("owner", "part", "since"), more, strict=True))
        query = ADD.format(rows=", ".join(rows), **named)
        async with self.store.session() as db:
            return await db.all(query, *values, owner, self._home, now - ALIVE)

    # What is kept

    async def usage(self, first: int, last: int, owner: str | None = None) -> list[DayUsage]:
        """Of the days from `first` to `last`, by day, caller and model."""
        kinds = ", ".join(f"'{kind}'" for kind in KINDS)
        query = (
            "SELECT day, owner, part, kind, amount FROM account"
            f" WHERE kind IN ({kinds}) AND day BETWEEN $1 AND $2"
        )
        values: list[Any] = [first, last]
        if owner is not None:
            query += " AND owner = $3"
            values.append(owner)
        found: dict[tuple[int, str, str], DayUsage] = {}
        async with self.store.session() as db:
            rows = await db.all(f"{query} ORDER BY day, owner, part", *values)
        for day, name, model, kind, amount in rows:
            before = found.get((day, name, model)) or DayUsage(name, day, model, Used())
            used = replace(before.used, **{kind: int(amount)})
            found[day, name, model] = replace(before, used=used)
        return list(found.values())

    async def sweep(self, seconds: float) -> None:
        """Forgets what was used longer ago, and limits that nobody has touched for as long."""
        now = self.store.clock()
        async with self.store.session() as db:
            query = "DELETE FROM account WHERE (day > 0 AND day < $1) OR (day = 0 AND at < $2)"
            await db.run(query, int((now - seconds) // DAY), now - DAY)

    async def drop(self, owner: str, at: float) -> None:
        """All that was the owner's was deleted then: what this server has not written of it, and
        what answers use that began before, is never written. What was used after it is, unless
        some from before waits with it.
        """
        for caller in self.access.callers():
            if caller.name != owner or caller.forgotten >= at:
                continue
            turn = self._turns.setdefault(caller, asyncio.Lock())
            async with turn:
                caller.forgotten = at
                if caller.tally.since < at:
                    caller.tally.wrote(caller.tally.used.copy())

    async def forget(self, owner: str) -> int:
        """Rows that are gone, with what was not written yet."""
        await self.settle_ended()
        await self.drop(owner, self.store.clock())
        async with self.store.session() as db:
            return await db.run("DELETE FROM account WHERE owner = $1", owner)


def _is_gone(caller: Caller) -> bool:
    """Of who was forgotten and has done nothing since there is not even a name."""
    is_idle = not caller.running and not caller.running_written
    return bool(caller.forgotten) and is_idle and caller.tally.unwritten == Used()


def _counts(caller: Caller) -> bool:
    return caller.limits.concurrent is not None


def _has_limits(caller: Caller) -> bool:
    limits = caller.limits
    numbers = (
        limits.concurrent,
        limits.tokens_per_day,
        limits.tokens_per_minute,
        limits.tool_seconds_per_minute,
        limits.pages_per_minute,
    )
    return any(each is not None for each in numbers)
