"""A process that serves: the socket, and an end in which nobody loses an answer.

The first SIGTERM or SIGINT: /ready says no, new work is refused, running answers have
`settings.drain` seconds; what still runs then is told that the server stops, in the words of its
API. The second: the process ends at once. An engine that fails ends it, too, by an error, so that
whoever watches the process starts it again. Knows uvicorn and signals; nothing of what is served.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ossia.errors import EngineFailed, RequestError
from ossia.server.access import Access
from ossia.server.accounts.users import NotingPeer
from ossia.server.connections import protocol
from ossia.server.service import Service

log = logging.getLogger("ossia.server")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
LAST_WORDS = 5.0  # seconds that streams have to say that they were stopped
KEEP_ALIVE = 75  # seconds that a connection may be idle: longer than clients keep theirs


def listen(host: str, port: int) -> socket.socket:
    """A socket with that address, not open yet; port 0: any that is free. Raises `RequestError`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except OSError:
            made.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is not a host's name"
        raise RequestError(
            f"cannot listen on {host}, port {port}: {reason}; see --host and --port"
        ) from error
    return made


def serve(
    app: FastAPI, listening: socket.socket, started: Callable[[], object] = lambda: None
) -> signal.Signals | None:
    """Runs until a signal comes, and returns it. `app` is made by `create_app`. `started` is called
    when requests are answered. Raises `EngineFailed`.
    """
    service = app.state.service
    settings = service.settings
    proxies = settings.trusted_proxies
    server = _Server(
        uvicorn.Config(
            _behind(app, proxies), log_config=None, access_log=False, lifespan="on",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=int(LAST_WORDS),
            http=protocol(settings), ws="none",
            # by default uvicorn believes whoever connects from this machine
            proxy_headers=False,
        ),
        started,
        lambda: service.worker.error is not None,
    )  # fmt: skip
    stopped_by = asyncio.run(_serve(server, service, app.state.access, listening))
    if (error := service.worker.error) is not None:
        raise EngineFailed(f"the server has ended, because its engine failed: {error}") from error
    return stopped_by


def _behind(app: FastAPI, proxies: Sequence[str]) -> ASGIApp:
    """Of proxies that are trusted, the client's address is the one that they say; who connected
    stays known.
    """
    if not proxies:
        return app
    believing = ProxyHeadersMiddleware(cast(Any, app), trusted_hosts=list(proxies))
    return NotingPeer(cast(ASGIApp, believing))


async def _serve(
    server: _Server, service: Service, access: Access, listening: socket.socket
) -> signal.Signals | None:
    end = _End(server, service, access)
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, end.asked, number)
    try:
        await server.serve(sockets=[listening])
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
    return end.why


class _Server(uvicorn.Server):
    """Without signal handlers of its own. `failed` is asked ten times a second."""

    def __init__(
        self,
        config: uvicorn.Config,
        started: Callable[[], object],
        failed: Callable[[], bool],
    ) -> None:
        super().__init__(config)
        self._tell = started
        self._failed = failed

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _settle()
        self._tell()

    async def on_tick(self, counter: int) -> bool:
        return self._failed() or await super().on_tick(counter)


def _settle() -> None:
    """What is there before the first request stays, so the collector need not look at it. Otherwise
    it waits until there is a quarter as much garbage: tens of megabytes, all over the heap.
    """
    gc.collect()
    gc.freeze()


class _End:
    """The way from the first signal to the last answer."""

    def __init__(self, server: uvicorn.Server, service: Service, access: Access) -> None:
        self.server = server
        self.service = service
        self.access = access
        self.why: signal.Signals | None = None
        self._draining: asyncio.Task[None] | None = None

    def asked(self, number: signal.Signals) -> None:
        if self.why is not None:
            sys.stderr.flush()
            os._exit(128 + number)
        self.why = number
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        self.service.is_draining = True
        if self.access.running:
            seconds = self.service.settings.drain
            log.info(
                "stopping: %d answers have %g s to end; a second signal ends at once",
                self.access.running,
                seconds,
            )
            await self._quiet(seconds)
        if self.access.running:
            log.warning("stopping %d answers before their end", self.access.running)
            await asyncio.to_thread(self.service.worker.stop)
            await self._quiet(LAST_WORDS)
        self.server.should_exit = True

    async def _quiet(self, seconds: float) -> None:
        """Waits until nothing is being answered, at most so long."""
        deadline = time.monotonic() + seconds
        while self.access.running and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
