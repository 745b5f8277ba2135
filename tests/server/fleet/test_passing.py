"""A request that one server passes on to another: who counts it, and who may send such."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from one_process_fleet import Fleet, two_in_one

from ossia.server import Settings
from ossia.server.access import secret_digest
from ossia.server.fleet.passing import PASSED, Proof, Voucher, digest_of
from ossia.server.sealing import Sealer
from ossia.server.settings import ApiKey, Limits
from ossia.server.wire.errors import ApiError
from ossia.tokenizer import Tokenizer

pytestmark = pytest.mark.anyio
SAYS = "<|channel|>final<|message|>Hi there<|return|>"
LONG = f"<|channel|>final<|message|>{'Hi there, ' * 300}<|return|>"  # until it is told to hurry
KEYS = (
    ApiKey("ann", secret_digest("ann"), Limits(concurrent=1, tokens_per_day=10**6)),
    ApiKey("boss", secret_digest("boss"), Limits(admin=True)),
)
ANN = {"x-api-key": "ann"}
BOSS = {"x-api-key": "boss"}
Make = Callable[..., AbstractAsyncContextManager[Fleet]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def two(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def made(says: str = SAYS, **more: Any) -> AbstractAsyncContextManager[Fleet]:
        settings = Settings(model_name="nano", keys=KEYS, **more)
        return two_in_one(tokenizer, tmp_path, monkeypatch, says, settings)

    return made


async def for_code_at_two(fleet: Fleet) -> dict[str, Any]:
    """A request that only the second server can answer: its container is there."""
    made = await fleet.two.client.post("/v1/containers", json={"name": "c"}, headers=ANN)
    assert made.status_code == 200, made.text
    code = {"type": "code_interpreter", "container": made.json()["id"]}
    return {"input": "Hello", "tools": [code]}


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.005)


async def both_told(fleet: Fleet) -> None:
    """Until each knows what the other one is answering."""
    for each in (fleet.one, fleet.two):
        await asyncio.gather(*each.service.ledger._soon)


def running(fleet: Fleet) -> list[int]:
    """Samples of ann's that each server counts."""
    callers = [each.service.access.named("ann") for each in (fleet.one, fleet.two)]
    return [caller.running for caller in callers]


async def test_one_at_a_time_is_one_wherever_it_is_answered(two: Make) -> None:
    async with two(LONG) as fleet:
        asked = await for_code_at_two(fleet)
        for _ in range(2):
            told = await fleet.one.client.post("/v1/responses", json=asked, headers=ANN)
            assert told.status_code == 200, told.text
        assert running(fleet) == [0, 0]
        fleet.two.engine.delay = 0.02
        longest = asyncio.create_task(
            fleet.one.client.post("/v1/responses", json=asked, headers=ANN)
        )
        await until(lambda: fleet.two.engine.has_work())
        assert running(fleet) == [1, 0], "the first counts it; the second computes"
        assert fleet.two.service.access.running == 1, "whoever stops waits for it"
        for each in (fleet.one, fleet.two):
            refused = await each.client.post("/v1/responses", json=asked, headers=ANN)
            assert refused.status_code == 429, "it is one of one"
        fleet.two.engine.delay = 0
        assert (await longest).status_code == 200


async def test_what_goes_on_in_the_background_is_counted_where_it_runs(two: Make) -> None:
    async with two(LONG) as fleet:
        asked = await for_code_at_two(fleet) | {"background": True}
        fleet.two.engine.delay = 0.02
        told = await fleet.one.client.post("/v1/responses", json=asked, headers=ANN)
        assert told.status_code == 200 and running(fleet) == [0, 1]
        await both_told(fleet)
        refused = await fleet.one.client.post("/v1/responses", json=asked, headers=ANN)
        assert refused.status_code == 429
        fleet.two.engine.delay = 0
        await until(lambda: running(fleet) == [0, 0])
        await both_told(fleet)
        again = await fleet.one.client.post("/v1/responses", json=asked, headers=ANN)
        assert again.status_code == 200, "the other one has told"


async def test_it_is_in_the_books_once(two: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ossia.access")
    async with two() as fleet:
        asked = await for_code_at_two(fleet)
        told = await fleet.one.client.post("/v1/responses", json=asked, headers=ANN)
        usage = told.json()["usage"]
        spent = [usage["input_tokens"], usage["output_tokens"]]
        await fleet.two.service.ledger.settle_ended()
        rows = (await fleet.one.client.get("/v1/usage", headers=BOSS)).json()["data"]
        assert [[each["prompt_tokens"], each["output_tokens"]] for each in rows] == [spent]
        counted = ""
        for each in (fleet.one, fleet.two):
            counted += (await each.client.get("/metrics", headers=BOSS)).text
        lines = [line for line in counted.splitlines() if 'route="/v1/responses"' in line]
        assert [line.rpartition(" ")[2] for line in lines if "_total" in line] == ["1.0"]
        id = told.headers["x-request-id"]
        assert told.headers["x-session-id"]
        logged = [each.getMessage() for each in caplog.records if id in each.getMessage()]
        assert len(logged) == 2, "both logs call it the same"


async def test_with_limits_of_its_own_a_server_counts_all_that_it_answers(two: Make) -> None:
    async with two(local_limits=True) as fleet:
        asked = await for_code_at_two(fleet)
        fleet.two.engine.delay = 0.02
        first = asyncio.create_task(fleet.one.client.post("/v1/responses", json=asked, headers=ANN))
        await until(lambda: fleet.two.engine.has_work())
        assert running(fleet) == [1, 1]
        assert (await first).status_code == 200


async def test_a_proof_is_of_one_body_and_one_minute(
    two: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = Proof(Sealer(b"s" * 32))
    body = b'{"input": "Hello"}'
    voucher = Voucher("ann", await digest_of(body))

    async def status(content: bytes, target: str = "/v1/responses", **more: str) -> int:
        headers = {PASSED: proof.made(voucher, "POST", "/v1/responses"), **more}
        headers["content-type"] = "application/json"
        asked = fleet.two.client.post(target, content=content, headers=headers)
        return (await asked).status_code

    async with two() as fleet:
        assert await status(body) == 200
        assert await status(body.replace(b"Hello", b"Hullo")) == 401
        assert await status(body, "/v1/completions") == 401
        large = await digest_of(b"x" * (2 << 20))
        assert large != await digest_of(b"y" * (2 << 20)) and len(large) == len(voucher.digest)
        with monkeypatch.context() as patched:
            old = proof.made(voucher, "POST", "/v1/responses")
            patched.setattr(proof, "made", lambda *asked: old)
            from ossia.server.fleet import passing

            now = passing.time.time()
            patched.setattr(passing.time, "time", lambda: now + 61)
            assert await status(body) == 401


def test_a_proof_of_another_version_is_no_proof() -> None:
    """Signed with the same secret, but with other parts: before, it had no digest of the body."""
    sealer = Sealer(b"s" * 32)
    for said in (("64", "YW5u"), ("64", "YW5u", "d", "more"), ()):
        signed = ".".join((*said, sealer.signature("passed", *said, "GET", "/v1/models")))
        with pytest.raises(ApiError) as caught:
            Proof(sealer).read(signed, "GET", "/v1/models")
        assert caught.value.status == 401
