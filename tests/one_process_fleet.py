"""Servers of one store in one process: each an application, which reaches the others without a
socket, so that the rules of a fleet are tested without a database's program.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from responses_wire import Python

from ossia.server import ScriptedEngine, Settings, create_app
from ossia.server import service as services
from ossia.server.fleet import passing
from ossia.server.service import Service
from ossia.server.store.sqlite import Sqlite
from ossia.tokenizer import Tokenizer
from ossia.tools.containers import Containers


class OneDatabase(Sqlite):
    """SQLite in memory, as if several servers reached it."""

    is_shared = True
    packs = False

    def __init__(self) -> None:
        super().__init__(None)

    async def close(self) -> None:
        """The others go on with it."""

    def end(self) -> None:
        self._db.connection.close()


class Between(httpx2.AsyncBaseTransport):
    """From one server to another, by the names of their hosts. `gone`: those that do not answer;
    `hung`: those that take a request, and then say nothing.
    """

    def __init__(self) -> None:
        self.apps: dict[str, Any] = {}
        self.gone: set[str] = set()
        self.hung: set[str] = set()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host
        if host in self.gone:
            raise httpx2.ConnectError("nobody is there", request=request)
        if host in self.hung:
            await asyncio.Event().wait()
        there = httpx2.ASGITransport(self.apps[host], raise_app_exceptions=False)
        # in a task: what a server notes of its request is not the other's
        return await asyncio.create_task(there.handle_async_request(request))


class Neighbour:
    """`client`: of the server; `engine`: what its model says."""

    def __init__(self, app: Any, client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
        self.app = app
        self.client = client
        self.engine = engine

    @property
    def service(self) -> Service:
        found: Service = self.app.state.service
        return found


class Fleet:
    """`one` and `two`."""

    def __init__(self, between: Between, servers: Sequence[Neighbour]) -> None:
        self.between = between
        self.one, self.two = servers


@asynccontextmanager
async def two_in_one(
    tokenizer: Tokenizer,
    folder: Path,
    patch: pytest.MonkeyPatch,
    says: str,
    settings: Settings,
) -> AsyncIterator[Fleet]:
    """Both say the same. Each has containers of its own."""
    database = OneDatabase()
    between = Between()
    patch.setattr(services, "database_of", lambda place: database)
    patch.setattr(passing, "client", lambda: httpx2.AsyncClient(transport=between))
    made = []
    async with AsyncExitStack() as stack:
        stack.callback(database.end)
        for name in ("one", "two"):
            engine = ScriptedEngine([tokenizer.encode_with_specials(says)])
            own = replace(settings, home=f"http://{name}", secret=b"s" * 32)
            containers = Containers(folder / name)
            app = create_app(engine, tokenizer, own, builtin=[Python()], containers=containers)
            between.apps[name] = app
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url=f"http://{name}")
            made.append(Neighbour(app, await stack.enter_async_context(client), engine))
        yield Fleet(between, made)
