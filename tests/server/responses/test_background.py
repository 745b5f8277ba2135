"""Runs: followers get every event once and in order, and however a run ends the stored response is
finished.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from ossia.server.responses import background
from ossia.server.responses.background import LAST, Runs, replayed
from ossia.server.store.sqlite import Sqlite
from ossia.server.store.store import Store
from ossia.server.store.tables import StoredResponse
from ossia.server.wire.errors import ApiError

Event = dict[str, Any]
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress",
    "content": [{"type": "output_text", "text": "so", "annotations": [], "logprobs": []}],
}  # fmt: skip


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> Store:
    return Store(Sqlite(None), 3600.0, 1 << 24)


@asynccontextmanager
async def running(store: Store, **limits: Any) -> AsyncIterator[Runs]:
    runs = Runs(store, **limits)
    await runs.recover()
    try:
        yield runs
    finally:
        await runs.close()


def response(status: str = "in_progress", id: str = "r", **fields: Any) -> dict[str, Any]:
    return {
        "id": id, "object": "response", "created_at": 1, "model": "m", "status": status,
        "output": [dict(MESSAGE)],
        "parallel_tool_calls": False, "tool_choice": "auto", "tools": [], "error": None,
        "background": True,
    } | fields  # fmt: skip


async def keep(
    store: Store, status: str = "in_progress", id: str = "r", owner: str = "ann"
) -> None:
    await store.put(StoredResponse(id, owner, response(status, id), [], []), again=True)


async def status(store: Store, id: str = "r", owner: str = "ann") -> str:
    found = await store.get(owner, id)
    assert found is not None
    return str(found.response["status"])


def delta(number: int) -> Event:
    return {"type": "response.output_text.delta", "sequence_number": number, "delta": f"{number} "}


class Feed:
    """A generator of events that a test drives: `await feed.say()` and the run has it."""

    def __init__(self, at_end: Callable[[], Awaitable[None] | None] = lambda: None) -> None:
        self.queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        self.number, self.closed, self.at_end = 0, False, at_end

    async def events(self) -> AsyncGenerator[Event, None]:
        try:
            while (event := await self.queue.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed = True
            last = self.at_end()
            if last is not None:
                await last

    async def say(self, count: int = 1) -> None:
        for _ in range(count):
            self.queue.put_nowait(delta(self.number))
            self.number += 1
        await settled()

    async def end(self, error: Exception | None = None) -> None:
        self.queue.put_nowait(error)
        await settled()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def heard(runs: Runs, after: int = -1, id: str = "r", owner: str = "ann") -> list[Event]:
    async with aclosing(runs.follow(owner, id, after)) as events:
        return [event async for event in events]


def numbers(events: list[Event]) -> list[int]:
    return [event["sequence_number"] for event in events]


async def test_followers_hear_what_was_and_what_comes(store: Store) -> None:
    async with running(store) as runs:
        feed = Feed(lambda: keep(store, "completed"))
        runs.start("ann", "r", feed.events())
        await feed.say(3)
        early = asyncio.create_task(heard(runs))
        late = asyncio.create_task(heard(runs, 1))
        future = asyncio.create_task(heard(runs, 4))
        await feed.say(3)
        assert not early.done()
        await feed.end()
        assert not runs.cancel("ann", "r"), "it does not run any more"
        assert numbers(await early) == list(range(7)) and numbers(await late) == [2, 3, 4, 5, 6]
        assert numbers(await future) == [5, 6]
        assert (await early)[:6] == [delta(n) for n in range(6)]
        assert (await early)[6][
            "type"
        ] == "response.completed"  # made here: the generator said no last word
        assert await heard(runs) == await early, "after the end, too"
        assert numbers(await heard(runs, 5)) == [6] and await heard(runs, 6) == []
        assert feed.closed and not runs.cancel("ann", "r")


async def test_the_generators_own_last_event_is_the_last(store: Store) -> None:
    async def events() -> AsyncGenerator[Event, None]:
        yield delta(0)
        await keep(store, "incomplete")
        yield {"type": "response.incomplete", "sequence_number": 1, "response": {}}

    async with running(store) as runs:
        runs.start("ann", "r", events())
        await runs.ended("ann", "r")
        assert [event["type"] for event in await heard(runs)][1:] == ["response.incomplete"]


async def test_a_follower_that_leaves_disturbs_nobody(store: Store) -> None:
    async with running(store) as runs:
        feed = Feed(lambda: keep(store, "completed"))
        runs.start("ann", "r", feed.events())
        stays = asyncio.create_task(heard(runs))
        leaves = asyncio.create_task(heard(runs))
        await feed.say()
        leaves.cancel()
        async with aclosing(runs.follow("ann", "r")) as events:
            assert await anext(events) == delta(0)
        await feed.say()
        await feed.end()
        assert numbers(await stays) == [0, 1, 2] and await status(store) == "completed"


async def test_nobody_follows_or_cancels_anothers(store: Store) -> None:
    async with running(store) as runs:
        feed = Feed()
        await keep(store)
        runs.start("ann", "r", feed.events())
        await feed.say()
        assert not runs.cancel("bob", "r") and not await runs.delete("bob", "r")
        with pytest.raises(ApiError) as caught:
            await heard(runs, owner="bob")
        assert (caught.value.status, caught.value.code) == (404, "response_not_found")
        assert runs.cancel("ann", "r"), "ann's goes on"


# Cancel


async def test_cancel_reaches_the_generator(store: Store) -> None:
    """Both ways to end well: storing what there is, or leaving that to the run."""
    async with running(store) as runs:
        for stores in (True, False):
            await keep(store)
            feed = Feed((lambda: keep(store, "cancelled")) if stores else lambda: None)
            runs.start("ann", "r", feed.events())
            await feed.say(2)
            listener = asyncio.create_task(heard(runs))
            await settled()
            assert runs.cancel("ann", "r") and runs.cancel("ann", "r")
            await runs.ended("ann", "r")
            assert (
                feed.closed and await status(store) == "cancelled" and not runs.cancel("ann", "r")
            )
            last = (await listener)[-1]
            assert (last["type"], last["sequence_number"]) == ("response.incomplete", 2)
            assert last["response"]["status"] == "cancelled"
            item = last["response"]["output"][0]
            # its own words are left alone
            assert item["status"] == ("in_progress" if stores else "incomplete")


async def test_cancel_before_the_first_step_still_closes_what_the_generator_holds(
    store: Store,
) -> None:
    async with running(store) as runs:
        await keep(store)
        feed = Feed()
        held = feed.events()
        feed.queue.put_nowait(delta(0))
        first = await anext(held)

        async def wrapped() -> AsyncGenerator[Event, None]:
            async with aclosing(held):
                yield first
                async for event in held:
                    yield event

        runs.start("ann", "r", wrapped())
        assert runs.cancel("ann", "r")
        await runs.ended("ann", "r")
        assert feed.closed and await status(store) == "cancelled"


async def test_a_generator_may_say_last_words_when_cancelled(store: Store) -> None:
    async def events() -> AsyncGenerator[Event, None]:
        yield delta(0)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await keep(store, "cancelled")
            yield {"type": "response.incomplete", "sequence_number": 1, "response": {"mine": True}}

    async with running(store) as runs:
        runs.start("ann", "r", events())
        await settled()
        runs.cancel("ann", "r")
        await runs.ended("ann", "r")
        assert [event.get("response") for event in await heard(runs)] == [None, {"mine": True}]


async def test_delete_stops_and_forgets(store: Store) -> None:
    async with running(store) as runs:
        await keep(store)
        feed = Feed(lambda: keep(store, "cancelled"))
        runs.start("ann", "r", feed.events())
        await feed.say(2)
        assert await runs.delete("ann", "r") and not await runs.delete("ann", "r")
        assert feed.closed and await store.get("ann", "r") is None
        with pytest.raises(ApiError, match="no response"):
            await heard(runs)


# Failures


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ApiError(503, "the engine is stopping"), "the engine is stopping"),
        (ValueError("secret"), "the server failed"),
    ],
)
async def test_a_run_that_fails(
    store: Store, error: Exception, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(store) as runs:
        await keep(store)
        feed = Feed()
        runs.start("ann", "r", feed.events())
        await feed.say(2)
        await feed.end(error)
        last = (await heard(runs))[-1]
        assert (last["type"], last["sequence_number"]) == ("response.failed", 2)
        assert last["response"]["error"]["code"] == "server_error"
        assert message in last["response"]["error"]["message"] and "secret" not in str(last)
        assert await status(store) == "failed"
        assert any(record.levelno == logging.ERROR for record in caplog.records) == isinstance(
            error, ValueError
        )


async def test_what_fails_before_its_first_event_is_raised_to_who_listens(store: Store) -> None:
    async with running(store) as runs:
        await keep(store)
        feed = Feed()
        runs.start("ann", "r", feed.events())
        listener = asyncio.create_task(heard(runs))
        await feed.end(ApiError(400, "too long", param="input"))
        with pytest.raises(ApiError, match="too long"):
            await listener
        assert await status(store) == "failed"


async def test_an_end_without_a_result_is_a_failure(store: Store) -> None:
    async with running(store) as runs:
        await keep(store, "queued")
        feed = Feed()
        runs.start("ann", "r", feed.events())
        await feed.say()
        await feed.end()
        assert (
            await status(store) == "failed" and (await heard(runs))[-1]["type"] == "response.failed"
        )


async def test_what_is_not_stored_just_ends(store: Store) -> None:
    async with running(store) as runs:
        feed = Feed()
        runs.start("ann", "r", feed.events())
        await feed.say(2)
        await feed.end()
        assert numbers(await heard(runs)) == [0, 1]


# The server's end and beginning


async def test_close_waits_and_then_stops(store: Store) -> None:
    runs = Runs(store)
    feeds = {
        "ends": Feed(lambda: keep(store, "completed", "ends")),
        "hangs": Feed(lambda: keep(store, "cancelled", "hangs")),
    }
    feeds["silent"] = Feed()
    for id, feed in feeds.items():
        await keep(store, id=id)
        runs.start("ann", id, feed.events())
        await feed.say()
    listener = asyncio.create_task(heard(runs, id="hangs"))
    closing = asyncio.create_task(runs.close(0.3))
    await settled()
    with pytest.raises(ApiError) as caught:
        runs.start("ann", "new", Feed().events())
    assert caught.value.status == 503
    await feeds["ends"].end()
    await closing
    assert [await status(store, id) for id in feeds] == ["completed", "failed", "failed"]
    assert all(feed.closed for feed in feeds.values())
    found = await store.get("ann", "hangs")
    assert found is not None and "stopped" in found.response["error"]["message"]
    assert (await listener)[-1]["type"] == "response.failed"


async def test_a_client_that_cancelled_is_believed_at_the_end(store: Store) -> None:
    runs = Runs(store)
    await keep(store)
    feed = Feed()
    runs.start("ann", "r", feed.events())
    await feed.say()
    runs.cancel("ann", "r")
    await runs.close()
    assert await status(store) == "cancelled"


async def test_what_a_dead_server_left_is_failed_at_the_next_start(tmp_path: Path) -> None:
    store = Store(Sqlite(tmp_path / "s.db"), 3600.0, 1 << 20)
    await keep(store, "in_progress", "a")
    await keep(store, "queued", "b", "bob")
    await keep(store, "completed", "c")
    expires = (await store.get("ann", "a")).expires  # type: ignore[union-attr]
    await store.close()
    store = Store(Sqlite(tmp_path / "s.db"), 3600.0, 1 << 20)
    async with running(store) as runs:
        assert await status(store, "a") == await status(store, "b", "bob") == "failed"
        assert await status(store, "c") == "completed"
        found = await store.get("ann", "a")
        assert (
            found is not None
            and found.expires == expires
            and found.response["error"]["code"] == "server_error"
        )
        assert found.response["output"][0]["status"] == "incomplete"
        last = (await heard(runs, 41, id="a"))[-1]
        assert (last["type"], last["sequence_number"]) == ("response.failed", 42)
    await store.close()


# What is kept


async def test_no_more_runs_than_allowed(store: Store) -> None:
    async with running(store, max_running=2) as runs:
        feeds = [Feed(), Feed(), Feed()]
        runs.start("ann", "1", feeds[0].events())
        runs.start("bob", "1", feeds[1].events())
        with pytest.raises(ApiError) as caught:
            runs.start("ann", "2", feeds[2].events())
        assert caught.value.status == 429 and "Retry-After" in caught.value.headers
        await feeds[0].end()
        runs.start("ann", "2", feeds[2].events())


async def test_memory_is_limited(store: Store) -> None:
    """Ended runs go first, the oldest before others; their responses are told from the store
    then.
    """
    async with running(store, max_bytes=6_000) as runs:
        for n in range(20):
            feed = Feed(lambda id=f"r{n}": keep(store, "completed", id))  # type: ignore[misc]
            runs.start("ann", f"r{n}", feed.events())
            await feed.say(30)
            await feed.end()
            assert runs._bytes <= 6_000
        assert numbers(await heard(runs, id="r19")) == list(range(31))
        short = await heard(runs, id="r0")
        assert [event["type"].split(".")[-1] for event in short] == [
            "created", "in_progress", "added", "done", "completed",
        ]  # fmt: skip


async def test_at_rest_the_latest_ended_runs_are_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(store) as runs:
        runs.rest()  # nothing has ever run
        for id in ("old", "new", "open"):
            feed = Feed(lambda id=id: keep(store, "completed", id))  # type: ignore[misc]
            runs.start("ann", id, feed.events())
            await feed.say(30)
            if id != "open":
                await feed.end()
        monkeypatch.setattr(background, "RESTING", runs._bytes - 1)
        await asyncio.to_thread(runs.rest)
        await settled()
        assert len(await heard(runs, id="old")) == 5, "from the store"
        assert numbers(await heard(runs, id="new")) == list(range(31))
        monkeypatch.setattr(background, "RESTING", 0)
        await asyncio.to_thread(runs.rest)
        await settled()
        assert len(await heard(runs, id="new")) == 5
        listener = asyncio.create_task(heard(runs, id="open"))
        await feed.end()
        assert numbers(await listener) == list(range(31)), "what runs keeps its events"


async def test_an_ended_run_takes_little_and_is_heard_whole(store: Store) -> None:
    """Also by who has heard half of it when it ends."""
    async with running(store) as runs:
        feed = Feed(lambda: keep(store, "completed"))
        runs.start("ann", "r", feed.events())
        await feed.say(200)
        async with aclosing(runs.follow("ann", "r")) as events:
            first = [await anext(events) for _ in range(100)]
            open_bytes = runs._bytes
            await feed.end()
            assert runs._bytes < open_bytes / 10
            rest = [event async for event in events]
        assert numbers([*first, *rest]) == list(range(201))
        assert await heard(runs) == [*first, *rest]
        assert numbers(await heard(runs, after=150)) == list(range(151, 201))


async def test_a_long_run_loses_its_beginning(store: Store) -> None:
    async with running(store, max_bytes=5_000) as runs:
        feed = Feed(lambda: keep(store, "completed"))
        runs.start("ann", "r", feed.events())
        listener = asyncio.create_task(heard(runs))
        for _ in range(200):
            await feed.say()
            assert runs._bytes <= 5_000
        with pytest.raises(ApiError, match="not kept") as caught:
            await heard(runs, 3)
        assert (caught.value.status, caught.value.param) == (400, "starting_after")
        recent = asyncio.create_task(heard(runs, 195))
        await feed.end()
        assert numbers(await listener) == list(range(201)), (
            "who listened all the time missed nothing"
        )
        assert numbers(await recent) == list(range(196, 201))
        assert (await heard(runs))[-1]["type"] == "response.completed"  # from the store


async def test_ended_runs_are_forgotten_in_time(store: Store) -> None:
    async with running(store, keep=0.05) as runs:
        feed = Feed(lambda: keep(store, "completed"))
        runs.start("ann", "r", feed.events())
        await feed.say(5)
        await feed.end()
        assert len(await heard(runs)) == 6
        await asyncio.sleep(0.06)
        assert len(await heard(runs)) == 5 and runs._bytes == 0
        assert numbers(await heard(runs, 100)) == [101]


@pytest.mark.parametrize("status", list(LAST))
def test_the_short_stream_is_one_that_clients_read(status: str) -> None:
    output = [dict(MESSAGE), {"type": "reasoning", "id": "rs_1", "summary": []}]
    events = list(replayed(response(status, output=output)))
    for event in events:
        EVENTS.validate_python(event)
    assert numbers(events) == list(range(len(events))) and events[-1]["type"] == LAST[status]
    assert [event["item"] for event in events if event["type"].endswith("item.done")] == output
    assert events[-1]["response"] == response(status, output=output)
    assert list(replayed(response(status, output=output), 3)) == events[4:]


@given(st.lists(st.sampled_from(["say", "follow", "leave", "sleep"]), max_size=40), st.data())
@settings(max_examples=examples(60), deadline=None)
def test_whoever_follows_from_wherever_hears_the_rest(
    steps: list[str], data: st.DataObject
) -> None:
    async def play() -> None:
        store = Store(Sqlite(None), 3600.0, 1 << 20)
        async with running(store) as runs:
            feed = Feed(lambda: keep(store, "completed"))
            runs.start("ann", "r", feed.events())
            followers: list[tuple[int, asyncio.Task[list[Event]]]] = []
            for step in steps:
                if step == "say":
                    feed.queue.put_nowait(delta(feed.number))
                    feed.number += 1
                elif step == "follow":
                    after = data.draw(st.integers(-1, feed.number + 1))
                    followers.append((after, asyncio.create_task(heard(runs, after))))
                elif step == "leave" and followers:
                    _, task = followers.pop(data.draw(st.integers(0, len(followers) - 1)))
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                else:
                    await asyncio.sleep(0)
            await feed.end()
            for after, task in followers:
                assert numbers(await task) == list(range(after + 1, feed.number + 1))

    asyncio.run(play())
