"""Everything that belongs to one caller, deleted: what is stored, what runs in the background,
files and containers, and what was counted.

Knows where things are kept; nothing of the wire. What a model keeps of beginnings of prompts is in
memory only, in pages that nobody else can find; the next prompts overwrite it.
"""

from __future__ import annotations

import asyncio
import time
from math import inf

from ossia.server.service import Service
from ossia.server.store.forgotten import Forgotten
from ossia.server.wire.errors import ApiError

Counts = dict[str, int]
AGAIN = 600.0  # seconds for which it is looked again for what came late, such as a file's copy
DAY = 86_400.0  # seconds
LONGEST = 30 * DAY  # for which a server may be away and still be told what was deleted


async def forget_here(service: Service, owner: str) -> Counts:
    """What only this server has, and how much that was. Raises `ApiError` (409) while answers to
    the caller run here that would be kept at their end.
    """
    background = await service.runs.forget(owner)
    running = service.access.running_by(owner)
    if running:
        text = f"{running} answers to {owner!r} are running: take away the key, or wait, first"
        raise ApiError(409, text, code="user_is_active", headers={"Retry-After": "5"})
    await service.ledger.settle_ended()  # or it would be written again afterwards
    return {"background_runs": background, **await asyncio.to_thread(_files, service, owner)}


async def forget_kept(service: Service, owner: str) -> Counts:
    """What is in the store, for all servers that share it."""
    counts = await service.store.forget(owner)
    counts["usage_rows"] = await service.ledger.forget(owner)
    await service.store.scrub()
    return counts


class Reminders:
    """What was deleted while this server was away, or was not reached, is deleted here, too: at the
    start and every few seconds.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self._seen = 0.0  # on the store's clock

    async def follow(self) -> None:
        """Raises `StoreError`, and the last `OSError` of what could not be deleted."""
        if self.service.fleet.is_alone:
            return
        now = self.service.store.clock()
        failed: OSError | None = None
        for each in await self.service.forgotten.since(self._seen - AGAIN):
            try:
                await self._follow(each)
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed
        self._seen = now

    async def _follow(self, deleted: Forgotten) -> None:
        service = self.service
        owner = deleted.owner
        if not deleted.id:
            await service.runs.forget(owner, deleted.at)
            await service.ledger.drop(owner, deleted.at)
            # files have this machine's times
            ahead = service.store.clock() - time.time()
            await asyncio.to_thread(_files, service, owner, deleted.at - ahead)
        elif service.uploads is not None:
            await asyncio.to_thread(service.uploads.drop, owner, deleted.id)

    async def sweep(self) -> None:
        """What was deleted so long ago that nobody can have it any more."""
        service = self.service
        longest = LONGEST
        for kept in (service.uploads, service.containers):
            if kept is not None:
                longest = max(longest, kept.rules.expires_after)
        await service.forgotten.sweep(longest + DAY)


def _files(service: Service, owner: str, before: float = inf) -> Counts:
    """Of those that were made before that. Returns when they are gone from the disk."""
    containers = 0
    uploads = 0
    if service.containers is not None:
        for container in service.containers.of_caller(owner):
            if container.created < before:
                service.containers.delete(owner, container.id)
                containers += 1
        service.containers.settle()
    if service.uploads is not None:
        for upload in service.uploads.of_caller(owner):
            if upload.created < before:
                service.uploads.delete(owner, upload.id)
                uploads += 1
    return {"containers": containers, "files": uploads}
