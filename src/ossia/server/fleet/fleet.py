"""This server among others that share its store: it says that it is there, gives up what those that
are gone were doing, and passes on what is asked of it and lives at another.

Alone, with a store of its own, it does none of this. Knows the store and HTTP; nothing of answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from ossia.errors import OssiaError
from ossia.server.access import caller_of
from ossia.server.fleet.passing import (
    PASSED,
    Elsewhere,
    Proof,
    client,
    sent,
    target_of,
    unanswered,
)
from ossia.server.sealing import Sealer
from ossia.server.store.replicas import SILENT, Replica, Replicas
from ossia.server.store.store import Store
from ossia.server.store.tables import StoredResponse

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger("ossia.server")
BEAT = 5.0  # seconds
MARK = 8  # hex digits of an id that say where the thing is


class Fleet:
    """`home`: the URL by which the others reach this server; "": it is alone."""

    def __init__(self, store: Store, sealer: Sealer, home: str) -> None:
        self.home = home
        self._sealer = sealer
        self._proof = Proof(sealer)
        self._replicas = Replicas(store)
        self._client: httpx2.AsyncClient | None = None
        self._beating: asyncio.Task[None] | None = None
        self._heard_since: float | None = None  # since when every beat has reached the store

    @property
    def is_alone(self) -> bool:
        return not self.home

    async def open(self, give_up: Callable[[StoredResponse], Awaitable[None]]) -> None:
        """`give_up`: is told the responses of servers that are gone."""
        if self.is_alone:
            return
        self._client = client()
        await self._replicas.beat(self.home)
        self._heard_since = time.monotonic()
        self._beating = asyncio.create_task(self._beat(give_up))

    async def close(self) -> None:
        if self._beating is None:
            return
        self._beating.cancel()
        with suppress(asyncio.CancelledError):
            await self._beating
        with suppress(OssiaError):  # then the others hear no more beats
            await self._replicas.beat(self.home, leaves=True)
        assert self._client is not None
        await self._client.aclose()

    async def _beat(self, give_up: Callable[[StoredResponse], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(BEAT)
            try:
                await self._replicas.beat(self.home)
                await self._bury(give_up)
            except OssiaError as error:
                self._heard_since = None
                log.debug("this server could not say that it is there: %s", error)

    async def _bury(self, give_up: Callable[[StoredResponse], Awaitable[None]]) -> None:
        """Who has not heard the store for so long itself cannot know who is gone."""
        now = time.monotonic()
        if self._heard_since is None:
            self._heard_since = now
        if now - self._heard_since < SILENT:
            return
        for stored in await self._replicas.orphans():
            log.warning("response %s is given up: %s is gone", stored.id, stored.home)
            await give_up(stored)

    # Where things are

    def mark(self, home: str | None = None) -> str:
        """The first digits of the ids of what lives at a server."""
        return self._sealer.signature("home", self.home if home is None else home)[:MARK]

    async def home_of(self, digits: str) -> Replica | None:
        """The server, other than this one, whose mark an id begins with."""
        if self.is_alone or digits.startswith(self.mark()):
            return None
        for each in await self._replicas.all():
            if digits.startswith(self.mark(each.home)):
                return each
        return None

    async def others(self) -> list[str]:
        """The addresses of those that are there."""
        if self.is_alone:
            return []
        known = await self._replicas.all()
        return [each.home for each in known if each.lives and each.home != self.home]

    async def check_here(self, request: Request, stored: StoredResponse) -> None:
        """Raises `Elsewhere` for a response whose events another server has, and `ApiError` (503)
        for one that nobody can tell more about yet.
        """
        if stored.home in ("", self.home) or is_passed(request):
            return
        if stored.home in await self.others():
            raise Elsewhere(stored.home)
        if not stored.is_finished:
            raise unanswered()

    # Passing on

    def passed(self, scope: Scope, headers: Headers) -> str | None:
        """Whose request another server passes on; None if a client sent it. Raises `ApiError`."""
        given = headers.get(PASSED)
        if given is None or self.is_alone:
            return None
        return self._proof.caller(given, scope["method"], target_of(scope))

    async def pass_on(self, request: Request, error: Exception) -> Response:
        """The handler of `Elsewhere`."""
        assert isinstance(error, Elsewhere) and self._client is not None
        name = caller_of(request).name
        return await sent(self._client, self._proof, request, error.home, name)


def is_passed(request: Request) -> bool:
    """It is passed on once: the server that it came to has it, or nobody has."""
    return bool(getattr(request.state, "passed", False))
