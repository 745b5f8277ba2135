"""The browser as a tool: `search`, `open` and `find`, as gpt-oss was trained with.

Browser(corpus="notes/")                  a folder or a JSONL file, searched offline
Browser(searx="http://localhost:8080")    the web, through a SearXNG of your own
Browser()                                 opens URLs, searches nothing
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cachetools import LRUCache

from ossia.errors import ToolError
from ossia.harmony import ToolNamespace, builtin_tools
from ossia.tools.browser.backend import Backend, Domains
from ossia.tools.browser.book import Book
from ossia.tools.browser.corpus import Corpus
from ossia.tools.browser.session import BrowserSession
from ossia.tools.browser.web import PlainWeb, Searx
from ossia.tools.kinds import BROWSER, ToolKind
from ossia.tools.protocol import SessionKey

MOST_CONVERSATIONS = 256  # whose pages are kept
DECLARED = "sources=web (default: web)"
Books = MutableMapping[SessionKey, Book]


class Browser:
    """`allowed_domains`: only pages of these, and of the domains below them, are found and opened.
    `external_web_access` False: only what is local, and pages that were opened before.

    Pages are kept by conversation; those of a key without a conversation end with its session.
    """

    def __init__(
        self,
        corpus: str | Path | None = None,
        searx: str | None = None,
        backend: Backend | None = None,
        allowed_domains: Iterable[str] | None = None,
        external_web_access: bool = True,
    ) -> None:
        given = (corpus, searx, backend)
        if sum(each is not None for each in given) > 1:
            raise ToolError("a browser takes one of corpus, searx and backend; found several")
        if corpus is not None:
            backend = Corpus.open(corpus)
        elif searx is not None:
            backend = Searx(searx)
        domains = Domains.of(allowed_domains)
        books: Books = LRUCache(MOST_CONVERSATIONS)
        self._inner = LimitedBrowser(backend or PlainWeb(), domains, external_web_access, books)

    @property
    def kind(self) -> ToolKind:
        return BROWSER

    @property
    def namespace(self) -> ToolNamespace:
        return self._inner.namespace

    @property
    def searched(self) -> str:
        """What is searched: corpus or web; "": nothing."""
        return self._inner.backend.searched

    def session(self, key: SessionKey) -> BrowserSession:
        return self._inner.session(key)

    def seed(self, key: SessionKey, book: Book) -> None:
        """The pages of earlier turns, for a conversation that has none here."""
        self._inner.books.setdefault(_of_conversation(key), book)

    def limited(
        self,
        allowed_domains: Iterable[str] | None = None,
        external_web_access: bool = True,
        blocked_domains: Iterable[str] = (),
    ) -> LimitedBrowser:
        """The same browser for one request that asks for less of the web."""
        return self._inner.limited(allowed_domains, external_web_access, blocked_domains)

    async def close(self) -> None:
        await self._inner.backend.close()


@dataclass(frozen=True)
class LimitedBrowser:
    """A browser with its limits. Copies with other limits share pages and backend."""

    backend: Backend
    domains: Domains
    external: bool
    books: Books = field(repr=False)

    @property
    def kind(self) -> ToolKind:
        return BROWSER

    @property
    def namespace(self) -> ToolNamespace:
        space = builtin_tools("browser")
        words = f"sources={self.backend.source}"
        return replace(space, description=str(space.description).replace(DECLARED, words))

    def limited(
        self,
        allowed_domains: Iterable[str] | None = None,
        external_web_access: bool = True,
        blocked_domains: Iterable[str] = (),
    ) -> LimitedBrowser:
        asked = Domains.of(allowed_domains, blocked_domains)
        return replace(
            self,
            domains=self.domains.narrowed(asked),
            external=self.external and external_web_access,
        )

    def session(self, key: SessionKey) -> BrowserSession:
        key = _of_conversation(key)
        book = self.books.setdefault(key, Book()) if key.conversation else Book()
        return BrowserSession(self.backend, book, self.domains, self.external)


def _of_conversation(key: SessionKey) -> SessionKey:
    """Pages do not change with the container that code runs in."""
    return replace(key, container="")
