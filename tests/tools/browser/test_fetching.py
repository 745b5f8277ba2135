"""Fetching from servers that do what they like."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from ossia.errors import ToolError
from ossia.tools.browser import Fetcher, PlainWeb, fetching
from ossia.tools.browser.backend import Domains
from ossia.tools.browser.transport import Guard

pytest.importorskip("httpx2", reason="needs httpx2")
pytest.importorskip("protego", reason="needs protego")
pytestmark = pytest.mark.anyio
Answer = Callable[[str], bytes]
ROBOTS = "/robots.txt"


def reply(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


class Server:
    """Answers each path as told. `asked`: the requests, whole."""

    def __init__(self, answer: Answer, pause: float = 0) -> None:
        self.answer = answer
        self.pause = pause
        self.asked: list[str] = []
        self.port = 0

    def url(self, path: str = "/", host: str = "site.org") -> str:
        return f"http://{host}:{self.port}{path}"

    @property
    def paths(self) -> list[str]:
        return [each.split(" ")[1] for each in self.asked]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(self.answer(self.paths[-1]))
            await writer.drain()
            while self.pause:
                await asyncio.sleep(self.pause)
                writer.write(b"x")
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(answer: Answer, pause: float = 0) -> AsyncIterator[Server]:
    server = Server(answer, pause)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


async def here(host: str, port: int) -> list[str]:
    """Every name of the tests is this machine; other addresses are themselves."""
    return [host] if host[0].isdigit() or ":" in host else ["127.0.0.1"]


def local(robots: bool = False, seconds: float = 600.0, **more: object) -> Fetcher:
    is_here = Guard(lambda address: str(address) == "127.0.0.1", None, here)
    return Fetcher(is_here, robots, seconds, **more)  # type: ignore[arg-type]


async def refused(server: Server, path: str = "/", **more: float) -> str:
    with pytest.raises(ToolError) as caught:
        await local(**more).fetch(server.url(path))  # type: ignore[arg-type]
    return str(caught.value)


async def test_a_page() -> None:
    async with serving(lambda path: reply(b"<p>hi", "content-type: text/html")) as server:
        document = await local().fetch(server.url("/a?b=1"))
        assert (document.url, document.data) == (server.url("/a?b=1"), b"<p>hi")
        page = await PlainWeb(local()).fetch(server.url(), False, Domains())
        assert page.text == f"\nURL: {server.url()}\nhi"
    head = server.asked[0].lower()
    assert head.startswith("get /a?b=1 http/1.1") and f"host: site.org:{server.port}" in head
    assert f"user-agent: {fetching.AGENT}" in head and "cookie" not in head


async def test_redirects_pass_the_gate_and_keep_no_cookies() -> None:
    def answer(path: str) -> bytes:
        where = {"/1": "/2", "/2": "//other.org:{port}/3"}.get(path, "")
        where = where.format(port=server.port)
        cookie = "set-cookie: a=b; domain=site.org"
        if where:
            return reply(b"", f"location: {where}", cookie, status="302 Found")
        return reply(b"there")

    async with serving(answer) as server:
        document = await local().fetch(server.url("/1"))
        assert document.url == server.url("/3", "other.org") and document.data == b"there"
        assert not any("cookie:" in each.lower() for each in server.asked)
        with pytest.raises(ToolError, match=r"only pages of site\.org may be opened"):
            await local().fetch(server.url("/1"), Domains(("site.org",)))


TARGETS = [
    ("http://10.0.0.1/", "not on the public internet"),
    ("http://169.254.169.254/latest/", "not on the public internet"),
    ("file:///etc/passwd", "only http and https"),
    ("//user:pw@site.org/", "user name"),
    ("ftp://site.org/", "only http and https"),
    ("http://[::1", "not valid"),
    ("http://[fe80::1%25lo]/", "not on the public internet"),
    ("/loop", "more than 5 times"),
    ("javascript:alert(1)", "only http and https"),
]


@pytest.mark.parametrize(("where", "why"), TARGETS)
async def test_redirects_into_the_dark(where: str, why: str) -> None:
    async with serving(lambda path: reply(b"", f"location: {where}", status="301 M")) as server:
        assert why in await refused(server)


async def test_bombs() -> None:
    """The limits hold while it unpacks: memory never has much more than they allow."""
    inflated = b"\0" * 50_000_000
    bombs = {
        "/gzip": (gzip.compress(inflated), "gzip"),
        "/deflate": (zlib.compress(inflated), "deflate"),
        "/raw": (zlib.compress(inflated)[2:-4], "deflate"),
        "/twice": (gzip.compress(gzip.compress(inflated)), "gzip, gzip"),
        "/br": (b"\xce\xb2", "br"),
        "/zstd": (b"\x28\xb5\x2f\xfd", "zstd"),
        "/bad": (b"no gzip", "gzip"),
    }

    def answer(path: str) -> bytes:
        body, name = bombs[path]
        return reply(body, f"content-encoding: {name}")

    async with serving(answer) as server:
        for path in ("/gzip", "/deflate", "/raw"):
            assert "hundred times its size" in await refused(server, path)
        for path in ("/twice", "/br", "/zstd"):
            assert "encoding is one that was not asked for" in await refused(server, path)
        assert await refused(server, "/bad") == "its content is damaged"


async def test_compressed_pages() -> None:
    text = b"word " * 100
    packed = {"gzip": gzip.compress(text), "deflate": zlib.compress(text)[2:-4], "identity": text}
    for name, body in packed.items():
        async with serving(
            lambda path, b=body, n=name: reply(b, f"content-encoding: {n}")
        ) as server:
            assert (await local().fetch(server.url())).data == text


async def test_large_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MOST_BYTES", 2_000_000)
    async with serving(lambda path: reply(b"x" * 2_000_001)) as server:
        assert await refused(server) == "it has more than 2 MB"


async def test_slow_bodies_and_servers_that_say_nothing() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n"
    async with serving(lambda path: head, pause=0.01) as server:
        assert await refused(server, seconds=0.2) == "it took longer than 0.2 seconds"
    async with serving(lambda path: b"", pause=0.01) as server:
        assert "longer than" in await refused(server, seconds=0.2)
    async with serving(lambda path: b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000) as server:
        assert "the connection failed" in await refused(server)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 3_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 300_000 + b"\r\n",
        b"\0\xff not http",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"",
    ],
    ids=["header", "headers", "no http", "negative", "short", "chunk", "nothing"],
)
async def test_damaged_answers(answer: bytes) -> None:
    async with serving(lambda path: answer) as server:
        assert "the connection failed" in await refused(server)


async def test_statuses() -> None:
    for status, text in (("404 <b>", "404 Not Found"), ("500 x", "500 Internal Server Error")):
        async with serving(lambda path, s=status: reply(b"x", status=s)) as server:
            assert await refused(server) == f"the server answered {text}"
    async with serving(lambda path: reply(b"x", status="799 y")) as server:
        assert await refused(server) == "the server answered 799"


async def test_robots_are_heard_and_their_rules_kept_an_hour() -> None:
    now = [0.0]
    rules = b"User-agent: *\nDisallow: /private\n\nUser-agent: ossia\nDisallow: /ours\n"

    def answer(path: str) -> bytes:
        return reply(rules if path == ROBOTS else b"page")

    async with serving(answer) as server:
        fetcher = local(robots=True, clock=lambda: now[0])
        for path in ("/private", "/", "/x"):
            assert (await fetcher.fetch(server.url(path))).data == b"page"
        with pytest.raises(ToolError, match=r"the site's robots.txt does not allow it"):
            await fetcher.fetch(server.url("/ours/x"))
        assert server.paths.count(ROBOTS) == 1
        now[0] = 3601.0
        await fetcher.fetch(server.url())
        assert server.paths.count(ROBOTS) == 2
        await local(robots=False).fetch(server.url("/ours"))


@pytest.mark.parametrize(
    ("status", "body", "is_open"),
    [
        ("404 No", b"", True),
        ("403 No", b"", True),
        ("503 No", b"", False),
        ("200 OK", b"\0\xff" * 1000, True),
        ("200 OK", b"User-agent: *\nDisallow: /" + b"*a" * 50_000 + b"$", True),
        ("200 OK", b"User-agent: *\nAllow: /$$$%%%\nSitemap: http://[\nCrawl-delay: x\n", True),
    ],
)
async def test_odd_robots(status: str, body: bytes, is_open: bool) -> None:
    def answer(path: str) -> bytes:
        return reply(body, status=status) if path == ROBOTS else reply(b"page")

    async with serving(answer) as server:
        if is_open:
            await local(robots=True).fetch(server.url("/" + "a" * 2000))
        else:
            assert "cannot be read at the moment" in await refused(server, robots=True)


async def test_a_redirect_is_checked_against_the_robots_of_its_own_site() -> None:
    def answer(path: str) -> bytes:
        if path == ROBOTS:
            return reply(b"User-agent: *\nDisallow: /closed")
        return reply(b"", "location: /closed", status="302 F") if path == "/" else reply(b"x")

    async with serving(answer) as server:
        assert "does not allow" in await refused(server, robots=True)
