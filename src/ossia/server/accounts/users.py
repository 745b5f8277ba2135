"""Users whom a proxy has let in: single sign-on stands in front, and says in a header who asks.

The header is believed only of connections from the proxies that are named; from anywhere else it
means nothing. Knows headers and addresses; nothing of routes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from ossia.server.wire.errors import ApiError

PREFIX = "user:"  # of callers' names; a key of such a name is the same caller
NAME = re.compile(r"[!-~]{1,200}")
PEER = "ossia.peer"  # in a scope: the address that the connection itself came from


class ProxyUsers:
    """`header`: of HTTP, such as X-Forwarded-User. `proxies`: addresses and networks."""

    def __init__(self, header: str, proxies: Sequence[str]) -> None:
        self.header = header.lower()
        self._networks = [ipaddress.ip_network(each) for each in proxies]
        self._is_proxy = lru_cache(1000)(self._is_named)

    def name(self, headers: Mapping[str, str], peer: str) -> str | None:
        """The caller's; None if nobody is named, or not by a proxy of ours. Raises `ApiError` (401)
        for a name that could not be written to a log.
        """
        given = headers.get(self.header, "").strip()
        if not given or not self._is_proxy(peer):
            return None
        if not NAME.fullmatch(given):
            text = f"the user in {self.header} must be 1 to 200 visible characters of ASCII"
            raise ApiError(401, text, code="invalid_user")
        return f"{PREFIX}{given}"

    def _is_named(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:  # a Unix socket, or a test's client
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


class NotingPeer:
    """Stands before whatever puts another address in the place of the connection's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[PEER] = peer_of(scope)
        await self.app(scope, receive, send)


def peer_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(scope.get(PEER) or (client[0] if client else ""))
