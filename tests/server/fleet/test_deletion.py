"""What is deleted at one server is deleted at all: now where they are reached, else when they are
back; and nothing that was running brings it back.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from one_process_fleet import Fleet, Neighbour, two_in_one

from ossia.server import ScriptedEngine, Settings, create_app
from ossia.server.access import secret_digest
from ossia.server.accounts.forgetting import Reminders
from ossia.server.fleet import fleet as fleets
from ossia.server.hosted.uploads import Upload
from ossia.server.settings import ApiKey, Limits
from ossia.tokenizer import Tokenizer
from ossia.tools.containers import Containers

pytestmark = pytest.mark.anyio
LONG = f"<|channel|>final<|message|>{'Hi there, ' * 100}<|return|>"
KEYS = (
    ApiKey("ann", secret_digest("ann")),
    ApiKey("bob", secret_digest("bob")),
    ApiKey("boss", secret_digest("boss"), Limits(admin=True)),
)
BOSS = {"x-api-key": "boss"}
Make = Callable[..., AbstractAsyncContextManager[Fleet]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def two(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def made(**more: Any) -> AbstractAsyncContextManager[Fleet]:
        settings = Settings(model_name="nano", keys=KEYS, **more)
        return two_in_one(tokenizer, tmp_path, monkeypatch, LONG, settings)

    return made


async def sent(server: Neighbour, name: str = "ann") -> str:
    """The id of a file."""
    made = await server.client.post(
        "/v1/files",
        files={"file": ("notes.txt", f"notes of {name}".encode(), "text/plain")},
        data={"purpose": "user_data"},
        headers={"x-api-key": name},
    )
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


async def copied(server: Neighbour, file: str) -> None:
    """The server names a file that another one has."""
    part = {"type": "input_file", "file_id": file}
    given = [{"type": "message", "role": "user", "content": [part]}]
    headers = {"x-api-key": "ann"}
    path = "/v1/responses/input_tokens"
    told = await server.client.post(path, json={"input": given}, headers=headers)
    assert told.status_code == 200, told.text


def has(server: Neighbour, file: str) -> bool:
    uploads = server.service.uploads
    assert uploads is not None
    on_disk = any(path.name.startswith(file) for path in uploads.root.iterdir())
    assert on_disk == uploads.has(file)
    return on_disk


async def test_a_deleted_file_has_no_copies(two: Make) -> None:
    async with two() as fleet:
        for asked in (fleet.one, fleet.two):  # where it is; and where its copy is
            file = await sent(fleet.one)
            await copied(fleet.two, file)
            assert has(fleet.one, file) and has(fleet.two, file)
            path = f"/v1/files/{file}"
            gone = await asked.client.delete(path, headers={"x-api-key": "ann"})
            assert gone.json()["deleted"]
            assert not has(fleet.one, file) and not has(fleet.two, file)


async def test_nor_has_it_where_nobody_answered(two: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a server is gone or hangs, and also if the copy comes later than the deletion."""
    monkeypatch.setattr(fleets, "CONNECT", 0.05)
    async with two() as fleet:
        reminders = Reminders(fleet.two.service)
        for absent in (fleet.between.gone, fleet.between.hung):
            file, late = await sent(fleet.one), await sent(fleet.one)
            await copied(fleet.two, file)
            await copied(fleet.two, late)
            absent.add("two")
            for each in (file, late):
                path = f"/v1/files/{each}"
                gone = await fleet.one.client.delete(path, headers={"x-api-key": "ann"})
                assert gone.json()["deleted"] and not has(fleet.one, each)
            absent.clear()
            assert has(fleet.two, file)
            await reminders.follow()
            assert not has(fleet.two, file) and not has(fleet.two, late)
            put_again(fleet.two, file)
            await reminders.follow()
            assert not has(fleet.two, file)


def put_again(server: Neighbour, file: str) -> None:
    uploads = server.service.uploads
    assert uploads is not None
    now = time.time()
    uploads.put(Upload(file, "ann", "a", "user_data", 1, now, now + 60), io.BytesIO(b"a"))


async def delete_ann(server: Neighbour) -> dict[str, Any]:
    gone = await server.client.delete("/v1/users/ann", headers=BOSS)
    assert gone.status_code == 200, gone.text
    told: dict[str, Any] = gone.json()
    return told


async def test_a_user_is_deleted_at_all_that_are_there(two: Make) -> None:
    async with two() as fleet:
        files = [await sent(fleet.one), await sent(fleet.two)]
        told = await delete_ann(fleet.one)
        assert told["not_reached"] == [] and told["counts"]["files"] == 2
        assert not has(fleet.one, files[0]) and not has(fleet.two, files[1])


