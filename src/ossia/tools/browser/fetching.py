"""Fetches documents of the web: redirects, limits of size and time, robots.txt.

Everything that a server sends is hostile: a body that never ends, that is small and unpacks to
gigabytes, a redirect into this machine's network. Knows HTTP; the gate is `transport.py`, and what
a document means is `documents.py`'s.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from cachetools import TTLCache

from ossia import __version__
from ossia.errors import ToolError
from ossia.tools.browser.backend import Domains
from ossia.tools.browser.needed import extra
from ossia.tools.browser.transport import Guard, guarded_transport

if TYPE_CHECKING:
    import httpx2

AGENT = f"ossia/{__version__}"
SECONDS = 20.0  # for a page, with its robots.txt and all redirects
CONNECT_SECONDS = 10.0
MOST_BYTES = 10_000_000  # of a body, as it was sent and unpacked
MOST_RATIO = 100  # of a body unpacked to as it was sent
RATIO_FREE = 100_000  # bytes that may unpack from as few as they like
MOST_REDIRECTS = 5
MOST_ROBOTS = 500_000  # bytes of a robots.txt that are read
ROBOTS_SECONDS = 3600
MOST_SITES = 1000  # whose robots.txt is kept
REDIRECTS = frozenset({301, 302, 303, 307, 308})
WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


@dataclass(frozen=True)
class Document:
    """`url`: where it was found, after redirects."""

    url: str
    content_type: str
    data: bytes


class Fetcher:
    """`robots`: whether what a site's robots.txt forbids is not fetched."""

    def __init__(
        self,
        guard: Guard | None = None,
        robots: bool = True,
        seconds: float = SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.guard = guard or Guard()
        self.robots = robots
        self.seconds = seconds
        self._transport: httpx2.AsyncBaseTransport | None = None
        self._rules: TTLCache[str, Any] = TTLCache(MOST_SITES, ROBOTS_SECONDS, timer=clock)

    async def fetch(self, url: str, domains: Domains | None = None) -> Document:
        """Raises `ToolError`: its text is the reason for the model."""
        with extra():
            import httpx2
        try:
            async with asyncio.timeout(self.seconds):
                return await self._followed(url, domains or Domains(), check_robots=self.robots)
        except TimeoutError as error:
            raise ToolError(f"it took longer than {self.seconds:g} seconds") from error
        except httpx2.InvalidURL as error:
            raise ToolError("the URL is not valid") from error
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise ToolError(f"the connection failed ({type(error).__name__})") from error

    async def close(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    async def _followed(self, url: str, domains: Domains, *, check_robots: bool) -> Document:
        with extra():
            import httpx2
        for _ in range(MOST_REDIRECTS + 1):
            parsed = httpx2.URL(url)
            url = str(parsed)
            domains.check(parsed.host)
            if check_robots:
                await self._check_robots(parsed)
            response = await self._sent(parsed)
            try:
                where = response.headers.get("location")
                if response.status_code not in REDIRECTS or where is None:
                    return await _document(url, response)
            finally:
                await response.aclose()
            url = _joined(url, where)
        raise ToolError(f"it redirects more than {MOST_REDIRECTS} times")

    async def _sent(self, url: httpx2.URL) -> httpx2.Response:
        with extra():
            import httpx2
        if self._transport is None:
            self._transport = guarded_transport(self.guard)
        headers = {
            "user-agent": AGENT,
            "accept": "text/html,application/xhtml+xml,application/pdf,text/*;q=0.9,*/*;q=0.5",
            "accept-encoding": "gzip, deflate",
        }
        waits = dict.fromkeys(("read", "write", "pool"), self.seconds)
        waits["connect"] = min(CONNECT_SECONDS, self.seconds)
        request = httpx2.Request("GET", url, headers=headers, extensions={"timeout": waits})
        response: httpx2.Response = await self._transport.handle_async_request(request)
        return response

    # robots.txt

    async def _check_robots(self, url: httpx2.URL) -> None:
        site = str(url.copy_with(path="/robots.txt", query=None, fragment=None))
        try:
            rules = self._rules[site]
        except KeyError:
            rules = await self._read_rules(site)
            self._rules[site] = rules
        if rules is None:
            raise ToolError("the site's robots.txt cannot be read at the moment")
        if not rules.can_fetch(str(url), AGENT):
            raise ToolError("the site's robots.txt does not allow it")

    async def _read_rules(self, site: str) -> Any:
        """The rules of a site; None if nobody can say what they are (RFC 9309, section 2.3.1)."""
        with extra():
            from protego import Protego
        try:
            document = await self._followed(site, Domains(), check_robots=False)
        except _StatusError as error:
            return Protego.parse("") if error.status < 500 else None
        text = document.data[:MOST_ROBOTS].decode("utf-8", "replace")
        return await asyncio.to_thread(Protego.parse, text)


def _joined(url: str, where: str) -> str:
    try:
        return urljoin(url, where)
    except ValueError as error:
        raise ToolError("the URL is not valid") from error


class _StatusError(ToolError):
    """The server answered that it will not or cannot."""

    def __init__(self, status: int) -> None:
        known = status in HTTPStatus.__members__.values()
        name = HTTPStatus(status).phrase if known else ""
        super().__init__(f"the server answered {status} {name}".rstrip())
        self.status = status


async def _document(url: str, response: httpx2.Response) -> Document:
    if response.status_code != HTTPStatus.OK:
        raise _StatusError(response.status_code)
    kind = response.headers.get("content-type", "")
    parts = [part async for part in _unpacked(response)]
    return Document(url, kind, b"".join(parts))


async def _unpacked(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The body. Raises `ToolError` as soon as it is too large."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", *WINDOWS):
        raise ToolError("its content encoding is one that was not asked for")
    unpacker = _Unpacker(encoding)
    async for chunk in response.aiter_raw():
        for part in unpacker.fed(chunk):
            yield part


class _Unpacker:
    """Counts what comes in and what goes out."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.inflating: Any = None
        if encoding in WINDOWS:
            self.inflating = zlib.decompressobj(WINDOWS[encoding])
        self.packed = 0
        self.total = 0

    def fed(self, data: bytes) -> list[bytes]:
        self.packed += len(data)
        if self.inflating is None:
            self._count(len(data))
            return [data]
        parts = []
        while data:
            part = self._inflate(data)
            self._count(len(part))
            parts.append(part)
            data = self.inflating.unconsumed_tail
            if self.inflating.eof:
                break
        return parts

    def _inflate(self, data: bytes) -> bytes:
        """At most a megabyte at a time."""
        try:
            return bytes(self.inflating.decompress(data, 1 << 20))
        except zlib.error as error:
            if self.encoding != "deflate" or self.total:
                raise ToolError("its content is damaged") from error
        self.encoding = ""
        self.inflating = zlib.decompressobj(-zlib.MAX_WBITS)  # what some servers call deflate
        return self._inflate(data)

    def _count(self, more: int) -> None:
        self.total += more
        if max(self.total, self.packed) > MOST_BYTES:
            raise ToolError(f"it has more than {MOST_BYTES // 1_000_000} MB")
        if self.total > RATIO_FREE and self.total > MOST_RATIO * self.packed:
            raise ToolError("it unpacks to more than a hundred times its size")
