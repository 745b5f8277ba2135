"""The pages of a conversation, by cursor.

Every display has a page of its own in the book: a later search does not change what an earlier
cursor shows. Old pages give up their text when there is too much of it, and are fetched again when
they are needed. A book can be written down as JSON, for conversations that clients carry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from ossia.errors import ToolError
from ossia.tools.browser.display import wrap

Kind = Literal["page", "source", "search", "find"]
MOST_PAGES = 200  # whose text is kept
MOST_CHARACTERS = 16 << 20  # of all texts that are kept
MOST_CURSORS = 10_000  # a book with more is not read: no conversation has them


@dataclass(frozen=True)
class Page:
    """`text`: None if it was not kept. `links[n]`: the target of link n.

    `found`: of find results, the lines of the matches; `of`: the cursor of the page searched.
    `asked`: the URL that led here, if it was redirected. `titles`: of search results, by link.
    """

    url: str
    title: str
    text: str | None
    links: tuple[str, ...] = ()
    kind: Kind = "page"
    found: tuple[int, ...] = ()
    of: int = -1
    asked: str = ""
    titles: tuple[str, ...] = ()

    @cached_property
    def lines(self) -> list[str]:
        return wrap(self.text or "")

    @property
    def is_web(self) -> bool:
        """Whether it can be fetched again."""
        return self.kind in ("page", "source")

    def forgotten(self) -> Page:
        return replace(self, text=None, links=(), titles=())


class Book:
    def __init__(self, pages: Mapping[int, Page] | None = None) -> None:
        self.pages = dict(pages or {})
        self.next = max(self.pages, default=-1) + 1

    def add(self, page: Page) -> int:
        """The page's cursor."""
        cursor = self.next
        self.pages[cursor] = page
        self.next += 1
        self._forget()
        return cursor

    def page(self, cursor: int) -> tuple[int, Page]:
        """The page at a cursor, -1 for the newest. Raises `ToolError` in the display's words."""
        newest = self.next - 1
        if newest < 0:
            raise ToolError("No pages to access!")
        if cursor == -1:
            cursor = newest
        found = self.pages.get(cursor)
        if found is None:
            raise ToolError(
                f"Cursor `{cursor}` is out of range. Available cursor indices: [0 - {newest}]."
            )
        return cursor, found

    def known(self, url: str, kind: Kind = "page") -> Page | None:
        """The newest page that was read from a URL."""
        for page in reversed(self.pages.values()):
            if page.kind == kind and page.text is not None and url in (page.url, page.asked):
                return page
        return None

    def restore(self, cursor: int, page: Page) -> None:
        """A page that was fetched again."""
        self.pages[cursor] = page

    def _forget(self) -> None:
        for cursor in self._over(MOST_PAGES, MOST_CHARACTERS):
            self.pages[cursor] = self.pages[cursor].forgotten()

    def _over(self, pages: int, characters: int) -> Iterator[int]:
        """The cursors of old pages that hold more than so much."""
        counted: set[int] = set()  # texts that several cursors show are kept once
        for cursor, page in sorted(self.pages.items(), reverse=True):
            if page.text is None or not page.is_web:
                continue
            if id(page.text) not in counted:
                characters -= len(page.text)
                pages -= 1
                counted.add(id(page.text))
            if (pages < 0 or characters < 0) and cursor != self.next - 1:
                yield cursor

    def saved(self, characters: int = MOST_CHARACTERS) -> dict[str, Any]:
        """JSON of the book, with the texts of the newest pages that fit so many characters."""
        over = set(self._over(MOST_PAGES, characters))
        pages = {}
        for cursor, page in self.pages.items():
            kept = page.forgotten() if cursor in over else page
            pages[str(cursor)] = {k: v for k, v in asdict(kept).items() if v not in ((), "", None)}
        return {"pages": pages}

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> Book:
        """Raises `ToolError` for what `saved` did not write."""
        try:
            pages = {int(cursor): _page(fields) for cursor, fields in saved["pages"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ToolError(f"the browser's pages cannot be read: {error!r}") from error
        if set(pages) != set(range(len(pages))) or len(pages) > MOST_CURSORS:
            raise ToolError("the browser's pages cannot be read: cursors are missing")
        return cls(dict(sorted(pages.items())))


def _page(fields: Mapping[str, Any]) -> Page:
    values = {"url": "", "title": "", "text": None, **fields}
    values["links"] = tuple(map(str, values.get("links", ())))
    values["titles"] = tuple(map(str, values.get("titles", ())))
    values["found"] = tuple(map(int, values.get("found", ())))
    return Page(**values)
