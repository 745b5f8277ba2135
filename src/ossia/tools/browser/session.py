"""The browser in use: carries out calls on the pages of one conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest
from typing import Any, TypeVar

from ossia.errors import ToolError
from ossia.tools.browser.arguments import Find, Open, Request, Search, read_request
from ossia.tools.browser.backend import Backend, Domains, Hit
from ossia.tools.browser.book import Book, Kind, Page
from ossia.tools.browser.display import cut, display, view
from ossia.tools.browser.html import host_of
from ossia.tools.browser.results import find_page, search_page
from ossia.tools.protocol import ToolResult

Value = TypeVar("Value")
LINES_ABOVE = 4  # shown above a match, if there are more
UNSAFE = frozenset(" 【】†")  # in the URL of a search result
LARGE = 100_000  # characters: longer texts are wrapped and searched beside the event loop
NO_NETWORK = "this conversation may not use the web, only pages that were opened before"


class BrowserSession:
    """`external`: whether the web may be used; without it, pages come from the book and from what
    is local.
    """

    def __init__(
        self,
        backend: Backend,
        book: Book | None = None,
        domains: Domains | None = None,
        external: bool = True,
    ) -> None:
        self.backend = backend
        self.book = book or Book()
        self.domains = domains or Domains()
        self.external = external

    def action(self, function: str, text: str) -> dict[str, Any] | None:
        try:
            match read_request(function, text):
                case Search(query=query):
                    return {"type": "search", "query": query, "queries": [query]}
                case Open() as wanted:
                    return {"type": "open_page", "url": self._url_of(wanted) or None}
                case Find(pattern=pattern, cursor=cursor):
                    url = self.book.page(cursor)[1].url
                    return {"type": "find_in_page", "url": url, "pattern": pattern}
        except ToolError:
            return None

    async def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        try:
            request = read_request(function, text)
            page, start, count = await self._carried_out(request)
            return await self._shown(page, start, count)
        except ToolError as error:
            return ToolResult(str(error), failed=True)

    async def close(self) -> None:
        """The book stays with the tool, for the next answer."""

    # Showing

    async def _shown(self, page: Page, start: int, count: int) -> ToolResult:
        lines = await _beside(page, lambda: page.lines)
        if start >= len(lines):
            raise ToolError(
                f"Invalid location parameter: `{start}`. "
                f"Cannot exceed page maximum of {len(lines) - 1}."
            )
        end = await _beside(page, lambda: view(lines, start, count))
        cursor = self.book.add(page)
        text = display(cursor, page.title, page.url, lines, start, end)
        return ToolResult(text, self._outputs(cursor, page))

    def _outputs(self, cursor: int, page: Page) -> tuple[dict[str, Any], ...]:
        """For clients: the page that was shown, or the sources of a search."""
        if page.kind == "search":
            results = zip_longest(page.links, page.titles, fillvalue="")
            return tuple({"type": "url", "url": url, "title": title} for url, title in results)
        place = self.citable(cursor)
        return ({"type": "page", "cursor": cursor, **place},) if place else ()

    def citable(self, cursor: int) -> dict[str, str] | None:
        """URL and title of what a citation of a cursor stands for; None for search results, which
        have no URL, and for unknown cursors.
        """
        page = self.book.pages.get(cursor)
        while page is not None and page.kind == "find":
            page = self.book.pages.get(page.of)
        if page is None or not page.url:
            return None
        return {"url": page.url, "title": page.title}

    # The three functions. Each returns a page, its first line to be shown, and how many lines.

    async def _carried_out(self, request: Request) -> tuple[Page, int, int]:
        match request:
            case Search():
                return await self._search(request), 0, -1
            case Find(pattern=pattern, cursor=given):
                cursor, page = await self._page(given)
                return await _beside(page, lambda: find_page(pattern, cursor, page)), 0, -1
            case Open():
                return await self._open(request)

    async def _search(self, request: Search) -> Page:
        try:
            self._check_external()
            hits = await self.backend.search(request.query, request.topn, self.domains)
        except ToolError as error:
            why = cut(str(error))
            raise ToolError(f"Error during search for `{cut(request.query)}`: {why}") from error
        allowed = [hit for hit in hits if self._is_shown(hit)]
        return search_page(request.query, allowed[: request.topn])

    def _is_shown(self, hit: Hit) -> bool:
        """Not with a URL that cannot be opened, or that would write more than itself."""
        host = host_of(hit.url)
        is_plain = hit.url.isprintable() and not set(hit.url) & UNSAFE
        return bool(host) and is_plain and self.domains.allows(host)

    async def _open(self, wanted: Open) -> tuple[Page, int, int]:
        start = max(wanted.loc, 0)
        if wanted.url is not None:
            page = await self._fetched(wanted.url, wanted.view_source)
            return page, start, wanted.num_lines
        _, page = await self._page(wanted.cursor)
        if wanted.link < 0 and not wanted.view_source:
            return page, start, wanted.num_lines
        if page.kind == "find" and wanted.link >= 0:
            return await self._match(page, wanted)
        url = page.url if wanted.link < 0 else _link(page, wanted.link)
        kind: Kind = "source" if wanted.view_source else "page"
        if url:  # an earlier request may have been allowed more
            self.domains.check(host_of(url))
        known = self.book.known(url, kind) if url else None
        if known is None:
            known = await self._fetched(url, wanted.view_source)
        return known, start, wanted.num_lines

    async def _match(self, page: Page, wanted: Open) -> tuple[Page, int, int]:
        """The page in which a match was found, from a little above it."""
        if wanted.link >= len(page.found):
            raise ToolError(f"Invalid link id `{wanted.link}`.")
        _, searched = await self._page(page.of)
        if wanted.view_source:
            searched = await self._fetched(searched.url, True)
        start = wanted.loc
        if start < 0:
            start = page.found[wanted.link]
            start -= LINES_ABOVE if start > LINES_ABOVE else 0
        return searched, start, wanted.num_lines

    # Getting pages

    async def _page(self, given: int) -> tuple[int, Page]:
        """The page at a cursor, fetched again if its text was not kept."""
        cursor, page = self.book.page(given)
        if page.text is None:
            page = await self._fetched(page.url, page.kind == "source")
            self.book.restore(cursor, page)
        return cursor, page

    async def _fetched(self, url: str, source: bool) -> Page:
        try:
            url = full_url(url)
            self.domains.check(host_of(url))
            self._check_external()
            page = await self.backend.fetch(url, source, self.domains)
        except ToolError as error:
            why = cut(str(error))
            raise ToolError(f"Error fetching URL `{cut(url)}`: {why}") from error
        if url != page.url:
            page = replace(page, asked=url)
        return page

    def _check_external(self) -> None:
        if not (self.external or self.backend.is_local):
            raise ToolError(NO_NETWORK)

    def _url_of(self, wanted: Open) -> str:
        """What will be opened."""
        if wanted.url is not None:
            return full_url(wanted.url)
        cursor, page = self.book.page(wanted.cursor)
        if page.kind == "find":
            return (self.citable(cursor) or {}).get("url", "")
        return page.url if wanted.link < 0 else _link(page, wanted.link)


def full_url(url: str) -> str:
    """Models leave the scheme out. Raises `ToolError` for what is no address of the web."""
    url = url.strip().removeprefix("view-source:")
    if "://" not in url[:20] and ":" not in url.partition("/")[0].partition(".")[0]:
        url = f"https://{url}"
    if not host_of(url):
        raise ToolError("this is not the URL of a web page: https://HOST/PATH is expected")
    return url


def _link(page: Page, number: int) -> str:
    if number >= len(page.links):
        raise ToolError(f"Invalid link id `{number}`.")
    return page.links[number]


async def _beside(page: Page, work: Callable[[], Value]) -> Value:
    """Long texts are worked on in a thread."""
    if len(page.text or "") < LARGE:
        return work()
    return await asyncio.to_thread(work)
