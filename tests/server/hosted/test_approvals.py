"""Ids of requests for approval, and that an approved call runs once."""

from __future__ import annotations

import asyncio

import pytest

from ossia.server.hosted.approvals import (
    LASTS,
    UNKNOWN,
    ApprovalError,
    Approvals,
    ApprovedCalls,
    AskedFor,
)
from ossia.server.sealing import Sealer
from ossia.server.store.approved import ApprovedTable
from ossia.server.store.sqlite import Sqlite
from ossia.server.store.store import Store
from ossia.tools import ToolResult

DIGEST = "0123456789abcdef" * 2
CALL = AskedFor("team", "write", '{"text":"a"}')


def test_an_id_is_of_one_call_of_one_caller() -> None:
    secret = b"a secret"
    mine = Approvals(Sealer(secret).of("ann"))
    id = mine.id(CALL, DIGEST)
    assert mine.digest(id, CALL) == DIGEST
    assert Approvals(Sealer(secret).of("ann")).digest(id, CALL) == DIGEST  # after a restart, too
    others = [Approvals(Sealer(secret).of("bob")), Approvals(Sealer(b"another").of("ann"))]
    for other in (*others, Approvals(Sealer(secret))):
        with pytest.raises(ApprovalError):
            other.digest(id, CALL)
    changed = [
        AskedFor("team2", "write", CALL.arguments),
        AskedFor("team", "write2", CALL.arguments),
        AskedFor("team", "write", '{"text":"b"}'),
        AskedFor("teamwrite", "", CALL.arguments),  # where a part ends counts
    ]
    for call in changed:
        with pytest.raises(ApprovalError):
            mine.digest(id, call)
    bare = id.removeprefix("mcpr_")  # it would run a second time, under another name
    for wrong in (
        "",
        "mcpr_",
        bare,
        f"mcpr_{id}",
        id[:-1],
        id + "0",
        id.upper(),
        id.replace("0", "1"),
        "mcpr_ü" * 20,
    ):
        with pytest.raises(ApprovalError):
            mine.digest(wrong, CALL)


def test_an_id_can_be_answered_for_so_long() -> None:
    now = [1e9]
    mine = Approvals(Sealer(b"a secret").of("ann"), lambda: now[0])
    id = mine.id(CALL, DIGEST)
    now[0] += LASTS
    assert mine.digest(id, CALL) == DIGEST
    now[0] += 2
    with pytest.raises(ApprovalError):
        mine.digest(id, CALL)


def approved_calls() -> ApprovedCalls:
    return ApprovedCalls(ApprovedTable(Store(Sqlite(None), 3600.0, 1 << 20)))


def test_a_call_runs_once() -> None:
    runs: list[int] = []

    async def run() -> ToolResult:
        runs.append(len(runs))
        await asyncio.sleep(0)
        return ToolResult(f"run {len(runs)}")

    async def many() -> list[ToolResult]:
        calls = approved_calls()
        at_once = await asyncio.gather(*(calls.once("ann", "a", run) for _ in range(3)))
        later = await calls.once("ann", "a", run)
        others = [await calls.once("bob", "a", run), await calls.once("ann", "b", run)]
        return [*at_once, later, *others]

    texts = [result.text for result in asyncio.run(many())]
    assert texts == ["run 1"] * 4 + ["run 2", "run 3"] and len(runs) == 3


def test_a_call_that_was_given_up_is_not_run_again() -> None:
    async def endless() -> ToolResult:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def both() -> list[ToolResult]:
        calls = approved_calls()
        first = asyncio.ensure_future(calls.once("ann", "a", endless))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(calls.once("ann", "a", endless))
        await asyncio.sleep(0)
        first.cancel()
        return [await second, await calls.once("ann", "a", endless)]

    assert asyncio.run(both()) == [ToolResult(UNKNOWN, failed=True)] * 2


def test_a_result_is_kept_though_nobody_waits_for_it_any_more() -> None:
    async def run() -> ToolResult:
        return ToolResult("done")

    class Slow(ApprovedTable):
        """Its writer waits until it is told."""

        def __init__(self) -> None:
            super().__init__(Store(Sqlite(None), 3600.0, 1 << 20))
            self.asked = asyncio.Event()
            self.told = asyncio.Event()

        async def end_call(self, owner: str, id: str, result: ToolResult) -> None:
            self.asked.set()
            await self.told.wait()
            await super().end_call(owner, id, result)

    async def kept() -> ToolResult | None:
        table = Slow()
        asking = asyncio.ensure_future(ApprovedCalls(table).once("ann", "a", run))
        await table.asked.wait()
        asking.cancel()
        await asyncio.wait((asking,))
        table.told.set()
        for _ in range(10):
            await asyncio.sleep(0)
        return await table.ended_call("ann", "a")

    assert asyncio.run(kept()) == ToolResult("done")
