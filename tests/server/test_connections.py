"""Clients that are slow or many, over real sockets: they get deadlines and hold nobody else's
place.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from ossia.server import Settings, connections
from ossia.server.access import address_of, secret_digest
from ossia.server.connections import Connection, protocol
from ossia.server.settings import ApiKey

SAYS = "<|channel|>final<|message|>Hi there<|return|>"
BODY = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n" % len(BODY)
)
HEALTH = b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n"
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> bytes:
        """The head of an answer and its body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        return head + await self.reader.readexactly(int(sizes[0].split(b":")[1]))

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


Dial = Callable[[], Awaitable[Client]]


@asynccontextmanager
async def listening(client_for: Any, **more: Any) -> AsyncIterator[tuple[Dial, Any]]:
    """A server on a real socket, and how to connect to it."""
    settings = Settings(model_name="nano", **more)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(client_for(SAYS, settings=settings))
        config = uvicorn.Config(
            client.app, http=protocol(settings), log_config=None, lifespan="off"
        )
        config.load()
        kind: Any = config.http_protocol_class
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: kind(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        stack.callback(server.close)

        async def all_closed() -> None:
            async with asyncio.timeout(10):
                while state.connections:
                    await asyncio.sleep(0.01)

        stack.push_async_callback(all_closed)  # once the clients are
        address = server.sockets[0].getsockname()

        async def dial() -> Client:
            reader, writer = await asyncio.open_connection(*address)
            stack.callback(writer.close)
            return Client(reader, writer)

        yield dial, client


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nhost: he", b"GET"])
async def test_headers_have_a_deadline(client_for: Any, sent: bytes) -> None:
    async with listening(client_for, header_timeout=0.1) as (dial, _):
        client = await dial()
        await client.send(sent)
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")


async def test_headers_that_come_byte_by_byte_have_the_same_deadline(client_for: Any) -> None:
    async with listening(client_for, header_timeout=0.3) as (dial, _):
        client = await dial()
        await client.send(HEALTH[:-2])

        async def trickle() -> None:
            while True:
                await client.send(b"x-more: 1\r\n")
                await asyncio.sleep(0.02)

        task = asyncio.create_task(trickle())
        try:
            assert b"408" in await client.rest()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_so_have_those_of_a_second_request(client_for: Any) -> None:
    async with listening(client_for, header_timeout=0.1) as (dial, _):
        client = await dial()
        await client.send(HEALTH)
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        await asyncio.sleep(0.2)  # idle is something else
        await client.send(HEALTH + HEALTH[:20])
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        await client.send(HEALTH[20:30])
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")


async def test_a_body_has_a_deadline(client_for: Any) -> None:
    async with listening(client_for, body_timeout=0.2) as (dial, client):
        slow = await dial()
        await slow.send(HEAD + BODY[:3])
        answer = await slow.rest()
        assert answer.startswith(b"HTTP/1.1 408 ") and b"not complete after 0.2 seconds" in answer
        assert client.app.state.access.receiving == 0


async def test_a_body_that_comes_byte_by_byte_has_the_same_deadline(client_for: Any) -> None:
    async with listening(client_for, body_timeout=0.2) as (dial, _):
        slow = await dial()
        await slow.send(HEAD)
        task = asyncio.create_task(trickled(slow, BODY[:-1]))
        assert (await slow.rest()).startswith(b"HTTP/1.1 408 ")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def trickled(client: Client, data: bytes) -> None:
    for n in range(len(data)):
        await client.send(data[n : n + 1])
        await asyncio.sleep(0.02)


async def test_a_body_that_nobody_reads_is_not_waited_for(client_for: Any) -> None:
    async with listening(client_for) as (dial, _):
        client = await dial()
        await client.send(HEALTH.replace(b"\r\n\r\n", b"\r\ncontent-length: 100\r\n\r\nx"))
        assert (await client.rest()).startswith(b"HTTP/1.1 200 ")


CHUNKED = HEAD.replace(b"content-length: %d" % len(BODY), b"transfer-encoding: chunked")


@pytest.mark.parametrize("large", [0, 1_000_000])
async def test_a_body_in_a_million_chunks_is_not_read_to_its_end(
    client_for: Any, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    """Whatever came before: a large chunk earns no small ones."""
    read = []
    parse = Connection.data_received

    def counted(self: Connection, data: bytes) -> None:
        if not self.transport.is_closing():
            read.append(len(data))
        parse(self, data)

    monkeypatch.setattr(Connection, "data_received", counted)
    async with listening(client_for) as (dial, client):
        flood = await dial()
        await flood.send(CHUNKED)
        if large:
            await flood.send(b"%x\r\n%s\r\n" % (large, b"x" * large))
        with suppress(ConnectionError):
            for _ in range(1000):
                await flood.send(b"1\r\nx\r\n" * 1000)
        await flood.rest()
        assert 100_000 < sum(read) - large < 400_000 and max(read) <= connections.PIECE
        assert client.app.state.access.receiving == 0 and client.engine.submitted == []


async def test_chunks_that_clients_send_are_read(client_for: Any) -> None:
    async with listening(client_for) as (dial, _):
        for size in (7, 1000, 100_000):
            body = BODY + b" " * max(3000, 5 * size)
            pieces = [body[n : n + size] for n in range(0, len(body), size)]
            chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
            asking = await dial()
            await asking.send(CHUNKED + chunks + b"0\r\n\r\n")
            assert (await asking.answer()).startswith(b"HTTP/1.1 200 ")


async def test_an_answer_may_take_longer_than_a_request(client_for: Any) -> None:
    async with listening(client_for, header_timeout=0.05, body_timeout=0.05) as (dial, client):
        client.engine.delay = 0.05
        asking = await dial()
        await asking.send(HEAD + BODY)
        assert (await asking.answer()).startswith(b"HTTP/1.1 200 ")


async def test_who_is_refused_early_can_read_why(client_for: Any) -> None:
    """However much of the body is still to be sent, and once: no second answer after it."""
    key = ApiKey("ann", secret_digest("ann"))
    async with listening(client_for, keys=(key,)) as (dial, _):
        asking = await dial()
        size = 3 << 20
        await asking.send(HEAD.replace(b"%d" % len(BODY), b"%d" % size) + b"x" * size)
        answer = await asking.rest()
        assert answer.startswith(b"HTTP/1.1 401 ") and answer.count(b"HTTP/1.1") == 1


async def test_who_still_sends_can_read_the_last_answer(client_for: Any) -> None:
    """The client reads only after it has sent more than the server wanted to know."""
    async with listening(client_for, body_timeout=0.1, header_timeout=0.1) as (dial, _):
        for sent in (HEAD + BODY[:3], HEALTH[:20]):
            slow = await dial()
            slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await slow.send(sent)
            await asyncio.sleep(0.3)
            for _ in range(3):
                await slow.send(b"x")
                await asyncio.sleep(0.02)
            slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert (await slow.rest()).startswith(b"HTTP/1.1 408 ")


async def test_who_sends_on_is_left_after_a_while(
    client_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LONGEST", 0.1)
    async with listening(client_for, header_timeout=0.1) as (dial, client):
        slow = await dial()
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(10):
                while True:
                    await slow.send(b"x")
                    await asyncio.sleep(0.02)
        assert client.app.state.access.receiving == 0


async def test_open_bodies_take_nobodys_place(client_for: Any) -> None:
    async with listening(client_for, max_queue=2) as (dial, client):
        for _ in range(40):
            await (await dial()).send(HEAD + BODY[:5])
        asking = await dial()
        await asking.send(HEAD + BODY)
        assert (await asking.answer()).startswith(b"HTTP/1.1 200 ")
        assert client.app.state.access.running == 0


async def test_all_open_bodies_together_are_bounded(client_for: Any) -> None:
    async with listening(client_for, max_body=1000) as (dial, client):
        head = HEAD.replace(b"%d" % len(BODY), b"1000")
        held = [await dial() for _ in range(9)]
        for each in held:
            await each.send(head + b"x" * 950)
        refused = await asyncio.wait_for(held[-1].answer(), 5)
        assert refused.startswith(b"HTTP/1.1 429 ")
        asking = await dial()
        await asking.send(HEAD + BODY)
        answer = await asking.answer()
        assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 429 "))
        for each in held:
            each.writer.close()
        async with asyncio.timeout(5):
            while client.app.state.access.receiving:
                await asyncio.sleep(0.01)


async def test_who_holds_many_large_bodies_is_refused_and_not_others(client_for: Any) -> None:
    keys = tuple(ApiKey(name, secret_digest(name)) for name in ("ann", "bob"))
    async with listening(client_for, max_body=1000, keys=keys) as (dial, client):
        own = b"\r\nauthorization: Bearer %s\r\n\r\n"
        head = HEAD.removesuffix(b"\r\n\r\n")
        large = head.replace(b"%d" % len(BODY), b"1000") + own % b"ann"
        for _ in range(4):
            await (await dial()).send(large + b"x" * 950)
        access = client.app.state.access
        async with asyncio.timeout(5):
            while access.receiving_of["ann"] < 4 * 950:
                await asyncio.sleep(0.01)
        refused = await dial()
        await refused.send(large + b"x" * 950)
        assert (await asyncio.wait_for(refused.answer(), 5)).startswith(b"HTTP/1.1 429 ")
        access.receive("others", 4300)  # more than all together have
        for name, status in ((b"ann", b"429"), (b"bob", b"200")):
            asking = await dial()
            await asking.send(head + own % name + BODY)
            assert (await asking.answer()).startswith(b"HTTP/1.1 %s " % status)
        access.receive("others", 8000)  # twice as much
        asking = await dial()
        await asking.send(head + own % b"bob" + BODY)
        assert (await asking.answer()).startswith(b"HTTP/1.1 429 ")


@pytest.mark.parametrize("sent", [b"", b"GET / HT", HEAD + BODY[:5]])
async def test_who_holds_hundreds_open_does_not_shut_out_who_asks(
    client_for: Any, sent: bytes
) -> None:
    async with listening(client_for, max_connections=5) as (dial, _):
        held = [await dial() for _ in range(5)]
        for client in held:
            await client.send(sent)
        await asyncio.sleep(0.05)
        for _ in range(3):
            asking = await dial()
            await asking.send(HEALTH)
            assert (await asking.answer()).startswith(b"HTTP/1.1 200 ")
        assert await held[0].rest() == b"", "the oldest gave its place"


async def test_one_place_is_given_up_again_and_again(client_for: Any) -> None:
    async with listening(client_for, max_connections=1) as (dial, _):
        held = [await dial() for _ in range(4)]
        for client in held[:-1]:
            assert await client.rest() == b""
        await held[-1].send(HEALTH)
        assert (await held[-1].answer()).startswith(b"HTTP/1.1 200 ")


async def test_connections_that_are_answered_keep_their_place(client_for: Any) -> None:
    async with listening(client_for, max_connections=2) as (dial, client):
        client.engine.delay = 0.1
        busy = [await dial() for _ in range(2)]
        for each in busy:
            await each.send(HEAD + BODY)
        async with asyncio.timeout(5):
            while client.app.state.access.running < 2:
                await asyncio.sleep(0.01)
        assert (await (await dial()).rest()).startswith(b"HTTP/1.1 429 ")
        for each in busy:
            assert (await each.answer()).startswith(b"HTTP/1.1 200 ")
        asking = await dial()
        await asking.send(HEALTH)
        assert (await asking.answer()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("more", [{"max_connections": 0}, {"trusted_proxies": ("127.0.0.1",)}])
async def test_no_limit_behind_a_proxy(client_for: Any, more: dict[str, Any]) -> None:
    async with listening(client_for, **({"max_connections": 1} | more)) as (dial, _):
        first = await dial()
        await first.send(HEALTH[:9])
        for _ in range(3):
            asking = await dial()
            await asking.send(HEALTH)
            await asking.answer()
        await first.send(HEALTH[9:])
        assert (await first.answer()).startswith(b"HTTP/1.1 200 ")


def test_a_server_has_connections_of_its_own() -> None:
    one, other = protocol(Settings()), protocol(Settings(max_connections=3))
    assert issubclass(one, Connection) and one.doors is not other.doors
    assert (one.doors.limit, other.doors.limit) == (512, 3)


@pytest.mark.parametrize(
    "host, address",
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_whom_an_address_stands_for(host: str, address: str) -> None:
    assert address_of(host) == address
