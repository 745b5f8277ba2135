"""What searches and fetches for the browser."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ossia.errors import ToolError
from ossia.tools.browser.addresses import host_name
from ossia.tools.browser.book import Page

NO_HOST = frozenset("/\\?#@*")  # characters of URLs that are in no host's name


@dataclass(frozen=True)
class Domains:
    """Whose pages may be found and opened: those of `allowed` (None: all) and of the domains below
    them, but none of `blocked`.
    """

    allowed: tuple[str, ...] | None = None
    blocked: tuple[str, ...] = ()

    @classmethod
    def of(cls, allowed: Iterable[str] | None = None, blocked: Iterable[str] = ()) -> Domains:
        """As people write them: see `domain_of`. Raises `ToolError`."""
        only = None if allowed is None else tuple(map(domain_of, allowed))
        return cls(only, tuple(map(domain_of, blocked)))

    def allows(self, host: str) -> bool:
        name = host_name(host)
        if _is_below(name, self.blocked):
            return False
        return self.allowed is None or _is_below(name, self.allowed)

    def narrowed(self, more: Domains) -> Domains:
        """What both allow."""
        return Domains(_both(self.allowed, more.allowed), (*self.blocked, *more.blocked))

    def check(self, host: str) -> None:
        """Raises `ToolError`."""
        if self.allows(host):
            return
        if _is_below(host_name(host), self.blocked):
            raise ToolError(f"pages of {host} may not be opened")
        raise ToolError(f"only pages of {', '.join(self.allowed or ()) or 'no site'} may be opened")


def domain_of(text: str) -> str:
    """A domain as people write it: in any case and alphabet, with dots and stars at the ends, as
    the URL of a site. Raises `ToolError` for what would bind nothing, or something else.
    """
    scheme, _, rest = text.strip().rpartition("://")
    name = host_name(rest.removesuffix("/").removeprefix("*"))
    is_known = scheme.lower() in ("", "http", "https")
    if not is_known or not name or any(each.isspace() or each in NO_HOST for each in name):
        raise ToolError(f"{text[:80]!r} is not a domain: a name such as example.com is expected")
    return name


def _is_below(name: str, domains: Iterable[str]) -> bool:
    """Whether a host is one of the domains or below one."""
    return any(name == each or name.endswith(f".{each}") for each in domains if each)


def _both(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The domains that both allow."""
    if one is None or other is None:
        return other if one is None else one
    inner = [each for each in other if _is_below(each, one)]
    return (*inner, *(each for each in one if _is_below(each, other) and each not in inner))


@dataclass(frozen=True)
class Hit:
    """A search result. All of it is plain text."""

    title: str
    url: str
    snippet: str = ""


class Backend(Protocol):
    """`source`: the word for it in the tool's declaration. `is_local`: asks nobody outside.
    `searched`: what is, for people; "": nothing is.
    """

    source: str
    is_local: bool
    searched: str

    async def search(self, query: str, count: int, domains: Domains) -> list[Hit]:
        """The best first. Results from outside of `domains` may be among them. Raises `ToolError`:
        its text is the reason that the model reads.
        """
        ...

    async def fetch(self, url: str, source: bool, domains: Domains) -> Page:
        """The page at a URL; `source`: as it was sent. Redirects out of `domains` are refused.
        Raises `ToolError`.
        """
        ...

    async def close(self) -> None: ...
