"""The pages that the browser makes itself: search results, and what was found in a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from ossia.errors import ToolError
from ossia.tools.browser.backend import Hit
from ossia.tools.browser.book import Page
from ossia.tools.browser.html import DAGGER, LONGEST_TITLE, host_of, inert, one_line

LONGEST_SNIPPET = 2000  # characters
MOST_MATCHES = 50
MATCH_LINES = 4
LINK = re.compile(r"【\d+†([^†】]+)(?:†([^†】]+))?】")
NOT_HERE = "Cannot run `find` on search results page or find results page"


def search_page(query: str, hits: Iterable[Hit]) -> Page:
    links: dict[str, int] = {}
    titles: list[str] = []
    items = []
    for hit in hits:
        number = links.setdefault(hit.url, len(links))
        title = _line(hit.title)[:LONGEST_TITLE].translate(DAGGER) or hit.url
        if number == len(titles):
            titles.append(title)
        snippet = _line(hit.snippet)[:LONGEST_SNIPPET]
        items.append(f"  * 【{number}†{title}†{host_of(hit.url)}】 {snippet}")
    listed = "\n".join(items) or "No results."
    text = f"\nURL: \n# Search Results\n\n{listed}".rstrip()
    asked = _quoted(query)[:LONGEST_TITLE]
    return Page("", asked, text, tuple(links), "search", titles=tuple(titles))


def find_page(pattern: str, cursor: int, page: Page) -> Page:
    """Raises `ToolError` for a page that was not read from somewhere."""
    if not page.is_web:
        raise ToolError(NOT_HERE)
    lines = without_marks("\n".join(page.lines)).split("\n")
    matches = list(_matches(pattern, lines))
    entries = [
        f"# 【{n}†match at L{at}】\n" + "\n".join(lines[at : at + MATCH_LINES])
        for n, at in enumerate(matches)
    ]
    shown = _quoted(pattern)[:LONGEST_TITLE]
    text = "\n\n".join(entries) or f"No `find` results for pattern: `{shown}`"
    return Page(
        f"{page.url}/find?pattern={quote(shown)}",
        f"Find results for text: `{shown}` in `{page.title}`",
        text,
        kind="find",
        found=tuple(matches),
        of=cursor,
    )


def without_marks(text: str) -> str:
    """Links as their text."""
    return LINK.sub(_without_mark, text)


def _matches(pattern: str, lines: Sequence[str]) -> Iterable[int]:
    at = 0
    count = 0
    while at < len(lines) and count < MOST_MATCHES:
        if pattern not in lines[at].lower():
            at += 1
            continue
        yield at
        count += 1
        at += MATCH_LINES


def _without_mark(match: re.Match[str]) -> str:
    """The text of a link. Lines that end inside of its mark still end, so that numbers hold."""
    return match[1] + "\n" * (match[0].count("\n") - match[1].count("\n"))


def _line(text: str) -> str:
    return one_line(inert(text)).strip()


def _quoted(text: str) -> str:
    """What the model wrote, on one line."""
    return " ".join(text.splitlines())
