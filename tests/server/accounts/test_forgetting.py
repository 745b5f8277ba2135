"""DELETE /v1/users/{id}: nothing of a user's remains, everything of others does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from responses_wire import Python

from ossia.server import Settings
from ossia.server.access import secret_digest
from ossia.server.settings import ApiKey, Limits, Retention
from ossia.tools.containers import Containers

MARKER = "Xq7-marker-of-ann"
OTHER = "Zk3-marker-of-bob"
CALL = (
    "<|channel|>analysis<|message|>{0} thought<|end|><|start|>assistant<|channel|>commentary "
    'to=functions.f<|message|>{{"x": "{0}"}}<|call|>'
)
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
CHAT_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
KEYS = (
    ApiKey("ann", secret_digest("ann")),
    ApiKey("bob", secret_digest("bob")),
    ApiKey("boss", secret_digest("boss"), Limits(admin=True)),
)
BOSS = {"x-api-key": "boss"}
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def leave_traces(client: Any, name: str, marker: str) -> dict[str, str]:
    """Whatever a user can leave behind; paths at which it is found."""
    headers = {"x-api-key": name}

    async def post(path: str, **body: Any) -> Any:
        answer = await client.post(path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    conversation = await post("/v1/conversations", metadata={"topic": marker})
    item = {"type": "message", "role": "user", "content": marker}
    await post(f"/v1/conversations/{conversation['id']}/items", items=[item])
    made = await post("/v1/responses", input=f"{marker} " * 3000, tools=[TOOL])
    await post("/v1/responses", input=marker, tools=[TOOL], conversation=conversation["id"])
    await post("/v1/responses", input=marker, tools=[TOOL], background=True)
    messages = [{"role": "user", "content": marker}]
    await post("/v1/chat/completions", messages=messages, tools=[CHAT_TOOL])
    container = await post("/v1/containers", name=marker)
    files = {"file": (f"{marker}.txt", marker.encode(), "text/plain")}
    sent = await client.post(
        "/v1/files", files=files, data={"purpose": "user_data"}, headers=headers
    )
    assert sent.status_code == 200, sent.text
    await client.post(f"/v1/containers/{container['id']}/files", files=files, headers=headers)
    return {
        "response": f"/v1/responses/{made['id']}",
        "conversation": f"/v1/conversations/{conversation['id']}",
        "container": f"/v1/containers/{container['id']}",
        "file": f"/v1/files/{sent.json()['id']}",
    }


def bytes_in(folder: Path, text: str) -> list[str]:
    """Files that have it, in their names or anywhere in their bytes."""
    found = []
    for path in folder.rglob("*"):
        if text in path.name or (path.is_file() and text.encode() in path.read_bytes()):
            found.append(path.name)
    return found


async def test_nothing_of_a_user_remains(client_for: Any, tmp_path: Path) -> None:
    """Neither in answers nor anywhere in the files: not in free pages, not in SQLite's log."""
    settings = Settings(keys=KEYS, store_path=tmp_path / "store" / "s.db")
    containers = Containers(tmp_path / "containers")
    texts = [CALL.format(MARKER)] * 4 + [CALL.format(OTHER)]
    async with client_for(
        *texts, settings=settings, containers=containers, builtin=[Python()]
    ) as client:
        of_ann = await leave_traces(client, "ann", MARKER)
        of_bob = await leave_traces(client, "bob", OTHER)
        assert {"s.db", "s.db-wal"} & set(bytes_in(tmp_path, MARKER))
        gone = await client.delete("/v1/users/ann", headers=BOSS)
        assert gone.status_code == 200, gone.text
        counts = gone.json()["counts"]
        assert counts.pop("background_runs") in (0, 1) and counts.pop("usage_rows") > 0
        assert counts == {
            "responses": 3,
            "conversations": 1,
            "items": 4,
            "approved_calls": 0,
            "thoughts": 4,
            "containers": 1,
            "files": 1,
        }
        assert not bytes_in(tmp_path, MARKER)
        for path in of_ann.values():
            answer = await client.get(path, headers={"x-api-key": "ann"})
            assert answer.status_code == 404, path
        for path in of_bob.values():
            assert (await client.get(path, headers={"x-api-key": "bob"})).status_code == 200, path
        assert bytes_in(tmp_path, OTHER)
        usage = (await client.get("/v1/usage", headers=BOSS)).json()["data"]
        assert [each["key"] for each in usage] == ["bob"]
        again = await client.delete("/v1/users/ann", headers=BOSS)
        assert again.status_code == 200 and not any(again.json()["counts"].values())
        odd = await client.delete("/v1/users/user:a/b%20c@example.org", headers=BOSS)
        assert odd.json()["id"] == "user:a/b c@example.org"


