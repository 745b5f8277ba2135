"""Streams on the wire: signs of life, errors in the midst of them, clients that go away. With a
real uvicorn.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ossia.server.wire.errors import ApiError, bad
from ossia.server.wire.sse import ClientGone, encode, first_of, streaming, until_disconnected


class Parts:
    """Numbered parts, and what became of the generator."""

    def __init__(self, count: int, delay: float = 0.0, error: Exception | None = None) -> None:
        self.count, self.delay, self.error = count, delay, error
        self.said = 0
        self.closed = asyncio.Event()

    async def run(self) -> AsyncGenerator[bytes, None]:
        try:
            for n in range(self.count):
                await asyncio.sleep(self.delay)
                self.said += 1
                yield encode({"n": n})
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()


def last_words(error: ApiError) -> bytes:
    return encode({"status": error.status, "message": error.message}, "error")


@asynccontextmanager
async def served(parts: Parts, keepalive: float = 60.0) -> AsyncIterator[str]:
    """The address of a server whose only page streams `parts`."""

    async def page(request: Request) -> Response:
        return streaming(parts.run(), keepalive=keepalive, on_error=last_words)

    app = Starlette(routes=[Route("/", page)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    task = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await task


async def whole(parts: Parts, keepalive: float = 60.0) -> httpx.Response:
    async with served(parts, keepalive) as url, httpx.AsyncClient(timeout=5) as client:
        return await client.get(url)


def data(text: str) -> list[dict[str, object]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def test_events_are_written_as_browsers_read_them() -> None:
    assert encode({"a": "é\n"}) == 'data: {"a":"é\\n"}\n\n'.encode()
    unusual = {"a": "\x85\u2028\u2029\x0b\x0c\x1c\r\n"}
    # as clients split that know Unicode's ends of lines
    (line,) = encode(unusual).decode().strip().splitlines()
    assert json.loads(line[6:]) == unusual
    assert encode({}, "response.created") == b"event: response.created\ndata: {}\n\n"


def test_every_part_arrives_and_the_generator_is_closed() -> None:
    parts = Parts(100)
    response = asyncio.run(whole(parts))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [one["n"] for one in data(response.text)] == list(range(100)) and parts.closed.is_set()


def test_a_silent_stream_says_that_it_is_alive() -> None:
    text = asyncio.run(whole(Parts(2, delay=0.3), keepalive=0.05)).text
    assert [one["n"] for one in data(text)] == [0, 1]
    comments = [block for block in text.split("\n\n") if block.startswith(":")]
    assert 4 <= len(comments) <= 12


def test_a_busy_stream_does_not() -> None:
    assert ":" not in [
        line[:1]
        for line in asyncio.run(whole(Parts(20, delay=0.02), keepalive=0.3)).text.split("\n")
    ]


@pytest.mark.parametrize(
    ("error", "status"), [(bad("no"), 400), (ApiError(503, "later"), 503), (KeyError("x"), 500)]
)
def test_an_error_in_the_midst_is_the_last_event(
    error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Parts(3, error=error)
    found = data(asyncio.run(whole(parts)).text)
    assert [one.get("n") for one in found] == [0, 1, 2, None] and found[-1]["status"] == status
    assert parts.closed.is_set() and ("a stream failed" in caplog.text) == (status == 500)
    assert "KeyError" not in str(found[-1]), "clients are not told of our insides"


def test_a_client_that_goes_away_closes_the_generator() -> None:
    async def run() -> int:
        parts = Parts(10_000, delay=0.005)
        async with served(parts) as url:
            async with httpx.AsyncClient() as client, client.stream("GET", url) as response:
                async for _ in response.aiter_lines():
                    break
            await asyncio.wait_for(parts.closed.wait(), 2)
        return parts.said

    assert asyncio.run(run()) < 1000


def test_a_client_that_goes_away_while_nothing_is_said_is_noticed() -> None:
    async def run() -> None:
        parts = Parts(1, delay=60)
        async with served(parts, keepalive=0.05) as url, httpx.AsyncClient() as client:
            async with client.stream("GET", url) as response:
                async for _ in response.aiter_lines():
                    break
            await asyncio.wait_for(parts.closed.wait(), 2)

    asyncio.run(run())


def test_a_slow_reader_holds_the_generator_back() -> None:
    """Or memory would fill with what nobody has read."""

    class Big(Parts):
        async def run(self) -> AsyncGenerator[bytes, None]:
            try:
                for n in range(self.count):
                    self.said = n
                    yield b"data: " + b"x" * 100_000 + b"\n\n"
            finally:
                self.closed.set()

    async def run() -> int:
        parts = Big(2000)
        async with (
            served(parts) as url,
            httpx.AsyncClient() as client,
            client.stream("GET", url) as response,
        ):
            async for _ in response.aiter_raw():
                break
            await asyncio.sleep(0.5)
            return parts.said

    assert asyncio.run(run()) < 1000


def test_the_first_part_is_awaited_before_the_response_begins() -> None:
    async def run() -> None:
        first, every = await first_of(Parts(3).run())
        assert first == encode({"n": 0}) and len([part async for part in every]) == 3
        with pytest.raises(ApiError):
            await first_of(Parts(0, error=bad("no")).run())
        nothing, every = await first_of(Parts(0).run())
        assert nothing is None and [part async for part in every] == []
        parts = Parts(3)
        _, every = await first_of(parts.run())
        await anext(every)
        await every.aclose()
        assert parts.closed.is_set()

    asyncio.run(run())


def test_work_goes_on_until_the_client_goes_away() -> None:
    cancelled = asyncio.Event()

    async def page(request: Request) -> Response:
        async def work() -> str:
            try:
                await asyncio.sleep(float(request.query_params["seconds"]))
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return "done"

        try:
            return JSONResponse(await until_disconnected(request, work()))
        except ClientGone:
            return Response(status_code=499)

    async def run() -> None:
        app = Starlette(routes=[Route("/", page)])
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
        task = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.005)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        async with httpx.AsyncClient() as client:
            assert (
                await client.get(url, params={"seconds": 0.05})
            ).json() == "done" and not cancelled.is_set()
            with pytest.raises(httpx.ReadTimeout):
                await client.get(url, params={"seconds": 60}, timeout=0.1)
            await asyncio.wait_for(cancelled.wait(), 2)
        server.should_exit = True
        await task

    asyncio.run(run())


def test_work_that_fails_fails() -> None:
    async def work() -> str:
        raise bad("no")

    async def never() -> dict[str, str]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def run() -> None:
        request = Request({"type": "http", "headers": []}, receive=never)
        with pytest.raises(ApiError):
            await until_disconnected(request, work())

    asyncio.run(run())


@pytest.mark.parametrize("last", ["http.response.start", "http.response.body"])
def test_a_client_that_goes_while_nothing_is_awaited_leaves_nothing_behind(last: str) -> None:
    """It goes before the first part is asked for, or while one is being sent: the generator is
    closed at once, and not when the garbage collector finds it.
    """
    parts, gone = Parts(100), asyncio.Event()

    async def receive() -> dict[str, object]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == last:
            gone.set()
            await asyncio.Event().wait()  # the client does not read any more

    async def run() -> None:
        # which has begun, as a request has that is being answered
        _, events = await first_of(parts.run())
        response = streaming(wrapped(events), keepalive=60.0, on_error=last_words)
        async with asyncio.timeout(5):
            await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        assert parts.closed.is_set()

    async def wrapped(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(events):
            async for event in events:
                yield event

    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()
