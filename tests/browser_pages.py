"""A browser over pages that tests write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from browser_dialogues import PAGES, SEARCHES

from ossia.errors import ToolError
from ossia.tools.browser import BrowserSession, Hit, Page
from ossia.tools.browser.backend import Domains
from ossia.tools.browser.documents import text_page, trusted_page

Pages = Mapping[str, Sequence[str]]  # by URL: a title, and HTML


class FakeWeb:
    """Pages and search results by heart. `asked`: every URL that was fetched."""

    source = "web (default: web)"
    is_local = False
    searched = "web"

    def __init__(
        self, pages: Pages | None = None, searches: Mapping[str, Any] | None = None
    ) -> None:
        self.pages = PAGES if pages is None else pages
        self.searches = SEARCHES if searches is None else searches
        self.asked: list[str] = []
        self.counts: list[int] = []

    async def search(self, query: str, count: int, domains: Domains) -> list[Hit]:
        self.counts.append(count)
        if query not in self.searches:
            raise ToolError("search is down")
        return [Hit(title, url, snippet) for title, url, snippet in self.searches[query]]

    async def fetch(self, url: str, source: bool, domains: Domains) -> Page:
        self.asked.append(url)
        if url not in self.pages:
            raise ToolError("not found")
        title, html = self.pages[url]
        if source:
            return text_page(html, url, title, source=True)
        return trusted_page(html, url, title)

    async def close(self) -> None: ...


async def dialogue(web: FakeWeb, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The texts that the model reads."""
    session = BrowserSession(web)
    return [await said(session, function, **arguments) for function, arguments in calls]


async def said(session: BrowserSession, function: str, **arguments: Any) -> str:
    return (await session.call(function, json.dumps(arguments), None)).text
