"""The browser as a tool: `search`, `open` and `find`, as gpt-oss was trained with.

Browser(corpus="notes/")                  a folder or a JSONL file, searched offline
Browser(searx="http://localhost:8080")    the web, through a SearXNG of your own
Browser()                                 opens URLs, searches nothing
Browser(sources={"notes": Corpus.open("notes/"), "web": Exa()})    whoever asks chooses
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
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
    `external_web_access` False: only what is local, and pages that were opened before. `sources`:
    backends by name, of which a request may choose one; the first serves those that do not.

    Pages are kept by conversation; those of a key without a conversation end with its session.
    """

    def __init__(
        self,
        corpus: str | Path | None = None,
        searx: str | None = None,
        backend: Backend | None = None,
        allowed_domains: Iterable[str] | None = None,
        external_web_access: bool = True,
        sources: Mapping[str, Backend] | None = None,
    ) -> None:
        given = (corpus, searx, backend, sources or None)
        if sum(each is not None for each in given) > 1:
            raise ToolError(
                "a browser takes one of corpus, searx, backend and sources; found several"
            )
        if corpus is not None:
            backend = Corpus.open(corpus)
        elif searx is not None:
            backend = Searx(searx)
        known = dict(sources or {"": backend or PlainWeb()})
        domains = Domains.of(allowed_domains)
        books: Books = LRUCache(MOST_CONVERSATIONS)
        first = next(iter(known.values()))
        self._inner = LimitedBrowser(first, domains, external_web_access, books, known)

    @property
    def kind(self) -> ToolKind:
        return BROWSER

    @property
    def namespace(self) -> ToolNamespace:
        return self._inner.namespace

    @property
    def backend(self) -> Backend:
        """Of requests that choose none."""
        return self._inner.backend

    @property
    def sources(self) -> Mapping[str, Backend]:
        """By the names that requests choose by; "" is the only one of a browser without names."""
        return self._inner.sources

    def using(self, name: str) -> LimitedBrowser:
        """The same browser with one of its sources. Raises `ToolError` for an unknown name."""
        return self._inner.using(name)

    def within(self, may_use: Callable[[str], bool]) -> LimitedBrowser | None:
        """The same browser with some of its sources; None if none is left."""
        return self._inner.within(may_use)

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
        for backend in self.sources.values():
            await backend.close()


@dataclass(frozen=True)
class LimitedBrowser:
    """A browser with its limits. Copies with other limits share pages and sources."""

    backend: Backend
    domains: Domains
    external: bool
    books: Books = field(repr=False)
    sources: Mapping[str, Backend]

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

    def using(self, name: str) -> LimitedBrowser:
        found = self.sources.get(name)
        if found is None:
            known = ", ".join(filter(None, self.sources)) or "no others to choose"
            raise ToolError(f"there is no source {name[:80]!r}; there are {known}")
        return replace(self, backend=found)

    def within(self, may_use: Callable[[str], bool]) -> LimitedBrowser | None:
        left = {name: backend for name, backend in self.sources.items() if may_use(name)}
        if not left:
            return None
        return replace(self, backend=next(iter(left.values())), sources=left)

    def session(self, key: SessionKey) -> BrowserSession:
        key = _of_conversation(key)
        book = self.books.setdefault(key, Book()) if key.conversation else Book()
        return BrowserSession(self.backend, book, self.domains, self.external)


def _of_conversation(key: SessionKey) -> SessionKey:
    """Pages do not change with the container that code runs in."""
    return replace(key, container="")
