"""Backends that ask the web: search services, and pages through the guarded fetcher.

A search service is the operator's choice, so its address may be anywhere, this machine included;
the pages it names are fetched like any other, or by the service itself. What comes back is read as
plain text. Knows each service's API.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from html import unescape
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ossia.errors import ToolError
from ossia.tools.browser.backend import Domains, Hit
from ossia.tools.browser.book import Page
from ossia.tools.browser.documents import read_document
from ossia.tools.browser.fetching import AGENT, Fetcher
from ossia.tools.browser.needed import extra
from ossia.tools.texts import read_json

if TYPE_CHECKING:
    import httpx2

SECONDS = 20.0
MOST_BYTES = 10_000_000  # of a service's answer
NO_SEARCH = "there is no search here; open pages by their URL"
TAGS = re.compile(r"<[^<>]{0,200}>")


class PlainWeb:
    """Opens URLs; has no search."""

    source = "web (default: web)"
    is_local = False
    searched = ""

    def __init__(self, fetcher: Fetcher | None = None) -> None:
        self.fetcher = fetcher or Fetcher()

    async def search(self, query: str, count: int, domains: Domains) -> list[Hit]:
        raise ToolError(NO_SEARCH)

    async def fetch(self, url: str, source: bool, domains: Domains) -> Page:
        found = await self.fetcher.fetch(url, domains)
        return await read_document(found.data, found.content_type, found.url, source=source)

    async def close(self) -> None:
        await self.fetcher.close()


class Service:
    """A search service over HTTP. `transport`: what carries the requests to it."""

    def __init__(self, base: str, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.base = base.rstrip("/")
        self.transport = transport
        self._client: httpx2.AsyncClient | None = None

    async def json(self, method: str, path: str, **request: Any) -> Any:
        """What the service answers. Raises `ToolError`."""
        with extra():
            import httpx2
        if self._client is None:
            self._client = httpx2.AsyncClient(
                transport=self.transport,
                timeout=SECONDS,
                headers={"user-agent": AGENT},
                trust_env=False,
            )
        try:
            async with asyncio.timeout(SECONDS):
                return await self._answer(method, self.base + path, **request)
        except TimeoutError as error:
            raise ToolError(f"the search took longer than {SECONDS:g} seconds") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            why = type(error).__name__
            raise ToolError(f"the search service cannot be reached ({why})") from error

    async def _answer(self, method: str, url: str, **request: Any) -> Any:
        assert self._client is not None
        async with self._client.stream(method, url, **request) as response:
            self.check(response.status_code)
            parts = []
            size = 0
            async for part in response.aiter_bytes():
                size += len(part)
                if size > MOST_BYTES:
                    raise ToolError("the search service sent too much")
                parts.append(part)
        try:
            return read_json(b"".join(parts))
        except ValueError as error:
            raise ToolError("the search service did not answer with JSON") from error

    def check(self, status: int) -> None:
        if status != HTTPStatus.OK:
            raise ToolError(f"the search service answered {status}")

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None


class _SearxService(Service):
    def check(self, status: int) -> None:
        if status == HTTPStatus.FORBIDDEN:
            raise ToolError(
                "SearXNG does not allow JSON; its settings.yml needs, under search, "
                "formats: [html, json]"
            )
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise ToolError("SearXNG's limiter refuses; its settings.yml needs limiter: false")
        super().check(status)


class Searx(PlainWeb):
    """A SearXNG at `base`; pages are fetched by ossia."""

    searched = "web"

    def __init__(
        self,
        base: str,
        fetcher: Fetcher | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(fetcher)
        self.service = _SearxService(base, transport)

    async def search(self, query: str, count: int, domains: Domains) -> list[Hit]:
        words = query
        if domains.allowed:  # several engines know this; results are filtered anyway
            words = f"{query} ({' OR '.join(f'site:{each}' for each in domains.allowed)})"
        params = {"q": words, "format": "json"}
        found = await self.service.json("GET", "/search", params=params)
        return hits(found, ("results",), title="title", url="url", snippet="content")

    async def close(self) -> None:
        await super().close()
        await self.service.close()


class KeyedService(Service):
    """One that fetches pages itself, too, for who has a key. The subclass names it."""

    source = "web (default: web)"
    is_local = False
    searched = "web"
    name: str
    base: str
    variable: str  # of the environment, where the key may be

    def __init__(
        self, key: str | None = None, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        super().__init__(self.base, transport)
        self.key = _key(key, self.variable, self.name)

    async def asked(self, method: str, path: str, **request: Any) -> Any:
        return await self.json(method, path, headers={"x-api-key": self.key}, **request)


class Exa(KeyedService):
    """exa.ai: searches, and fetches pages itself."""

    name = "Exa"
    base = "https://api.exa.ai"
    variable = "EXA_API_KEY"

    async def search(self, query: str, count: int, domains: Domains) -> list[Hit]:
        asked: dict[str, Any] = {"query": query, "numResults": count, "contents": {"summary": True}}
        if domains.allowed:
            asked["includeDomains"] = list(domains.allowed)
        if domains.blocked:
            asked["excludeDomains"] = list(domains.blocked)
        found = await self.asked("POST", "/search", json=asked)
        return hits(found, ("results",), title="title", url="url", snippet="summary")

    async def fetch(self, url: str, source: bool, domains: Domains) -> Page:
        asked = {"urls": [url], "text": {"includeHtmlTags": True}}
        found = await self.asked("POST", "/contents", json=asked)
        first = _first(_at(found, "results"))
        html = str(first.get("text") or "")
        return await _service_page(html, url, str(first.get("title") or ""), source)


class YouCom(KeyedService):
    """you.com: searches, and fetches pages itself."""

    name = "You.com"
    base = "https://api.ydc-index.io"
    variable = "YDC_API_KEY"

    async def search(self, query: str, count: int, domains: Domains) -> list[Hit]:
        asked = {"query": query, "count": count}
        found = await self.asked("GET", "/v1/search", params=asked)
        web = hits(found, ("results", "web"), title="title", url="url", snippet="snippets")
        news = hits(found, ("results", "news"), title="title", url="url", snippet="description")
        return [*web, *news]

    async def fetch(self, url: str, source: bool, domains: Domains) -> Page:
        asked = {"urls": [url], "livecrawl_formats": "html"}
        found = await self.asked("POST", "/v1/contents", json=asked)
        first = _first(found)
        html = str(first.get("html") or "")
        return await _service_page(html, url, str(first.get("title") or ""), source)


async def _service_page(html: str, url: str, title: str, source: bool) -> Page:
    if not html:
        raise ToolError("the search service has no contents of it")
    data = html.encode("utf-8", "replace")
    kind = "text/html; charset=utf-8"
    return await read_document(data, kind, url, title=title, source=source)


def hits(found: Any, path: tuple[str, ...], *, title: str, url: str, snippet: str) -> list[Hit]:
    """The results in a service's answer, under the names that it has for their parts."""
    for name in path:
        found = _at(found, name)
    listed = found if isinstance(found, list) else []
    return [
        Hit(_plain(each.get(title)), str(each.get(url)), _plain(each.get(snippet)))
        for each in listed
        if isinstance(each, Mapping) and each.get(url)
    ]


def _at(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _first(listed: Any) -> Mapping[str, Any]:
    first = listed[0] if isinstance(listed, list) and listed else None
    return first if isinstance(first, Mapping) else {}


def _plain(value: Any) -> str:
    """Text without the markup that services put around found words."""
    if isinstance(value, list):
        value = " ".join(map(str, value))
    return unescape(TAGS.sub("", str(value or "")))


def _key(given: str | None, variable: str, service: str) -> str:
    key = given or os.environ.get(variable)
    if not key:
        raise ToolError(f"{service} needs a key: set {variable}, or pass key=...")
    return key