async def test_answers_that_run_are_not_kept_afterwards(client_for: Any) -> None:
    """What runs in the background is stopped; who is being answered directly has to end first."""
    async with client_for([7] * 10_000, settings=Settings(keys=KEYS)) as client:
        client.engine.delay = 0.002
        ann = {"x-api-key": "ann"}
        body = {"input": "x", "background": True}
        run = (await client.post("/v1/responses", json=body, headers=ann)).json()
        asked = asyncio.create_task(client.post("/v1/responses", json={"input": "x"}, headers=ann))
        while client.app.state.access.running < 2:
            await asyncio.sleep(0.01)
        refused = await client.delete("/v1/users/ann", headers=BOSS)
        assert refused.status_code == 409 and refused.json()["error"]["code"] == "user_is_active"
        asked.cancel()
        while client.app.state.access.running:
            await asyncio.sleep(0.01)
        assert (await client.delete("/v1/users/ann", headers=BOSS)).status_code == 200
        found = await client.get(f"/v1/responses/{run['id']}", headers=ann)
        assert found.status_code == 404


async def test_what_is_too_old_goes_while_nobody_asks(
    client_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind at its time, and its bytes with it."""
    from ossia.server.accounts.chores import sweep

    kept = Retention(responses=100, conversations=200, files=300, containers=400)
    settings = Settings(keys=KEYS, store_path=tmp_path / "s.db", retention=kept)
    containers = Containers(tmp_path / "containers")
    async with client_for(
        CALL.format(MARKER), settings=settings, containers=containers, builtin=[Python()]
    ) as client:
        paths = await leave_traces(client, "ann", MARKER)
        service = client.app.state.service
        now = service.store.clock()
        for place in (service.store, containers, service.uploads):
            place.clock = lambda: now + passed
        for kind, seconds in (
            ("response", 100), ("conversation", 200), ("file", 300), ("container", 400),
        ):  # fmt: skip
            for passed, status in ((seconds - 20, 200), (seconds + 1, 404)):
                await sweep(service)
                found = await client.get(paths[kind], headers={"x-api-key": "ann"})
                assert found.status_code == status, (kind, passed)
        passed = 4000  # reasoning that led to calls is kept for an hour
        await sweep(service)
        await service.store.scrub()
        containers.settle()
        assert not bytes_in(tmp_path, MARKER)


@pytest.mark.slow
async def test_nothing_remains_in_a_shared_database(
    client_for: Any, new_database: str, tmp_path: Path
) -> None:
    """Not in a row; and once the database has made new files, not in these."""
    import asyncpg

    settings = Settings(keys=KEYS, store_url=new_database, secret=b"s" * 16)
    made = {"containers": Containers(tmp_path), "builtin": [Python()]}
    texts = [CALL.format(MARKER)] * 4 + [CALL.format(OTHER)]
    async with client_for(*texts, settings=settings, **made) as client:
        await leave_traces(client, "ann", MARKER)
        other = {"x-api-key": "bob"}
        assert (await client.post("/v1/responses", json={"input": OTHER}, headers=other)).json()
        gone = await client.delete("/v1/users/ann", headers=BOSS)
        assert gone.status_code == 200 and gone.json()["counts"]["responses"] == 3
        database = await asyncpg.connect(new_database)
        try:
            owners = set()
            for table in ("entry", "approved", "thought", "account"):
                owners |= {row[0] for row in await database.fetch(f"SELECT owner FROM {table}")}
            assert owners == {"bob"}
            for table in ("item", "part"):
                query = f"SELECT count(*) FROM {table} WHERE entry NOT IN (SELECT key FROM entry)"
                assert await database.fetchval(query) == 0
            await database.execute("VACUUM FULL")
            await database.execute("CHECKPOINT")
            found = []
            files = "SELECT pg_relation_filepath(oid), relname FROM pg_class"
            for name, relation in await database.fetch(f"{files} WHERE relkind IN ('r', 'i', 't')"):
                data = await database.fetchval("SELECT pg_read_binary_file($1)", name)
                found += [relation] if MARKER.encode() in data else []
            assert not found
        finally:
            await database.close()
