"""What is done every now and then while a server runs: what other servers have deleted is deleted
here, usage is written, and what has outlived its time is removed, also while nobody asks for
anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from ossia.server.accounts.forgetting import Reminders
from ossia.server.service import Service
from ossia.server.store.protocol import StoreError

log = logging.getLogger("ossia.server")
EVERY = 5.0  # seconds until what was used is written
SWEEP = 600.0  # seconds between two looks for what is too old


class Chores:
    """`open` it in the event loop that serves."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._reminders = Reminders(service)
        self._tasks: list[asyncio.Task[None]] = []
        self._over = asyncio.Event()

    async def open(self) -> None:
        """Raises `StoreError`: nobody may be shown what was deleted while this server was away."""
        await self._reminders.follow()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._write()), loop.create_task(self._sweep())]

    async def close(self) -> None:
        """What was used is written. Nothing is cancelled: nobody could say whether a statement that
        is on its way was carried out, and it would be written twice or never.
        """
        self._over.set()
        await asyncio.gather(*self._tasks)
        await self.service.ledger.close()

    async def _write(self) -> None:
        """What is used of who was deleted elsewhere is not written: that is asked first."""
        while not await self._is_over(EVERY):
            await _tried("what was deleted elsewhere is still here", self._reminders.follow)
            await _tried("what was used is not written yet", self.service.ledger.settle_ended)

    async def _sweep(self) -> None:
        while not self._over.is_set():
            await _tried("what is too old is not removed yet", partial(sweep, self.service))
            await _tried("what was deleted is still remembered", self._reminders.sweep)
            await self._is_over(SWEEP)

    async def _is_over(self, seconds: float) -> bool:
        """After so long, or as soon as it is."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)
        return self._over.is_set()


async def _tried(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Whatever fails is said, as `what` then is, and tried again. What the store says of itself
    needs no stack.
    """
    try:
        await work()
    except StoreError as error:
        log.warning("%s: %s", what, error)
    except Exception:
        log.exception(what)


async def sweep(service: Service) -> None:
    """Removes what is too old."""
    await service.store.sweep()
    await service.ledger.sweep(service.settings.retention.usage)
    if service.uploads is not None:
        await asyncio.to_thread(service.uploads.sweep)
    if service.containers is not None:
        await asyncio.to_thread(service.containers.sweep, always=True)
