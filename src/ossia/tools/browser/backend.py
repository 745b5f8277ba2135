"""What searches and fetches for the browser."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ossia.errors import ToolError
from ossia.tools.browser.book import Page


@dataclass(frozen=True)
class Domains:
    """Whose pages may be found and opened: those of `allowed` (None: all) and of the domains below
    them, but none of `blocked`.
    """

    allowed: tuple[str, ...] | None = None
    blocked: tuple[str, ...] = ()

    @classmethod
    def of(cls, allowed: Iterable[str] | None = None, blocked: Iterable[str] = ()) -> Domains:
        """As people write them: in any case, with dots and stars at the ends."""
        only = None if allowed is None else tuple(map(_plain, allowed))
        return cls(only, tuple(map(_plain, blocked)))

    def allows(self, host: str) -> bool:
        name = host.partition(":")[0].rstrip(".").lower()
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
        if _is_below(host.partition(":")[0].rstrip(".").lower(), self.blocked):
            raise ToolError(f"pages of {host} may not be opened")
        raise ToolError(f"only pages of {', '.join(self.allowed or ()) or 'no site'} may be opened")


def _plain(domain: str) -> str:
    return domain.strip().lower().removeprefix("*").strip(".")


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
