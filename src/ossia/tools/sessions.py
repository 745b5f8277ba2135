"""The tool sessions of one answer, and carrying out calls with or without an event loop.

    sessions = Sessions(SessionKey("alice", "conv_1"))
    result = await sessions.call(tool, "search", '{"query": "Rome"}')     # on an event loop
    results = sessions.call_all([(tool, "search", text), ...])            # anywhere else
    await sessions.close()                                                # or close_now()

Knows the protocol of tools; nothing of turns. A call always has a result: what a tool raises
becomes a text for the model, `SystemExit` too, which would end the event loop of everybody.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import Future
from functools import cache
from typing import TypeVar

from ossia.errors import ToolError
from ossia.tools.protocol import MaybeAwaitable, SessionKey, Tool, ToolResult, ToolSession

log = logging.getLogger("ossia.tools")
Call = tuple[Tool, str, str]  # the tool, its function, what the model wrote
Value = TypeVar("Value")
CLOSE_SECONDS = 10.0  # that a session may take to close
RAISED = (Exception, SystemExit)  # what a tool may raise without harm to the answer


class Sessions:
    """Opened when a tool is first called. `call_seconds`: the time limit of every call that waits;
    None: no limit.
    """

    def __init__(self, key: SessionKey, call_seconds: float | None = None) -> None:
        self.key = key
        self.call_seconds = call_seconds
        self._open: dict[int, ToolSession] = {}  # by the tool's identity

    def of(self, tool: Tool) -> ToolSession:
        session = self._open.get(id(tool))
        if session is None:
            session = tool.session(self.key)
            self._open[id(tool)] = session
        return session

    async def call(self, tool: Tool, function: str, text: str) -> ToolResult:
        return await _value(self._start((tool, function, text)))

    def call_all(self, calls: Sequence[Call]) -> list[ToolResult]:
        """The results in order. Calls that wait do so side by side, on an event loop in a thread;
        Python functions run here and now.
        """
        return list(_finished([self._start(call) for call in calls]))

    async def close(self) -> None:
        """Each session has `CLOSE_SECONDS`; they close side by side."""
        await asyncio.gather(*(_value(closing) for closing in self._closing()))

    def close_now(self) -> None:
        """`close`, without an event loop."""
        list(_finished(self._closing()))

    def _closing(self) -> list[MaybeAwaitable[None]]:
        sessions = list(self._open.values())
        self._open.clear()
        return [_closed(session) for session in sessions]

    def _start(self, call: Call) -> MaybeAwaitable[ToolResult]:
        tool, function, text = call
        seconds = self.call_seconds
        deadline = None if seconds is None else time.monotonic() + seconds
        try:
            result = self.of(tool).call(function, text, deadline)
        except RAISED as error:  # a tool must not take the answer down with it
            return _failure(tool, error)
        return result if isinstance(result, ToolResult) else self._waited(tool, result)

    async def _waited(self, tool: Tool, result: Awaitable[ToolResult]) -> ToolResult:
        try:
            async with asyncio.timeout(self.call_seconds) as limit:
                return await result
        except RAISED as error:
            if limit.expired():
                text = f"error: the tool did not answer within {self.call_seconds:g} seconds"
                return ToolResult(text, failed=True)
            return _failure(tool, error)


def _failure(tool: Tool, error: BaseException) -> ToolResult:
    """What the model is told: of a `ToolError` its text, of anything else that the tool failed."""
    if isinstance(error, ToolError):
        return ToolResult(f"error: {error}", failed=True)
    log.error("tool %s failed", tool.namespace.name, exc_info=error)
    return ToolResult("error: the tool failed", failed=True)


def _closed(session: ToolSession) -> MaybeAwaitable[None]:
    """What cannot be closed is logged: neither the answer nor the other sessions suffer from it."""
    try:
        closing = session.close()
    except RAISED:
        log.exception("a tool's session did not close")
        return None
    return None if closing is None else _logged(closing)


async def _logged(closing: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await closing
    except RAISED:
        log.exception("a tool's session did not close")


async def _value(given: MaybeAwaitable[Value]) -> Value:
    return await given if isinstance(given, Awaitable) else given


def _finished(given: Sequence[MaybeAwaitable[Value]]) -> Iterator[Value]:
    """The values in order; all that have to be waited for are waited for at the same time."""
    started: list[Value | Future[Value]] = []
    for each in given:
        if isinstance(each, Awaitable):
            started.append(asyncio.run_coroutine_threadsafe(_value(each), background_loop()))
        else:
            started.append(each)
    try:
        for one in started:
            yield one.result() if isinstance(one, Future) else one
    except BaseException:  # such as Ctrl-C while a tool runs
        for one in started:
            if isinstance(one, Future):
                one.cancel()
        raise


@cache
def background_loop() -> asyncio.AbstractEventLoop:
    """One event loop for the process, in a thread that ends with it."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="ossia-tools", daemon=True).start()
    return loop
