"""Answers that continue without a listener: events are kept as they come, and a follower can begin
at any of them.

A run consumes one generator of wire events in a task of its own. When it ends, however it ends, the
stored response is finished: by the generator, or, if that could not, here. Knows the store, and of
a Response its status, error and output; not how events are made.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Literal

import orjson

from ossia.server.store.protocol import StoreError, StoreUnreachable
from ossia.server.store.store import Store
from ossia.server.store.tables import StoredResponse
from ossia.server.wire.errors import FAILED, ApiError, bad

log = logging.getLogger("ossia.server")
Event = dict[str, Any]
Why = Literal["cancelled", "stopped"]  # by the client, by the server's end

# the event that a response of this status ends with; for "cancelled" the API has none of its own
LAST = {
    "completed": "response.completed",
    "failed": "response.failed",
    "incomplete": "response.incomplete",
    "cancelled": "response.incomplete",
}
OVERHEAD = 64  # bytes of an event besides its JSON
PACKED = 1 << 20  # bytes of events that are compressed in a few milliseconds
RESTING = 1 << 20  # bytes of ended runs' events that stay while nothing is asked
GONE = "the server that was answering is gone: what it had not stored is lost; ask again"
UNSTORED = "the answer could not be stored: the database did not answer when it ended"
STOPPED = "the server stopped before the answer was complete"
CLEANUP = 5.0  # seconds that stopped runs have to store what they have


class Runs:
    """A generator of events gets a cancel as `asyncio.CancelledError` at whatever it awaits. It
    should store the response as cancelled with what there is so far, and may yield last events; if
    it does not, the response is marked as cancelled here. If it ends without a last event,
    followers get one made from the stored response.
    """

    def __init__(
        self,
        store: Store,
        *,
        home: str = "",
        max_running: int = 256,
        max_bytes: int = 64 << 20,
        keep: float = 600.0,
    ) -> None:
        """`home`: the address of this server, where several share the store. At most `max_running`
        at a time; `max_bytes` of events are kept, those of ended runs for
        `keep` seconds.
        """
        self.store = store
        self.home = home
        self.max_running = max_running
        self.max_bytes = max_bytes
        self.keep = keep
        self._running: dict[tuple[str, str], _Run] = {}
        self._ended: OrderedDict[tuple[str, str], _Run] = OrderedDict()  # the earliest first
        self._bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # where the latest run began
        self._closing = False
        self._left: set[tuple[str, str]] = set()  # unfinished, and not running

    async def recover(self) -> None:
        """Responses in progress were left by an earlier server, and are marked as failed."""
        for stored in await self.store.unfinished(self.home):
            await self._finish(stored, "failed", STOPPED)

    async def settle(self) -> None:
        """What is unfinished in the store and runs here no more, now and at the last call, will not
        be finished by anybody else.
        """
        left = {}
        for stored in await self.store.unfinished(self.home):
            key = (stored.owner, stored.id)
            if key not in self._running:
                left[key] = stored
        for key in left.keys() & self._left:
            await self._finish(left[key], "failed", UNSTORED)
        self._left = set(left)

    async def give_up(self, stored: StoredResponse) -> None:
        """The server that was answering it is gone."""
        await self._finish(stored, "failed", GONE)

    def start(self, owner: str, id: str, events: AsyncGenerator[Event, None]) -> None:
        """Takes `events` (dicts with "type" and "sequence_number" from 0, +1) as they come. Raises
        `ApiError` (429, 503) if too many run already or the server goes down; `events` is untouched
        then.
        """
        if self._closing:
            raise ApiError(503, "the server is stopping", headers={"Retry-After": "5"})
        if len(self._running) >= self.max_running:
            raise ApiError(429, "too many responses are in progress", headers={"Retry-After": "5"})
        key = (owner, id)
        assert key not in self._running, f"{id} runs already"
        self._forget(self._ended.pop(key, None))
        run = _Run(owner, id, self.store.clock())
        self._running[key] = run
        self._loop = asyncio.get_running_loop()
        run.task = self._loop.create_task(self._whole(run, events))

    async def follow(self, owner: str, id: str, after: int = -1) -> AsyncGenerator[Event, None]:
        """Events with a `sequence_number` above `after`, then new ones as they come, until the
        last. If they are not kept any more: a short stream made from the stored response. Closing
        this does not stop the run. An error of the run before its first event is raised here.
        Raises `ApiError` (404) for an unknown response.
        """
        run = self._run(owner, id)
        if run is None or (run.is_ended and after + 1 < run.first):
            for event in await self._replay(owner, id, after):
                yield event
            return
        news = asyncio.Event()
        position = after + 1
        ended: list[bytes] = []  # all events, when no more come
        run.followers.add(news)
        try:
            while True:
                while position < run.count:
                    if position < run.first:
                        raise bad(
                            f"events up to {run.first - 1} are not kept any more", "starting_after"
                        )
                    if run.packed and not ended:
                        ended = run.packed.events()
                    yield orjson.loads((ended or run.events)[position - run.first])
                    position += 1
                if run.is_ended:
                    break
                news.clear()
                await news.wait()
            if run.error is not None and run.count == 0:
                raise run.error
        finally:
            run.followers.discard(news)

    def cancel(self, owner: str, id: str) -> bool:
        """False if it was not running. The run ends soon after: see `ended`."""
        run = self._running.get((owner, id))
        if run is None:
            return False
        run.stop("cancelled")
        return True

    async def ended(self, owner: str, id: str) -> None:
        """Waits until the run is over and the response is stored."""
        run = self._running.get((owner, id))
        if run is not None and run.task is not None:
            await asyncio.wait((run.task,))

    async def delete(self, owner: str, id: str) -> bool:
        """Stops the run, deletes its events and the stored response. False if there was none."""
        self.cancel(owner, id)
        await self.ended(owner, id)  # it would store itself again
        self._forget(self._ended.pop((owner, id), None))
        return await self.store.delete(owner, id)

    async def forget(self, owner: str, before: float = inf) -> int:
        """Stops all runs of an owner's that began before that, and forgets their events; how many
        ran.
        """

        def own(runs: Mapping[tuple[str, str], _Run]) -> list[_Run]:
            return [each for each in runs.values() if each.owner == owner and each.begun < before]

        running = own(self._running)
        for run in running:
            self.cancel(owner, run.id)
        for run in running:
            await self.ended(owner, run.id)
        for run in own(self._ended):
            self._forget(self._ended.pop((owner, run.id)))
        return len(running)

    async def close(self, grace: float = 0.0) -> None:
        """The server is stopping: runs have `grace` seconds to end, then they are stopped and
        marked as failed.
        """
        self._closing = True
        if self._running and grace > 0:
            await asyncio.wait(self._tasks(), timeout=grace)
        for run in list(self._running.values()):
            run.stop("stopped")
        if self._running:
            await asyncio.wait(self._tasks(), timeout=CLEANUP)
        for run in self._running.values():
            log.error("response %s does not end: it is marked as failed at the next start", run.id)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [run.task for run in self._running.values() if run.task is not None]

    # A run

    async def _whole(self, run: _Run, events: AsyncGenerator[Event, None]) -> None:
        try:
            await self._consume(run, events)
        finally:  # whatever ended it
            await self._end(run)

    async def _consume(self, run: _Run, events: AsyncGenerator[Event, None]) -> None:
        run.has_begun = True
        try:
            run.stop_if_told()
            async with aclosing(events):
                async for event in events:
                    self._keep(run, event)
        except asyncio.CancelledError:
            if run.why is None:  # by nobody here
                raise
        except Exception as error:
            run.error = error
            if isinstance(error, ApiError):
                why = error.code or error.type  # its text may repeat what was asked
                log.info("response %s failed: %d %s", run.id, error.status, why)
            else:
                log.exception("response %s failed", run.id)

    def _keep(self, run: _Run, event: Event) -> None:
        assert event["sequence_number"] == run.count, (
            f"event {event['sequence_number']} follows {run.count - 1}"
        )
        data = orjson.dumps(event)
        run.events.append(data)
        run.last = event["type"]
        run.bytes = run.bytes + len(data) + OVERHEAD
        self._bytes += len(data) + OVERHEAD
        self._limit()
        run.wake()

    async def _end(self, run: _Run) -> None:
        """No more events come. The response is finished, and followers are told."""
        run.is_ending = True
        try:
            stored = await self.store.get(run.owner, run.id)
            if stored is not None:
                stored = await self._settle(run, stored)
                if not (
                    run.last in LAST.values()
                    or run.last == "error"
                    or (run.error and run.count == 0)
                ):
                    response = stored.response
                    self._keep(run, _event(LAST[response["status"]], run.count, response=response))
        except StoreUnreachable as error:
            log.error("response %s is finished later: %s", run.id, error)
        except StoreError:
            log.exception("response %s cannot be finished", run.id)
        finally:
            del self._running[run.owner, run.id]
            run.task = None  # its context holds the request
            self._ended[run.owner, run.id] = run
            run.ended = time.monotonic()
            self._bytes -= run.pack()
            self._limit()
            run.wake()

    async def _settle(self, run: _Run, stored: StoredResponse) -> StoredResponse:
        status = stored.response["status"]
        if run.why == "stopped" and (
            not stored.is_finished or status == "cancelled"
        ):  # nobody cancelled it
            return await self._finish(stored, "failed", STOPPED, again=True)
        if stored.is_finished:
            return stored
        if run.why == "cancelled":
            return await self._finish(stored, "cancelled")
        known = isinstance(run.error, ApiError)
        why = FAILED
        if known:
            why = str(run.error)
        return await self._finish(stored, "failed", why)

    async def _finish(
        self,
        stored: StoredResponse,
        status: str,
        message: str | None = None,
        *,
        again: bool = False,
    ) -> StoredResponse:
        """What is kept then: another server may have ended it first."""
        error = None
        if message is not None:
            error = {"code": "server_error", "message": message}
        output = [
            item | {"status": "incomplete"} if item.get("status") == "in_progress" else item
            for item in stored.response.get("output", ())
        ]
        response = stored.response | {"status": status, "error": error, "output": output}
        finished = replace(stored, response=response)
        if await self.store.put(finished, again=again):
            return finished
        return await self.store.get(stored.owner, stored.id) or finished

    # What is kept

    def _run(self, owner: str, id: str) -> _Run | None:
        self._limit()
        return self._running.get((owner, id)) or self._ended.get((owner, id))

    def rest(self) -> None:
        """Nothing has been asked for a while: of ended runs the latest stay, as their followers may
        come back; the others are told from the store. Any thread may call it.
        """
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._limit, RESTING)

    def _limit(self, most: int | None = None) -> None:
        """To `most` bytes, by default `max_bytes`. Events of ended runs go first. If those of
        running ones are too many, the longest run loses the first half of its events; its followers
        have them already.
        """
        now = time.monotonic()
        if most is None:
            most = self.max_bytes
        while self._ended:
            run = next(iter(self._ended.values()))
            if self._bytes <= most and now - run.ended <= self.keep:
                break
            self._forget(self._ended.popitem(last=False)[1])
        while self._bytes > self.max_bytes:
            run = max(self._running.values(), key=lambda run: run.bytes)
            self._bytes -= run.halve()

    def _forget(self, run: _Run | None) -> None:
        if run is not None:
            self._bytes -= run.bytes

    async def _replay(self, owner: str, id: str, after: int) -> Iterator[Event]:
        stored = await self.store.get(owner, id)
        if stored is None:
            raise ApiError(
                404, f"there is no response {id!r}", param="response_id", code="response_not_found"
            )
        if not stored.is_finished:
            raise bad("the response is in progress and has no stream", "stream")
        return replayed(stored.response, after)


@dataclass(frozen=True)
class _Packed:
    """Events that are not added to any more: alike as they are, they take a tenth together, and
    are one object, not hundreds of small ones all over the heap.
    """

    data: bytes
    count: int

    @classmethod
    def of(cls, events: list[bytes]) -> _Packed:
        return cls(zlib.compress(b"\n".join(events), 1), len(events))

    def events(self) -> list[bytes]:
        return zlib.decompress(self.data).split(b"\n")


@dataclass(eq=False)
class _Run:
    """`events` as JSON, `first` is the number of the first of them; `packed` in their place, when
    it has ended. `begun`: on the store's clock; `ended`: on that of `time.monotonic`.
    """

    owner: str
    id: str
    begun: float
    events: list[bytes] = field(default_factory=list)
    packed: _Packed | None = None
    first: int = 0
    bytes: int = 0
    last: str = ""  # type of the last event
    followers: set[asyncio.Event] = field(default_factory=set)
    task: asyncio.Task[None] | None = None
    has_begun: bool = False
    is_ending: bool = False
    why: Why | None = None  # it was stopped
    error: Exception | None = None  # it failed of
    ended: float = 0.0

    @property
    def count(self) -> int:
        """Events so far, with those that are not kept: the number of the next one."""
        if self.packed is not None:
            return self.first + self.packed.count
        return self.first + len(self.events)

    @property
    def is_ended(self) -> bool:
        return self.ended > 0

    def wake(self) -> None:
        for news in self.followers:
            news.set()

    def stop(self, why: Why) -> None:
        # a second cancel would disturb what the first one started
        if self.why is None and not self.is_ending:
            self.why = why
            if self.has_begun:  # a generator that never began could not close what it holds
                self.stop_if_told()

    def stop_if_told(self) -> None:
        if self.why is not None and self.task is not None:
            self.task.cancel()

    def pack(self) -> int:
        """No more events come. Returns how many bytes became free."""
        if not self.events or self.bytes > PACKED:
            return 0
        self.packed = _Packed.of(self.events)
        self.events = []
        freed = self.bytes - len(self.packed.data) - OVERHEAD
        self.bytes -= freed
        return freed

    def halve(self) -> int:
        """Drops the first half of the events. Returns how many bytes became free."""
        gone = self.events[: (len(self.events) + 1) // 2]
        self.events = self.events[len(gone) :]
        self.first += len(gone)
        freed = sum(len(data) + OVERHEAD for data in gone)
        self.bytes -= freed
        return freed


def replayed(response: dict[str, Any], after: int = -1) -> Iterator[Event]:
    """A short stream made from a finished response whose events are not kept: its items come whole.
    It always has the last event, which clients wait for.
    """
    before = response | {"status": "in_progress", "output": [], "usage": None, "error": None}
    events = [_event(f"response.{kind}", 0, response=before) for kind in ("created", "in_progress")]
    for index, item in enumerate(response.get("output", ())):
        events += [
            _event(f"response.output_item.{kind}", 0, output_index=index, item=item)
            for kind in ("added", "done")
        ]
    for number, event in enumerate(events):
        if number > after:
            yield event | {"sequence_number": number}
    number = max(len(events), after + 1)
    yield _event(LAST[response["status"]], number, response=response)


def _event(type: str, number: int, **fields: Any) -> Event:
    return {"type": type, "sequence_number": number, **fields}
