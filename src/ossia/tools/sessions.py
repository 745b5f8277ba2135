"""The tool sessions of one answer, and carrying out calls with or without an event loop.

    sessions = Sessions(SessionKey("alice", "conv_1"))
    result = await sessions.call(tool, "search", '{"query": "Rome"}')     # on an event loop
    results = sessions.call_all([(tool, "search", text), ...])            # anywhere else
    await sessions.close()                                                # or close_now()

Knows the protocol of tools; nothing of turns. A call always has a result: what a tool raises
becomes a text for the model, `SystemExit` too, which would end the event loop of everybody.

Calls that wait do so on one event loop in a thread. The thread that waits for them in `call_all`
does meanwhile what tools ask of it (`in_waiting_thread`), such as a question to the user.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from queue import SimpleQueue
from typing import Any, TypeVar

from ossia.errors import ToolError
from ossia.tools.protocol import (
    Interruptible,
    MaybeAwaitable,
    SessionKey,
    Tool,
    ToolResult,
    ToolSession,
)
from ossia.tools.texts import without_halves

log = logging.getLogger("ossia.tools")
Call = tuple[Tool, str, str]  # the tool, its function, what the model wrote
Value = TypeVar("Value")
CLOSE_SECONDS = 10.0  # that a session may take to close
RAISED = (Exception, SystemExit)  # what a tool may raise without harm to the answer
INTERRUPTED = "error: the user interrupted this call; what it had done by then is not known"


class Sessions:
    """Opened when a tool is first called. `call_seconds`: the time limit of every call that waits;
    None: no limit.
    """

    def __init__(self, key: SessionKey, call_seconds: float | None = None) -> None:
        self.key = key
        self.call_seconds = call_seconds
        self._open: dict[int, ToolSession] = {}  # by the tool's identity
        self._running: list[_Running] = []  # that `call_all` waits for

    @property
    def are_open(self) -> bool:
        return bool(self._open)

    def of(self, tool: Tool) -> ToolSession:
        session = self._open.get(id(tool))
        if session is None:
            session = tool.session(self.key)
            self._open[id(tool)] = session
        return session

    async def call(self, tool: Tool, function: str, text: str) -> ToolResult:
        return await _value(self._start((tool, function, text)))

    def call_all(self, calls: Sequence[Call]) -> list[ToolResult]:
        """The results in order. Calls that wait do so side by side; Python functions run here and
        now.
        """
        desk = _Desk()
        token = _DESK.set(desk)
        try:
            started = [self._begun(call) for call in calls]
            desk.wait_for([each.future for each in self._running])
            return [each.result() if isinstance(each, _Running) else each for each in started]
        except BaseException:  # such as Ctrl-C while a tool runs
            for running in self._running:
                running.future.cancel()
            raise
        finally:
            self._running = []
            _DESK.reset(token)

    def interrupt(self) -> bool:
        """Break off what `call_all` waits for; the results say so, and the turn goes on. May be
        called by other threads, and by the handler of a signal.

        True: there were calls that had not been asked to end. What can come to an end of its own is
        waited for; asked a second time, it is not waited for any more.
        """
        running = [each for each in self._running if not each.future.done()]
        return any([each.interrupt() for each in running])

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

    def _begun(self, call: Call) -> ToolResult | _Running:
        result = self._start(call)
        if isinstance(result, ToolResult):
            return result
        waited: Coroutine[Any, Any, ToolResult] = _value(result)
        future = asyncio.run_coroutine_threadsafe(waited, background_loop())
        running = _Running(self.of(call[0]), future)
        self._running.append(running)
        return running

    def _start(self, call: Call) -> MaybeAwaitable[ToolResult]:
        tool, function, text = call
        seconds = self.call_seconds
        deadline = None if seconds is None else time.monotonic() + seconds
        try:
            result = self.of(tool).call(function, text, deadline)
        except RAISED as error:  # a tool must not take the answer down with it
            return _failure(tool, error)
        return _fit(result) if isinstance(result, ToolResult) else self._waited(tool, result)

    async def _waited(self, tool: Tool, result: Awaitable[ToolResult]) -> ToolResult:
        try:
            async with asyncio.timeout(self.call_seconds) as limit:
                return _fit(await result)
        except RAISED as error:
            if limit.expired():
                text = f"error: the tool did not answer within {self.call_seconds:g} seconds"
                return ToolResult(text, failed=True, broke=True)
            return _failure(tool, error)


@dataclass
class _Running:
    """A call on the event loop."""

    session: ToolSession
    future: Future[ToolResult]
    is_asked: bool = False  # to come to its end

    def interrupt(self) -> bool:
        """Whether this is the first time."""
        again = self.is_asked
        self.is_asked = True
        session = self.session
        if again or not (isinstance(session, Interruptible) and session.interrupt()):
            self.future.cancel()
        return not again

    def result(self) -> ToolResult:
        try:
            return self.future.result()
        except CancelledError:
            return ToolResult(INTERRUPTED, failed=True)


class _Desk:
    """The thread that waits for calls, and what it is asked to do meanwhile."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def wait_for(self, futures: Sequence[Future[Any]]) -> None:
        for future in futures:
            future.add_done_callback(lambda _: self._work.put(lambda: None))
        while not all(future.done() for future in futures):
            self._work.get()()

    def ask(self, function: Callable[[], Value]) -> Future[Value]:
        future: Future[Value] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():  # nobody waits for it any more
                return
            try:
                future.set_result(function())
            except StopIteration as error:  # coroutines cannot raise it
                future.set_exception(RuntimeError(f"StopIteration: {error}"))
            except Exception as error:
                future.set_exception(error)

        self._work.put(work)
        return future


_DESK: ContextVar[_Desk | None] = ContextVar("desk", default=None)  # of the call


async def in_waiting_thread(function: Callable[[], Value]) -> Value:
    """What `function` returns, called in the thread that waits for this call: that of the program
    that asked `llm.chat`, which may read from a terminal. On a server no thread waits; there it is
    called in one of its own.
    """
    desk = _DESK.get()
    if desk is None:
        return await asyncio.to_thread(function)
    return await asyncio.wrap_future(desk.ask(function))


def _fit(result: ToolResult) -> ToolResult:
    """Programs and pages write what they like, and no API or file can have half a character."""
    return replace(result, text=without_halves(result.text), outputs=without_halves(result.outputs))


def _failure(tool: Tool, error: BaseException) -> ToolResult:
    """What the model is told: of a `ToolError` its text, of anything else that the tool failed."""
    if isinstance(error, ToolError):
        return ToolResult(f"error: {error}", failed=True)
    log.error("tool %s failed", tool.namespace.name, exc_info=error)
    return ToolResult("error: the tool failed", failed=True, broke=True)


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


def background_loop() -> asyncio.AbstractEventLoop:
    """One event loop for the process, in a thread that ends with it."""
    with _MAKING:  # `cache` alone lets two threads make one each
        return _loop()


_MAKING = threading.Lock()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="ossia-tools", daemon=True).start()
    return loop
