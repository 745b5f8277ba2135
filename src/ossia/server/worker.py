"""The engine in a thread of its own: requests in, tokens out to whichever coroutine waits for them.

One thread steps; it alone touches the engine. Coroutines hand it what to do through a queue and get
tokens through theirs, all those of a step at once, so that the event loop is woken once a step.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ossia import heap
from ossia.config import ModelConfig
from ossia.engine.request import Constraint, EngineStats, PromptToken, SampledToken, SamplingParams
from ossia.engine.watch import Watch

log = logging.getLogger("ossia.server")
# Seconds without anything to compute after which memory is given back. Whoever compares a server's
# size before and after a load will wait about a minute; a pause in a conversation costs little.
REST = 30.0
WATCH = 2.0  # seconds between two looks at the files of the weights
READING = 2  # callers whose prompts are read at a time: each takes memory beside the engine's


class EngineLike(Protocol):
    """What the server asks of an engine: `engine.Engine` and `ScriptedEngine` have it."""

    failed: dict[int, Exception]
    watch: Watch
    enforces_constraints: bool

    @property
    def config(self) -> ModelConfig: ...
    @property
    def longest(self) -> int: ...
    def check(self, prompt: Sequence[int], params: SamplingParams) -> int: ...
    def submit(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        constraint: Constraint | None = None,
        *,
        priority: int = 0,
        cache_salt: str = "",
        sample_of: int | None = None,
        stream: int = 0,
        caller: str = "",
        is_batch: bool = False,
    ) -> int: ...
    def abort(self, request_id: int) -> None: ...
    def has_work(self) -> bool: ...
    def step(self) -> list[SampledToken]: ...
    def rest(self) -> None: ...
    def stats(self) -> EngineStats: ...
    def prompt_logprobs(
        self, prompt: Sequence[int], top: int = 0
    ) -> Iterator[list[PromptToken]]: ...


@dataclass
class Samples:
    """Samples of one prompt, so that they share its pages: give the same object to each."""

    first: int | None = None  # the request that the others are samples of


class EngineStopped(Exception):
    """The engine failed, or the server is stopping: no more tokens will come."""


class WeightsChanged(Exception):
    """What the engine computes with is not what was loaded."""


class _Stream:
    """A request's way back to the coroutine that made it."""

    def __init__(self, *, is_batch: bool = False) -> None:
        self.is_batch = is_batch
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.request_id: int | None = None
        self.closed = False


_Scoring = tuple[_Stream, Iterator[list[PromptToken]]]


class _Lane:
    """Prompts whose tokens are to be scored: chunk by chunk, one prompt after the other of a
    caller, and READING callers' in turns.
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[_Scoring]] = {}  # by caller; the first of each is next
        self._reading: deque[str] = deque()  # callers with a prompt that is being read

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, caller: str, scoring: _Scoring) -> None:
        self._lines.setdefault(caller, deque()).append(scoring)

    def clear(self) -> list[_Stream]:
        """Whoever waits."""
        waiting = [stream for line in self._lines.values() for stream, _ in line]
        self._lines.clear()
        self._reading.clear()
        return waiting

    def score(self) -> tuple[_Stream, list[PromptToken] | Exception | None]:
        """One chunk of the prompt whose caller's turn it is."""
        for caller in self._lines:
            if len(self._reading) < READING and caller not in self._reading:
                self._reading.append(caller)
        caller = self._reading.popleft()
        line = self._lines[caller]
        stream, chunks = line[0]
        scored: list[PromptToken] | Exception | None
        try:
            scored = None if stream.closed else next(chunks, None)
        except Exception as error:  # of this prompt, so only its coroutine is told
            scored = error
        if isinstance(scored, list):
            self._reading.append(caller)
        else:
            line.popleft()
            del self._lines[caller]
            if line:
                self._lines[caller] = line  # after the other callers
        return stream, scored


