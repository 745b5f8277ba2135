"""Writes for which a database is waited: what an answer leaves behind must not be lost while
PostgreSQL is started anew.

Knows how the store fails; nothing of what is written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from ossia.errors import OssiaError
from ossia.server.store.protocol import StoreUnreachable

log = logging.getLogger("ossia.server")
MOST = 1000  # writes that wait
FIRST = 0.1  # seconds until the second try; twice as long to the next, and so on
PAUSE = 1.0  # seconds between two tries, at most
PATIENCE = 10.0  # seconds for which an answer's end waits
Write = Callable[[bool], Awaitable[None]]  # it is told whether it was tried before


@dataclass
class _Waiting:
    what: str
    write: Write
    is_tried: bool = False

    async def is_written(self) -> bool:
        """False: the database does not answer. Raises what else goes wrong."""
        again = self.is_tried
        self.is_tried = True
        try:
            await self.write(again)
        except StoreUnreachable:
            return False
        return True


class LateWrites:
    """`patience`, `pause`: in seconds."""

    def __init__(self, patience: float = PATIENCE, pause: float = PAUSE) -> None:
        self._patience = patience
        self._pause = pause
        self._waiting: deque[_Waiting] = deque()
        self._catching_up: asyncio.Task[None] | None = None

    async def keep(self, what: str, write: Write) -> None:
        """Writes it, if need be after some time; then it is left for when the database answers
        again.
        """
        new = _Waiting(what, write)
        last = time.monotonic() + self._patience
        pause = min(FIRST, self._pause)
        while not await new.is_written():
            if time.monotonic() >= last:
                self._leave(new)
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._pause)

    def _leave(self, new: _Waiting) -> None:
        log.error("%s is kept when the database answers again", new.what)
        self._waiting.append(new)
        if len(self._waiting) > MOST:
            log.error("%s is not kept: too much waits", self._waiting.popleft().what)
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._catch_up())

    async def _catch_up(self) -> None:
        """In the order in which they came."""
        while not await self._are_written():
            await asyncio.sleep(self._pause)

    async def _are_written(self) -> bool:
        """Whether nothing waits any more; False: the database does not answer."""
        while self._waiting:
            first = self._waiting.popleft()
            try:
                written = await first.is_written()
            except asyncio.CancelledError:  # nobody knows whether it is
                self._waiting.appendleft(first)
                raise
            except OssiaError as error:
                log.error("%s is not kept: %s", first.what, error)
                continue
            except Exception:  # the others must not wait for it for ever
                log.exception("%s is not kept", first.what)
                continue
            if not written:
                self._waiting.appendleft(first)
                return False
        return True

    async def close(self) -> None:
        """A last try: the database may be back since the one before. What is lost, the log says."""
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.wait((self._catching_up,))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await self._are_written()
        for left in self._waiting:
            log.error("%s is not kept: the database does not answer", left.what)
