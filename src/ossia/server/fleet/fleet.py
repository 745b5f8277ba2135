"""This server among others that share its store: it says that it is there, gives up what those that
are gone were doing, and passes on what is asked of it and lives at another.

Alone, with a store of its own, it does none of this. Knows the store and HTTP; nothing of answers.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from ossia.errors import ContainerError, OssiaError
from ossia.server.access import caller_of
from ossia.server.fleet.passing import (
    CONNECT,
    IS_PASSED,
    PASSED,
    SENT,
    Elsewhere,
    Line,
    Proof,
    Voucher,
    target_of,
    those,
    unanswered,
)
from ossia.server.hosted.uploads import Upload, Uploads
from ossia.server.sealing import Sealer
from ossia.server.store.replicas import SILENT, Replica, Replicas
from ossia.server.store.store import Store
from ossia.server.store.tables import StoredResponse
from ossia.server.wire.errors import ApiError

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger("ossia.server")
BEAT = 5.0  # seconds
LOST = "lost"  # the code of what went with its server
COPY_LASTS = 3600.0  # seconds for which a file of another server is kept here
FILE = re.compile("file-[0-9a-f]{32}")
MARK = 8  # hex digits of an id that say where the thing is


class Fleet:
    """`home`: the URL by which the others reach this server; "": it is alone."""

    def __init__(self, store: Store, sealer: Sealer, home: str) -> None:
        self.home = home
        self._sealer = sealer
        self._proof = Proof(sealer)
        self._replicas = Replicas(store)
        self._line: Line | None = None
        self._beating: asyncio.Task[None] | None = None
        self._copying: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._heard_since: float | None = None  # since when every beat has reached the store

    @property
    def is_alone(self) -> bool:
        return not self.home

    async def open(
        self,
        give_up: Callable[[StoredResponse], Awaitable[None]],
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        """`give_up`: is told the responses of servers that are gone. `catch_up`: is called while
        the store answers.
        """
        if self.is_alone:
            return
        self._line = Line(self._proof)
        await self._replicas.beat(self.home)
        self._heard_since = time.monotonic()
        self._beating = asyncio.create_task(self._beat(give_up, catch_up))

    async def close(self) -> None:
        if self._beating is None:
            return
        self._beating.cancel()
        with suppress(asyncio.CancelledError):
            await self._beating
        with suppress(OssiaError):  # then the others hear no more beats
            await self._replicas.beat(self.home, leaves=True)
        assert self._line is not None
        await self._line.close()

    async def _beat(
        self,
        give_up: Callable[[StoredResponse], Awaitable[None]],
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        while True:
            await asyncio.sleep(BEAT)
            try:
                await self._replicas.beat(self.home)
                await catch_up()
                await self._bury(give_up)
            except OssiaError as error:
                self._heard_since = None
                log.debug("this server could not say that it is there: %s", error)
            except Exception:  # it must not fall silent: the others would give up its answers
                self._heard_since = None
                log.exception("this server could not say that it is there")

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
        if home is None:
            home = self.home
        return self._sealer.signature("home", home)[:MARK]

    def is_here(self, id: str) -> bool:
        """Whether an id says that the thing lives here."""
        return self.is_alone or _digits(id).startswith(self.mark())

    def is_shared_here(self, id: str) -> bool:
        """Whether the thing lives here, and other servers can have copies of it."""
        return not self.is_alone and self.is_here(id)

    async def home_of(self, id: str) -> Replica | None:
        """The server, other than this one, at which an id says that the thing lives."""
        if self.is_here(id):
            return None
        for each in await self._replicas.all():
            if _digits(id).startswith(self.mark(each.home)):
                return each
        return None

    async def check_mark(self, id: str) -> None:
        """Raises `Elsewhere` for a container or file that another server has, and `ContainerError`
        if that one is gone, and the thing with it.
        """
        if IS_PASSED.get():
            return
        there = await self.home_of(id)
        if there is None:
            return
        if there.lives:
            raise Elsewhere(there.home)
        raise ContainerError("the server that had it is gone, with all its files", "id", LOST)

    async def others(self) -> list[str]:
        """The addresses of those that are there."""
        if self.is_alone:
            return []
        known = await self._replicas.all()
        return [each.home for each in known if each.lives and each.home != self.home]

    async def _asked(self) -> list[str]:
        """The others, unless it is one of them that asks here."""
        if IS_PASSED.get():
            return []
        return await self.others()

    async def check_here(self, stored: StoredResponse) -> None:
        """Raises `Elsewhere` for a response whose events another server has, and `ApiError` (503)
        for one that nobody can tell more about yet.
        """
        if stored.home in ("", self.home) or IS_PASSED.get():
            return
        if stored.home in await self.others():
            raise Elsewhere(stored.home)
        if not stored.is_finished:
            raise unanswered()

    async def check_runs_here(self, stored: StoredResponse) -> None:
        """As `check_here`, of a response that is still to end."""
        if not stored.is_finished:
            await self.check_here(stored)

    # Passing on

    def passed(self, scope: Scope, headers: Headers) -> Voucher | None:
        """What the server says that passes the request on; None if a client sent it. Raises
        `ApiError`.
        """
        given = headers.get(PASSED)
        if given is None or self.is_alone:
            return None
        return self._proof.read(given, scope["method"], target_of(scope))

    async def pass_on(self, request: Request, error: Exception) -> Response:
        """The handler of `Elsewhere`."""
        assert isinstance(error, Elsewhere) and self._line is not None
        return await self._line.passed_on(request, error.home, caller_of(request).name)

    async def by_others(self, request: Request) -> tuple[list[dict[str, Any]], list[str]]:
        """What the others say to the same request, which has no body, and the addresses of those
        that do not answer, or have been there and are no more. Raises `ApiError` for one that
        refuses.
        """
        told: list[dict[str, Any]] = []
        missed: list[str] = []
        if self.is_alone or IS_PASSED.get():
            return told, missed
        for each in await self._replicas.all():
            if each.home == self.home:
                continue
            answer = await self._same(request, each) if each.lives else None
            if answer is None:
                missed.append(each.home)
                continue
            said = orjson.loads(answer.content)
            if answer.status_code != 200:
                error = said["error"]
                raise ApiError(answer.status_code, error["message"], code=error["code"])
            told.append(said)
        return told, missed

    async def _same(self, request: Request, there: Replica) -> httpx2.Response | None:
        """The answer to the same request there; None if there is none."""
        assert self._line is not None
        caller = caller_of(request).name
        try:
            return await self._line.told(
                there.home, request.method, target_of(request.scope), caller
            )
        except ApiError:
            log.warning("%s does not answer: it is told later what was deleted", there.home)
            return None

    async def tell_others(self, request: Request) -> None:
        """The same request, without a body, to those that are there, as far as they answer soon."""
        asked = [self._same(request, Replica(home, lives=True)) for home in await self.others()]
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT):
                await asyncio.gather(*asked)

    async def with_others(
        self, request: Request, own: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """What is listed here, and by the servers that are there, the oldest first."""
        found = {each["id"]: each for each in own}
        for home in await self._asked():
            found |= {each["id"]: each for each in await self._listed(request, home)}
        return sorted(found.values(), key=lambda each: str(each["created_at"]))

    async def _listed(self, request: Request, home: str) -> list[dict[str, Any]]:
        assert self._line is not None
        listed: list[dict[str, Any]] = []
        caller = caller_of(request).name
        headers = those(SENT, request.headers)
        asked = {"limit": "100", "order": "asc"}
        purpose = request.query_params.get("purpose")
        if purpose:
            asked["purpose"] = purpose
        while True:
            target = f"{request.url.path}?{urlencode(asked)}"
            answer = await self._line.read(home, target, caller, headers)
            if answer.status_code != 200:
                raise unanswered()
            page = orjson.loads(answer.content)
            listed += page["data"]
            if not page["has_more"]:
                return listed
            asked["after"] = listed[-1]["id"]

    async def bring(self, uploads: Uploads | None, caller: str, asked: Any) -> None:
        """Copies here, for a while, the files that a request names and other servers have."""
        if uploads is None or self.is_alone:
            return
        for id in dict.fromkeys(FILE.findall(orjson.dumps(asked, default=str).decode())):
            if uploads.has(id):
                continue
            there = await self.home_of(id)
            if there is not None and there.lives:
                await self._copied(uploads, caller, id, there.home)

    async def _copied(self, uploads: Uploads, caller: str, id: str, home: str) -> None:
        """One copy of a file is made at a time, however many requests name it."""
        key = (caller, id)
        copying = self._copying.get(key)
        if copying is None:
            copying = asyncio.create_task(self._copy(uploads, caller, id, home))
            self._copying[key] = copying
            copying.add_done_callback(lambda task: self._copying.pop(key))
        await asyncio.shield(copying)

    async def _copy(self, uploads: Uploads, caller: str, id: str, home: str) -> None:
        """Nothing, if the other server has none: the request is told so where it names it."""
        assert self._line is not None
        about = await self._line.read(home, f"/v1/files/{id}", caller)
        if about.status_code != 200:
            return
        content = await self._line.read(home, f"/v1/files/{id}/content", caller)
        if content.status_code != 200:
            return
        said = orjson.loads(about.content)
        now = uploads.clock()
        copy = Upload(
            id,
            caller,
            said["filename"],
            said["purpose"],
            len(content.content),
            said["created_at"],
            min(now + COPY_LASTS, said["expires_at"]),
        )
        await asyncio.to_thread(uploads.put, copy, BytesIO(content.content))


def _digits(id: str) -> str:
    """Of an id of a container or a file: what follows its prefix."""
    return id[len("cntr_") :]