@pytest.mark.parametrize("how", ["does not answer", "is known to be gone"])
async def test_who_was_not_reached_is_named_and_deletes_later(two: Make, how: str) -> None:
    async with two() as fleet:
        file, others = await sent(fleet.two), await sent(fleet.two, "bob")
        made = await fleet.two.client.post(
            "/v1/containers", json={"name": "c"}, headers={"x-api-key": "ann"}
        )
        fleet.between.gone.add("two")
        if how == "is known to be gone":
            async with fleet.one.service.store.session() as db:
                await db.run("UPDATE replica SET seen = 0 WHERE home = 'http://two'")
        told = await delete_ann(fleet.one)
        assert told["not_reached"] == ["http://two"] and told["deleted"]
        assert has(fleet.two, file)
        new = await sent(fleet.two)
        await Reminders(fleet.two.service).follow()  # as at its start
        assert not has(fleet.two, file) and has(fleet.two, others)
        assert has(fleet.two, new), "what came after the deletion stays"
        path = f"/v1/containers/{made.json()['id']}"
        found = await fleet.two.client.get(path, headers={"x-api-key": "ann"})
        assert found.status_code == 404


@pytest.mark.parametrize("background", [False, True])
async def test_an_answer_that_was_running_brings_nothing_back(two: Make, background: bool) -> None:
    async with two() as fleet:
        fleet.two.engine.delay = 0.02
        body = {"input": "Hello", "background": background}
        ann = {"x-api-key": "ann"}
        asked = asyncio.create_task(fleet.two.client.post("/v1/responses", json=body, headers=ann))
        while not fleet.two.engine.has_work():
            await asyncio.sleep(0.005)
        fleet.between.gone.add("two")
        await delete_ann(fleet.one)
        await Reminders(fleet.two.service).follow()
        fleet.two.engine.delay = 0
        answer = await asked
        assert answer.status_code == 200, "who waits for it gets it"
        while fleet.two.service.access.running:
            await asyncio.sleep(0.005)
        found = await fleet.one.client.get(f"/v1/responses/{answer.json()['id']}", headers=ann)
        assert found.status_code == 404
        for each in (fleet.one, fleet.two):
            await each.service.ledger.settle_ended()
        async with fleet.one.service.store.session() as db:
            for table in ("entry", "account", "thought", "approved"):
                rows = await db.all(f"SELECT * FROM {table} WHERE owner = 'ann'")
                assert rows == [], table
        again = await fleet.two.client.post("/v1/responses", json={"input": "Hi"}, headers=ann)
        found = await fleet.one.client.get(f"/v1/responses/{again.json()['id']}", headers=ann)
        assert found.status_code == 200, "what she asks afterwards is kept"
        await fleet.two.service.ledger.settle_ended()
        rows = (await fleet.one.client.get("/v1/usage", headers=BOSS)).json()["data"]
        used = again.json()["usage"]
        spent = [[each["prompt_tokens"], each["output_tokens"]] for each in rows]
        assert spent == [[used["input_tokens"], used["output_tokens"]]]


async def test_a_server_that_comes_back_has_nothing_of_it_at_its_first_request(
    two: Make, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """It is told before it serves."""
    async with two() as fleet:
        file = await sent(fleet.two)
        fleet.between.gone.add("two")
        await delete_ann(fleet.one)
        settings = replace(fleet.two.service.settings, home="http://two")
        engine = ScriptedEngine([[1]])
        app = create_app(engine, tokenizer, settings, containers=Containers(tmp_path / "two"))
        async with app.router.lifespan_context(app):
            back = Neighbour(app, fleet.two.client, engine)
            assert not has(back, file)


async def test_one_that_cannot_be_deleted_keeps_no_other(
    two: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is tried again."""
    async with two() as fleet:
        service = fleet.two.service
        first, second = await sent(fleet.two), await sent(fleet.two)
        for file in (first, second):
            await service.forgotten.add("ann", file)
        uploads = service.uploads
        assert uploads is not None
        drop = uploads.drop
        reminders = Reminders(service)

        def broken(caller: str, id: str) -> None:
            if id == first:
                raise OSError(5, "Input/output error")
            drop(caller, id)

        with monkeypatch.context() as patched:
            patched.setattr(uploads, "drop", broken)
            with pytest.raises(OSError, match="Input"):
                await reminders.follow()
        assert has(fleet.two, first) and not has(fleet.two, second)
        await reminders.follow()
        assert not has(fleet.two, first)
