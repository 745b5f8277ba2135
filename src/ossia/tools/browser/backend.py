"""What searches and fetches for the browser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from ossia.errors import ToolError
from ossia.tools.browser.book import Page

# whose pages may be found and opened; None: all
Domains: TypeAlias = Sequence[str] | None


@dataclass(frozen=True)
class Hit:
    """A search result. All of it is plain text."""

    title: str
    url: str
    snippet: str = ""


class Backend(Protocol):
    """`source`: the word for it in the tool's declaration. `is_local`: asks nobody outside."""

    source: str
    is_local: bool

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


def domains_of(given: Iterable[str]) -> tuple[str, ...]:
    """As they are compared: lower case, without dots and stars at the ends."""
    return tuple(each.strip().lower().removeprefix("*").strip(".") for each in given)


def allows(domains: Domains, host: str) -> bool:
    """Whether a host is one of the domains or below one."""
    if domains is None:
        return True
    name = host.partition(":")[0].rstrip(".").lower()
    return any(name == each or name.endswith(f".{each}") for each in domains if each)


def narrowed(domains: Domains, more: Domains) -> Domains:
    """The domains that both allow."""
    if domains is None or more is None:
        return more if domains is None else domains
    inner = [each for each in more if allows(domains, each)]
    return (*inner, *(each for each in domains if allows(more, each) and each not in inner))


def check_domain(domains: Domains, host: str) -> None:
    if not allows(domains, host):
        raise ToolError(f"only pages of {', '.join(domains or ()) or 'no site'} may be opened")
