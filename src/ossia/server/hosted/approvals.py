"""Requests for approval, by ids that prove what was asked; and what became of approved calls, each
of which is run once.

A client that keeps everything sends a request back together with the answer: its id is signed, with
the call and the tool in it, for the caller who was asked. Knows ids and results; nothing of items.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from ossia.server.sealing import Sealer
from ossia.tools import ToolResult

PREFIX = "mcpr_"
DIGEST = 32  # hex digits of each part of an id
SECONDS = 8  # hex digits of the first part: when the id was made
LASTS = 30 * 86400.0  # seconds for which an id can be answered
UNKNOWN = "error: the call was given up; whether it was carried out is not known"


class ApprovalError(Exception):
    """The id is not one that this caller was given for this call."""


@dataclass(frozen=True)
class AskedFor:
    """A call that waits for approval, as the client sees it."""

    label: str
    name: str
    arguments: str


class Approvals:
    """Of one caller, whose `sealer` this is."""

    def __init__(self, sealer: Sealer, clock: Callable[[], float] = time.time) -> None:
        self._sealer = sealer
        self._clock = clock

    def id(self, call: AskedFor, digest: str) -> str:
        """`digest`: of the tool that would be called, 32 hex digits."""
        assert len(digest) == DIGEST
        made = int(self._clock())
        nonce = f"{made:0{SECONDS}x}" + os.urandom((DIGEST - SECONDS) // 2).hex()
        signature = self._signature(nonce, digest, call)
        return f"{PREFIX}{nonce}{digest}{signature}"

    def digest(self, id: str, call: AskedFor) -> str:
        """The digest of the tool that was asked about. Raises `ApprovalError`, also for an id that
        is written in another way: it would be another call's; and for one so old that nobody knows
        any more whether the call was run.
        """
        given = id.removeprefix(PREFIX)
        nonce = given[:DIGEST]
        digest = given[DIGEST : 2 * DIGEST]
        signature = self._signature(nonce, digest, call)
        expected = f"{PREFIX}{nonce}{digest}{signature}".encode()
        written = id.encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(expected, written):
            raise ApprovalError
        if self._clock() - int(nonce[:SECONDS], 16) > LASTS:
            raise ApprovalError
        return digest

    def _signature(self, nonce: str, digest: str, call: AskedFor) -> str:
        parts = ("approval", nonce, digest, call.label, call.name, call.arguments)
        return self._sealer.signature(*parts)[:DIGEST]


class Ledger(Protocol):
    """What outlasts this process, where there is a file: calls that were begun, and results."""

    async def begin_call(self, owner: str, id: str, begun: float | None = None) -> bool:
        """Whether nobody has begun it before. It is on the disk then, if there is one. `begun`:
        when the answer began.
        """
        ...

    async def end_call(self, owner: str, id: str, result: ToolResult) -> None: ...

    async def ended_call(self, owner: str, id: str) -> ToolResult | None:
        """The result; waited for while another server carries it out. None: nobody knows."""
        ...


class ApprovedCalls:
    """Of one server, which may share the ledger with others. Calls are known by whose they are and
    the ids of their requests: a request that is sent again, by a client that lost the answer, finds
    the result and runs nothing, also after a restart, and at another server.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._running: dict[tuple[str, str], asyncio.Future[ToolResult]] = {}

    async def once(
        self,
        owner: str,
        id: str,
        run: Callable[[], Awaitable[ToolResult]],
        begun: float | None = None,
    ) -> ToolResult:
        """`begun`: when the answer began that wants it."""
        key = (owner, id)
        if key in self._running:
            return await asyncio.shield(self._running[key])
        told: asyncio.Future[ToolResult] = asyncio.get_running_loop().create_future()
        self._running[key] = told
        result = ToolResult(UNKNOWN, failed=True)
        try:
            if await self._ledger.begin_call(owner, id, begun):
                result = await self._carried_out(owner, id, run)
            else:
                result = await self._ledger.ended_call(owner, id) or result
            return result
        finally:
            del self._running[key]
            told.set_result(result)

    async def _carried_out(
        self, owner: str, id: str, run: Callable[[], Awaitable[ToolResult]]
    ) -> ToolResult:
        try:
            result = await run()
        except BaseException:  # given up: who asks at another server must not wait for it
            await self._end(owner, id, ToolResult(UNKNOWN, failed=True))
            raise
        await self._end(owner, id, result)
        return result

    async def _end(self, owner: str, id: str, result: ToolResult) -> None:
        """It is written even if nobody waits for the answer any more."""
        await asyncio.shield(asyncio.ensure_future(self._ledger.end_call(owner, id, result)))
