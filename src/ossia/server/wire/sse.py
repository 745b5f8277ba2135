"""Server-sent events: bytes on the wire, signs of life, and what happens when either side goes
away.

Knows HTTP streaming; nothing of what the events say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ossia.server.wire.errors import ApiError, ClientGone
from ossia.server.wire.replies import EVENTS

log = logging.getLogger("ossia.server")
T = TypeVar("T")
# They end lines for Unicode, so for clients that split text with `str.splitlines`. In JSON they are
# in strings only.
LINE_ENDS = tuple((end.encode(), f"\\u{ord(end):04x}".encode()) for end in "\x85\u2028\u2029")
ALIVE = b": still here\n\n"  # a comment
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def encode(data: Any, event: str | None = None) -> bytes:
    """One event: `data` as JSON, under a name if it has one."""
    written = orjson.dumps(data)
    for end, escaped in LINE_ENDS:
        if end in written:
            written = written.replace(end, escaped)
    text = b"data: " + written + b"\n\n"
    return text if event is None else b"event: " + event.encode() + b"\n" + text


async def first_of(events: AsyncGenerator[T, None]) -> tuple[T | None, AsyncGenerator[T, None]]:
    """The first event, awaited before the response begins, so that a refusal still gets its own
    status; and all events, the first included.
    """
    try:
        first = await anext(events)
    except StopAsyncIteration:
        return None, events

    async def again() -> AsyncGenerator[T, None]:
        async with aclosing(events):
            yield first
            async for event in events:
                yield event

    return first, again()


def streaming(
    parts: AsyncGenerator[bytes, None],
    *,
    keepalive: float,
    on_error: Callable[[ApiError], bytes],
    media_type: str = EVENTS,
    alive: bytes = ALIVE,
) -> StreamingResponse:
    """`parts` as the body. After `keepalive` seconds without one, `alive` is sent. An error in the
    middle becomes a last part, made by `on_error`. When the client goes away `parts` is closed.
    """
    return _Streaming(with_keepalive(parts, keepalive, on_error, alive), media_type)


class _Streaming(StreamingResponse):
    """Closes its parts at the end, whatever that was: the client can go while a part is being sent,
    or before the first one is asked for, and a generator that is only dropped runs on until the
    garbage collector finds it.
    """

    def __init__(self, parts: AsyncGenerator[bytes, None], media_type: str) -> None:
        super().__init__(self._noted(parts), media_type=media_type, headers=HEADERS)
        self.parts = parts
        self.has_begun = False

    async def _noted(self, parts: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
        self.has_begun = True
        async for part in parts:
            yield part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self.has_begun:  # a generator that never began could not close what it holds
                await anext(self.parts, None)
            await self.parts.aclose()


async def with_keepalive(
    parts: AsyncGenerator[bytes, None],
    keepalive: float,
    on_error: Callable[[ApiError], bytes],
    alive: bytes = ALIVE,
) -> AsyncGenerator[bytes, None]:
    async with aclosing(parts):
        waiting: asyncio.Task[bytes] | None = None
        try:
            while True:
                waiting = waiting or asyncio.ensure_future(anext(parts))
                done, _ = await asyncio.wait((waiting,), timeout=keepalive)
                if not done:
                    yield alive
                    continue
                task = waiting
                waiting = None
                try:
                    part = task.result()
                except StopAsyncIteration:
                    return
                yield part
        except Exception as error:
            told = ApiError.of(error)
            if told.status == 500:
                log.exception("a stream failed")
            yield on_error(told)
        finally:
            if waiting is not None:
                waiting.cancel()
                with suppress(asyncio.CancelledError, StopAsyncIteration, Exception):
                    await waiting


async def until_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; if the client goes away before, `work` is cancelled, and so is the
    request.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            raise ClientGone
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()


async def _gone(request: Request) -> None:
    """The body has been read: all that can still come is that the client goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
