"""The connections to one MCP server: one for each caller, because a server may keep state for a
connection, such as an open page or a logged-in user, that no other caller may see.

Lives on the event loop of the tools. Knows connections; nothing of tools.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from ossia.errors import McpError
from ossia.tools.mcp.config import McpConfig
from ossia.tools.mcp.connection import Connection

MOST = 32  # callers of one server; for one that is a program, so many processes
IDLE_SECONDS = 1200.0


class Pool:
    """`first`: a connection that nobody has called through yet, which the first caller gets."""

    def __init__(
        self,
        config: McpConfig,
        first: Connection | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._spare = first
        self._clock = clock
        self._used: dict[str, float] = {}
        self._ending: set[asyncio.Future[None]] = set()
        self._open: OrderedDict[str, Connection] = OrderedDict()  # the last used comes last

    def known(self, caller: str) -> Connection | None:
        """The caller's connection, if there is one. May be asked from any thread."""
        return self._open.get(caller)

    def of(self, caller: str) -> Connection:
        """The caller's own. Raises McpError if all are in use."""
        self._end_idle(caller)
        found = self._open.get(caller)
        if found is None:
            self._make_room()
            found = self._spare or Connection(self._config)
            self._spare = None
            self._open[caller] = found
        self._open.move_to_end(caller)
        self._used[caller] = self._clock()
        return found

    async def end(self, caller: str) -> None:
        """Nobody comes back to this connection."""
        if caller in self._open:
            self._end(caller)

    async def close(self) -> None:
        for caller in list(self._open):
            self._end(caller)
        if self._spare is not None:
            await self._spare.close()
        self._spare = None
        await asyncio.gather(*self._ending)

    def _end_idle(self, but: str) -> None:
        """Those that nobody has used for long."""
        oldest = self._clock() - IDLE_SECONDS
        for caller, connection in list(self._open.items()):
            if caller != but and not connection.busy and self._used[caller] < oldest:
                self._end(caller)

    def _make_room(self) -> None:
        if len(self._open) < MOST:
            return
        idle = (caller for caller, connection in self._open.items() if not connection.busy)
        caller = next(idle, None)
        if caller is None:
            raise McpError(f"{self._config.label}: all its connections are in use: try again later")
        self._end(caller)

    def _end(self, caller: str) -> None:
        del self._used[caller]
        ending = asyncio.ensure_future(self._open.pop(caller).close())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