class EngineWorker:
    """`start` it, `generate` from any event loop, `stop` it. `changed`: what has changed about the
    files that weights are read from, if anything has; then the engine stops before another answer
    is complete. `at_rest` is called after the engine has rested, in its thread.
    """

    def __init__(
        self,
        engine: EngineLike,
        changed: Callable[[], str | None] = lambda: None,
        at_rest: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self._changed = changed
        self._at_rest = at_rest
        self._clock = clock
        self._next_rest = clock() + REST
        self._next_look = 0.0  # on the clock of time.monotonic
        self.error: BaseException | None = None  # what the thread died of
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._streams: dict[int, _Stream] = {}
        self._scoring = _Lane()
        self._batch_scoring = _Lane()  # only while there is nothing else
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="ossia-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its step; whatever still waits gets `EngineStopped`."""
        self._commands.put(self._stop)
        if self._thread is not None:
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and self.error is None

    def stats(self) -> EngineStats:
        """As of a moment ago; reads numbers that another thread writes, which does no harm."""
        with suppress(RuntimeError):  # a dictionary changed while it was read
            return self.engine.stats()
        return EngineStats()

    def within(self, params: SamplingParams, prompt: Sequence[int]) -> SamplingParams:
        """`max_tokens` is a bound and reserves nothing: no more than there is room for, nor
        `min_tokens`.
        """
        room = self.engine.longest - len(prompt)
        if params.max_tokens is None or room < 1:
            return params
        most = min(params.max_tokens, room)
        return replace(params, max_tokens=most, min_tokens=min(params.min_tokens, most))

    async def generate(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        constraint: Constraint | None = None,
        *,
        priority: int = 0,
        cache_salt: str = "",
        samples: Samples | None = None,
        stream: int = 0,
        caller: str = "",
        is_batch: bool = False,
    ) -> AsyncGenerator[SampledToken, None]:
        """The tokens as they come. Closing the iterator aborts the request. Raises the errors of
        `submit` and of the constraint, and `EngineStopped`.
        """
        mine = _Stream(is_batch=is_batch)

        def submit() -> None:
            if mine.closed:
                return
            if self._stopping or self.error is not None:
                self._tell([(mine, EngineStopped("the engine is stopping"))])
                return
            first = samples.first if samples is not None else None
            try:
                id = self.engine.submit(
                    prompt,
                    params,
                    constraint,
                    priority=priority,
                    cache_salt=cache_salt,
                    sample_of=first,
                    stream=stream,
                    caller=caller,
                    is_batch=is_batch,
                )
            except Exception as error:  # the coroutine's to handle
                self._tell([(mine, error)])
                return
            mine.request_id = id
            self._streams[id] = mine
            if samples is not None and first is None:
                samples.first = id

        self._commands.put(submit)
        try:
            self._check_taken(mine)
            while True:
                got = await mine.queue.get()
                if isinstance(got, Exception):
                    raise got
                yield got
                if got.finish_reason is not None:
                    return
        finally:
            mine.closed = True
            self._commands.put(lambda: self._forget(mine))

    def _check_taken(self, mine: _Stream) -> None:
        """Asked after the put: what the thread is past, this still sees; of what it has taken on
        it tells the end. Raises `EngineStopped`.
        """
        is_over = not self.is_alive or self._stopping
        if is_over and mine.request_id is None and mine.queue.empty():
            raise EngineStopped("the engine is not running")

    async def prompt_logprobs(
        self, prompt: Sequence[int], top: int = 0, caller: str = "", *, is_batch: bool = False
    ) -> list[PromptToken]:
        """As the engine's, all of them. Prompts are read in turns with the engine's steps, one
        after the other of a caller, and two callers' in turns. Raises what the engine does, and
        `EngineStopped`.
        """
        mine = _Stream()

        def begin() -> None:
            if self._stopping or self.error is not None:
                self._tell([(mine, EngineStopped("the engine is stopping"))])
                return
            try:
                chunks = self.engine.prompt_logprobs(prompt, top)
                lane = self._batch_scoring if is_batch else self._scoring
                lane.add(caller, (mine, chunks))
            except Exception as error:  # the coroutine's to handle
                self._tell([(mine, error)])

        self._commands.put(begin)
        tokens: list[PromptToken] = []
        try:
            if not self.is_alive or self._stopping:  # as above
                raise EngineStopped("the engine is not running")
            while (got := await mine.queue.get()) is not None:
                if isinstance(got, Exception):
                    raise got
                tokens += got
        finally:
            mine.closed = True
        return tokens

    # In the thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._take_commands()
                if time.monotonic() >= self._next_look:
                    self._look()
                self._work()
        except WeightsChanged as error:
            log.error("%s; no more requests are answered", error)
            self.error = error
        except BaseException as error:
            log.exception("the engine failed; no more requests are answered")
            self.error = error
        gone = EngineStopped(
            "the engine stopped" if self.error is None else f"the engine failed: {self.error}"
        )
        scoring = [*self._scoring.clear(), *self._batch_scoring.clear()]
        self._tell([(stream, gone) for stream in (*self._streams.values(), *scoring)])
        self._streams.clear()
        with suppress(queue.Empty):  # who came in meanwhile is told too
            while True:
                self._commands.get_nowait()()

    def _work(self) -> None:
        """Computes what there is; if there has been nothing for a while, gives memory back, now
        and whenever as much time has passed: requests that never reach the engine take some, too.
        """
        if self._stopping:
            return
        if self._has_work():
            self._next_rest = self._clock() + REST
        elif self._clock() >= self._next_rest:
            self._next_rest = self._clock() + REST
            self.engine.rest()
            self._at_rest()
            heap.trim()
        if self._scoring:
            self._tell([self._scoring.score()])
        elif self._batch_scoring and all(each.is_batch for each in self._streams.values()):
            self._tell([self._batch_scoring.score()])
        if self.engine.has_work():
            self._step()

    def _has_work(self) -> bool:
        return bool(self._scoring or self._batch_scoring) or self.engine.has_work()

    def _take_commands(self) -> None:
        """All that wait; waits for one, or the next look, if there is nothing to compute."""
        with suppress(queue.Empty):
            if not self._has_work():
                self._commands.get(timeout=WATCH)()
            while not self._stopping:
                self._commands.get_nowait()()

    def _look(self) -> None:
        self._next_look = time.monotonic() + WATCH
        change = self._changed()
        if change is not None:
            raise WeightsChanged(f"the weights file {change}")

    def _step(self) -> None:
        news: list[tuple[_Stream, Any]] = []
        tokens = self.engine.step()
        if any(token.finish_reason is not None for token in tokens):
            self._look()
        for token in tokens:
            if (stream := self._streams.get(token.request_id)) is not None:
                news.append((stream, token))
                if token.finish_reason is not None:
                    del self._streams[token.request_id]
        for id in list(self.engine.failed):
            error = self.engine.failed.pop(id)
            if (stream := self._streams.pop(id, None)) is not None:
                news.append((stream, error))
        self._tell(news)

    def _tell(self, news: Sequence[tuple[_Stream, Any]]) -> None:
        """One call into each event loop that has something to hear."""
        loops: dict[asyncio.AbstractEventLoop, list[tuple[_Stream, Any]]] = {}
        for stream, what in news:
            loops.setdefault(stream.loop, []).append((stream, what))
        for loop, parts in loops.items():
            try:
                loop.call_soon_threadsafe(_deliver, parts)
            except RuntimeError:  # the loop is closed: nobody is there to be told
                for stream, _ in parts:
                    stream.closed = True
                    self._forget(stream)

    def _forget(self, stream: _Stream) -> None:
        if stream.request_id is not None and self._streams.pop(stream.request_id, None) is not None:
            self.engine.abort(stream.request_id)

    def _stop(self) -> None:
        self._stopping = True


def _deliver(parts: Sequence[tuple[_Stream, Any]]) -> None:
    for stream, what in parts:
        stream.queue.put_nowait(what)
