"""Everything that belongs to one caller, deleted: what is stored, what runs in the background,
files and containers, and what was counted.

Knows where things are kept; nothing of the wire. What a model keeps of beginnings of prompts is in
memory only, in pages that nobody else can find; the next prompts overwrite it.
"""

from __future__ import annotations

import asyncio

from ossia.server.service import Service
from ossia.server.wire.errors import ApiError

Counts = dict[str, int]


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


def _files(service: Service, owner: str) -> Counts:
    """Returns when they are gone from the disk."""
    containers = 0
    uploads = 0
    if service.containers is not None:
        for container in service.containers.of_caller(owner):
            service.containers.delete(owner, container.id)
            containers += 1
        service.containers.settle()
    if service.uploads is not None:
        for upload in service.uploads.of_caller(owner):
            service.uploads.delete(owner, upload.id)
            uploads += 1
    return {"containers": containers, "files": uploads}
