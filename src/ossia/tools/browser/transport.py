"""A transport for httpx2 that connects to public addresses only.

A name is resolved once, every address that it has must be public, and the connection goes to one
of the addresses that were checked: a name that points elsewhere the next moment gains nothing.
Redirects come through here like any request. Proxies of the environment are not used, cookies not
kept, connections not shared between names.

Knows hosts and addresses; nothing of documents. For every client that strangers may send somewhere.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ossia.errors import ToolError
from ossia.tools.browser.addresses import Address, is_public, parsed
from ossia.tools.browser.needed import extra

if TYPE_CHECKING:
    import httpx2

PORTS = frozenset({80, 443})
DEFAULT_PORTS = {"http": 80, "https": 443}
MOST_TRIED = 4  # addresses of a name
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
# names are resolved apart from all other work in threads: they may take long, and nobody stops them
_resolvers = ThreadPoolExecutor(8, "ossia-names")


class Guard:
    """What may be connected to. `allowed`: whether an address may be; `ports`: None for all."""

    def __init__(
        self,
        allowed: Callable[[Address], bool] = is_public,
        ports: frozenset[int] | None = PORTS,
        resolve: Resolver | None = None,
    ) -> None:
        self.allowed = allowed
        self.ports = ports
        self.resolve = resolve or _resolved

    async def addresses(self, url: httpx2.URL) -> list[str]:
        """Where a URL may be asked for. Raises `ToolError` if it may not."""
        if url.scheme not in DEFAULT_PORTS:
            raise ToolError("only http and https are opened")
        if url.userinfo:
            raise ToolError("a URL with a user name is not opened")
        host = url.host
        port = DEFAULT_PORTS[url.scheme] if url.port is None else url.port
        if not host:
            raise ToolError("the URL has no host")
        if self.ports is not None and port not in self.ports:
            raise ToolError(f"port {port} is not opened, only 80 and 443")
        try:
            found = await self.resolve(host, port)
        except (OSError, UnicodeError, ValueError) as error:
            raise ToolError("the host's name cannot be resolved") from error
        return self._checked(found)

    def _checked(self, found: Sequence[str]) -> list[str]:
        """Raises `ToolError` if any of the addresses may not be connected to."""
        try:
            addresses = [parsed(each) for each in found]
        except ValueError as error:
            raise ToolError("the host's name cannot be resolved") from error
        if not addresses:
            raise ToolError("the host's name cannot be resolved")
        if not all(self.allowed(each) for each in addresses):
            raise ToolError("the host is not on the public internet")
        return [str(each) for each in dict.fromkeys(addresses)][:MOST_TRIED]


async def _resolved(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()

    def resolve() -> list[Any]:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)

    return [str(each[4][0]) for each in await loop.run_in_executor(_resolvers, resolve)]


def guarded_transport(guard: Guard | None = None) -> httpx2.AsyncBaseTransport:
    """The transport. It raises `ToolError` for what may not be asked, httpx2's errors otherwise."""
    with extra():
        import httpx2
    gate = guard or Guard()
    # a connection that is kept would serve another name at the same address
    limits = httpx2.Limits(max_connections=64, max_keepalive_connections=0)
    inner = httpx2.AsyncHTTPTransport(trust_env=False, limits=limits)

    class Guarded(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            url = request.url
            failure: Exception | None = None
            for address in await gate.addresses(url):
                request.url = url.copy_with(host=address)
                # the name is what the certificate must be for
                request.extensions = {**request.extensions, "sni_hostname": url.host}
                try:
                    response: httpx2.Response = await inner.handle_async_request(request)
                    return response
                except httpx2.ConnectError as error:
                    failure = error
                finally:
                    request.url = url
            raise failure or ToolError("the host's name cannot be resolved")

        async def aclose(self) -> None:
            await inner.aclose()

    made: httpx2.AsyncBaseTransport = Guarded()
    return made
