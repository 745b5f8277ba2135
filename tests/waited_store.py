"""The store for tests that are no coroutines: every call is run to its end."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

from ossia.server.store.approved import ApprovedTable
from ossia.server.store.opening import database_of
from ossia.server.store.store import Store


class Waited:
    """`made`: an object whose coroutines are run, in that loop."""

    def __init__(self, made: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.made = made
        self.loop = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.made, name)
        if not iscoroutinefunction(found):
            return found
        call: Callable[..., Any] = found
        return lambda *values, **named: self.loop.run_until_complete(call(*values, **named))

    @property
    def db(self) -> Any:
        """The connection of a file or of memory."""
        return self.made.database._db

    def ask(self, query: str, *values: Any) -> list[Any]:
        """One statement's rows."""

        async def asked() -> list[Any]:
            async with self.made.session() as db:
                found: list[Any] = await db.all(query, *values)
                return found

        return self.loop.run_until_complete(asked())

    def table(self) -> Any:
        """Of approved calls, in this store."""
        made = self.of(ApprovedTable)
        made.open()
        return made

    def of(self, kind: Callable[[Store], Any]) -> Any:
        """One that is kept in this store."""
        return Waited(kind(self.made), self.loop)

    def close(self) -> None:
        self.loop.run_until_complete(self.made.close())
        self.loop.close()


def waited(place: str | Path | None, ttl: float, limit: int, **more: Any) -> Waited:
    store = Store(database_of(place), ttl, limit, **more)
    loop = asyncio.new_event_loop()
    weakref.finalize(store, loop.close)  # one that is left open is a warning
    loop.run_until_complete(store.open())
    return Waited(store, loop)
