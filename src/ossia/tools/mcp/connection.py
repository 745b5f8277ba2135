"""One connection to an MCP server: opened when it is needed, opened again once when it is lost.

It lives on the event loop of the tools, in one task, whoever calls. Knows the package's client;
nothing of Harmony.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ossia.errors import McpError
from ossia.tools.mcp.config import McpConfig
from ossia.tools.mcp.declaring import Listed
from ossia.tools.mcp.transport import connected
from ossia.tools.sessions import background_loop
from ossia.tools.texts import clean

if TYPE_CHECKING:
    from mcp import Client

log = logging.getLogger("ossia.tools")
MOST_PAGES = 20  # of a server's list of tools
MOST_LISTED = 1000
MOST_TEXT = 4 << 20  # characters of a list
Value = TypeVar("Value")
# a URL as errors repeat it: its user, path and query may hold secrets
_ADDRESS = re.compile(r"(https?://)(?:[^/@\s]*@)?([^/\s'\"?#]*)[^\s'\"]*")


class Lost(Exception):
    """The connection ended before there was an answer."""


@dataclass(frozen=True)
class Opened:
    client: Client
    instructions: str | None
    listed: Mapping[str, Listed]


class Connection:
    def __init__(self, config: McpConfig) -> None:
        self.config = config
        self.busy = 0  # calls that wait for an answer
        self._opened: Opened | None = None
        self._owner: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._opening = asyncio.Lock()

    @property
    def listed(self) -> Mapping[str, Listed] | None:
        """What the server listed when it was connected to last; None: it is not connected."""
        opened = self._opened
        return None if opened is None else opened.listed

    async def opened(self) -> Opened:
        """Raises McpError."""
        async with self._opening:
            if self._opened is None:
                await self._open()
            assert self._opened
            return self._opened

    async def _open(self) -> None:
        self._stop = asyncio.Event()
        ready: asyncio.Future[Opened] = asyncio.get_running_loop().create_future()
        owner = asyncio.create_task(self._own(ready, self._stop))
        try:
            async with asyncio.timeout(self.config.timeout):
                self._opened = await ready
            self._owner = owner
        except TimeoutError:
            seconds = self.config.timeout
            raise McpError(
                f"{self.config.label}: no connection within {seconds:g} s. If its program is being "
                "installed, start it once by itself, or give it a longer `timeout`"
            ) from None
        finally:
            if self._owner is not owner:
                owner.cancel()

    async def _own(self, ready: asyncio.Future[Opened], stop: asyncio.Event) -> None:
        try:
            async with connected(self.config) as client:
                listed = await _list(client)
                ready.set_result(Opened(client, client.instructions, listed))
                await stop.wait()
        except (Exception, asyncio.CancelledError) as error:
            if not ready.done():
                ready.set_exception(self._error(error))
                ready.exception()  # whoever waited may be gone
            elif not isinstance(error, asyncio.CancelledError):
                log.warning("mcp %s: %s", self.config.label, said_by(error))

    def _error(self, error: BaseException) -> McpError:
        inner = first(error)
        if isinstance(inner, McpError):
            return inner
        return McpError(f"{self.config.label}: no connection: {said_by(error)}")

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The answer as plain JSON. Raises Lost, and McpError for what the server refuses."""
        self.busy += 1
        try:
            return await self._call(name, arguments)
        finally:
            self.busy -= 1

    async def _call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        from mcp import MCPError
        from mcp.types import (
            CONNECTION_CLOSED,
            CallToolRequest,
            CallToolRequestParams,
            CallToolResult,
        )

        opened = await self.opened()
        parameters = CallToolRequestParams(name=name, arguments=arguments)
        request = CallToolRequest(params=parameters)
        try:
            # not `call_tool`, which runs the server's own schemas over its answers
            answer = await opened.client.session.send_request(request, CallToolResult)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                raise await self._lost(error) from error
            raise McpError(f"{self.config.label}: {said_by(error)}") from error
        except (OSError, EOFError, RuntimeError) as error:
            raise await self._lost(error) from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] in ("anyio", "httpx2"):
                raise await self._lost(error) from error
            raise McpError(f"{self.config.label}: no answer that MCP knows") from error
        return answer.model_dump(mode="json", by_alias=True, exclude_none=True)

    async def _lost(self, error: BaseException) -> Lost:
        await self.close()
        return Lost(said_by(error))

    async def close(self) -> None:
        owner = self._owner
        self._opened = None
        self._owner = None
        self._stop.set()
        if owner is not None:
            with suppress(Exception, asyncio.CancelledError):
                await asyncio.wait_for(owner, 10)


async def _list(client: Client) -> dict[str, Listed]:
    """By name. A list without end, or of much text, is cut."""
    listed: dict[str, Listed] = {}
    left = MOST_TEXT
    cursor = None
    for _ in range(MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools[:MOST_LISTED]:
            left -= len(tool.model_dump_json())
            if left < 0:
                return listed
            hints = tool.annotations
            reads = bool(hints and hints.read_only_hint)
            repeats = reads or bool(hints and hints.idempotent_hint)
            about = tool.description or ""
            listed.setdefault(
                tool.name, Listed(tool.name, about, tool.input_schema, reads, repeats)
            )
        cursor = page.next_cursor
        if cursor is None or len(listed) >= MOST_LISTED:
            break
    return listed


def first(error: BaseException) -> BaseException:
    """What went wrong first, out of a group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def said_by(error: BaseException) -> str:
    """In a line that is fit for a log: of addresses it has the host alone."""
    inner = first(error)
    text = getattr(inner, "message", None) or str(inner)
    return clean(_ADDRESS.sub(r"\1\2", f"{type(inner).__name__}: {text}"), 500)


async def on_loop(work: Coroutine[Any, Any, Value]) -> Value:
    """Carried out on the tools' event loop, wherever the caller's is."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, background_loop()))
