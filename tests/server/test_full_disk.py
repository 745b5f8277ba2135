"""A disk without room: who asks is told so, with a 507, and the log has one line for it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from tiny_model import environment
from waited_store import waited

from ossia.errors import RequestError
from ossia.server import sealing
from ossia.server.store import store
from ossia.server.store.protocol import DiskFull

SAYS = "<|channel|>final<|message|>Hi<|return|>"
FULL = "the disk that responses are kept on is full"
TESTS = str(Path(__file__).parents[1])
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class FullDisk:
    """A connection that can read, and fails to write as SQLite does when there is no room."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def execute(self, query: str, *values: Any) -> Any:
        if query.split(maxsplit=1)[0] in ("INSERT", "UPDATE", "DELETE"):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self.db.execute(query, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)


REQUESTS: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "a conversation": ("POST", "/v1/conversations", None),
    "an item": ("POST", "{conversation}/items", {"items": [{"role": "user", "content": "x"}]}),
    "metadata": ("POST", "{conversation}", {"metadata": {"a": "b"}}),
    "an end": ("DELETE", "{conversation}", None),
    "a response": ("POST", "/v1/responses", {"input": "Hi"}),
    "a streamed one": ("POST", "/v1/responses", {"input": "Hi", "stream": True}),
    "one in the background": ("POST", "/v1/responses", {"input": "Hi", "background": True}),
}


@pytest.mark.parametrize("what", REQUESTS)
async def test_who_asks_is_told(client_for: Any, caplog: Any, what: str) -> None:
    method, path, body = REQUESTS[what]
    async with client_for(SAYS) as client:
        made = (await client.post("/v1/conversations")).json()["id"]
        store = client.app.state.service.store.database
        store._db = FullDisk(store._db)
        url = path.format(conversation=f"/v1/conversations/{made}")
        answer = await client.request(method, url, json=body)
        assert answer.status_code == 507, answer.text
        assert FULL in answer.json()["error"]["message"]
        assert answer.json()["error"]["code"] == "disk_full"
        assert client.engine.submitted == [], "no answer is made that could not be kept"
        lines = [r for r in caplog.records if r.levelname == "ERROR"]
        assert len(lines) == 1 and lines[0].exc_info is None and FULL in lines[0].getMessage()
        store._db = store._db.db
        assert (await client.request(method, url, json=body)).status_code == 200


async def test_what_needs_no_disk_is_answered(client_for: Any) -> None:
    async with client_for(SAYS) as client:
        store = client.app.state.service.store.database
        store._db = FullDisk(store._db)
        chat = {"messages": [{"role": "user", "content": "Hi"}]}
        assert (await client.post("/v1/chat/completions", json=chat)).status_code == 200
        unkept = {"input": "Hi", "store": False}
        assert (await client.post("/v1/responses", json=unkept)).status_code == 200
        assert (await client.get("/ready")).status_code == 200


async def test_a_disk_that_fills_up_meanwhile_costs_no_answer(client_for: Any, caplog: Any) -> None:
    async with client_for(SAYS) as client:
        store = client.app.state.service.store
        check = store.check_writable

        async def fill() -> None:
            await check()
            store.database._db = FullDisk(store.database._db)

        store.check_writable = fill
        answer = await client.post("/v1/responses", json={"input": "Hi"})
        assert answer.status_code == 200 and answer.json()["status"] == "completed"
        (line,) = [r for r in caplog.records if r.levelname == "ERROR"]
        assert "is not kept: " + FULL in line.getMessage() and line.exc_info is None


async def test_answers_that_could_not_be_kept_are_refused_before_they_are_made(
    client_for: Any, monkeypatch: Any
) -> None:
    """As of a PostgreSQL that has room for small writes only."""
    async with client_for(SAYS) as client:
        kept = client.app.state.service.store
        whole = kept._written
        has_room = False
        monkeypatch.setattr(store, "FULL", 3600.0)

        async def written(*given: Any, **named: Any) -> bool:
            if not has_room:
                raise DiskFull("the disk is full")
            return await whole(*given, **named)

        monkeypatch.setattr(kept, "_written", written)

        async def status() -> int:
            return (await client.post("/v1/responses", json={"input": "Hi"})).status_code

        assert await status() == 200  # made before anybody knew
        assert [await status() for _ in range(3)] == [507] * 3
        assert len(client.engine.submitted) == 1
        monkeypatch.setattr(store, "FULL", 0.0)
        assert await status() == 200  # the one that finds out
        has_room = True
        assert await status() == 200
        monkeypatch.setattr(store, "FULL", 3600.0)
        assert [await status() for _ in range(3)] == [200] * 3
        told = (await client.get("/metrics")).text
        assert 'store_errors_total{model_name="nano",operation="put"} 2.0' in told
        assert 'store_errors_total{model_name="nano",operation="check_writable"} 3.0' in told


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_any_other_file_too(client_for: Any, caplog: Any, number: int) -> None:
    async with client_for(SAYS) as client:

        @client.app.post("/writes")
        async def writes() -> None:
            raise OSError(number, os.strerror(number))

        answer = await client.post("/writes")
        assert answer.status_code == 507 and "disk is full" in answer.json()["error"]["message"]
        (line,) = [r for r in caplog.records if r.levelname == "ERROR"]
        assert line.exc_info is None


async def test_another_error_of_the_system_is_a_bug(client_for: Any) -> None:
    async with client_for(SAYS) as client:

        @client.app.post("/writes")
        async def writes() -> None:
            raise PermissionError(errno.EACCES, "no")

        assert (await client.post("/writes")).status_code == 500


def test_a_secret_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(descriptor: int, mode: str) -> Full:
        os.close(descriptor)
        return Full()

    path = tmp_path / "secret"
    with monkeypatch.context() as patch:
        patch.setattr(sealing, "open", opened, raising=False)
        with pytest.raises(RequestError, match="No space left"):
            sealing.read_secret(path)
    assert not list(tmp_path.iterdir())
    assert len(sealing.read_secret(path)) >= 16
    assert path.stat().st_mode & 0o777 == 0o600 and list(tmp_path.iterdir()) == [path]


def test_servers_that_start_together_have_one_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    made: list[bytes] = []

    def faster(descriptor: int, mode: str) -> IO[bytes]:
        """Between this server's look at the file and its own secret."""
        monkeypatch.undo()
        made.append(sealing.read_secret(path))
        return open(descriptor, mode)

    monkeypatch.setattr(sealing, "open", faster, raising=False)
    assert [sealing.read_secret(path)] == made
    assert list(tmp_path.iterdir()) == [path]


# ---- a real one ----------------------------------------------------------------------------------

CODE = """
import sys
from pathlib import Path
from ossia.server.store.protocol import DiskFull
from ossia.server.store.tables import StoredResponse
sys.path.append(sys.argv[2])
from waited_store import waited
folder = Path(sys.argv[1])
store = waited(folder / "s.db", 1e6, 1 << 30)
stored = StoredResponse("resp_1", "", {"status": "completed", "x": "x" * 20_000}, [], [])
store.put(stored)
(folder / "ballast").write_bytes(b"")
try:
    with open(folder / "ballast", "wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(512))
except OSError as error:
    print(error.errno)
try:
    for _ in range(100):
        store.new_conversation("", {"a": "x" * 400})
except DiskFull as error:
    print(error)
try:
    for _ in range(100):
        store.check_writable()
except DiskFull:
    print("full")
assert store.get("", "resp_1") is not None
(folder / "ballast").unlink()
store.check_writable()
store.close()
print(len(waited(folder / "s.db", 1e6, 1 << 30).get("", "resp_1").response["x"]))
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[list[str]]:
    """A command that runs another with 256 KiB mounted at `tmp_path`."""
    mount = f'mount -t tmpfs -o size=256k none {tmp_path} && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no file system may be mounted here")
    yield command


def test_a_disk_of_256_kib(small_disk: list[str], tmp_path: Path) -> None:
    command = [*small_disk, sys.executable, "-c", CODE, str(tmp_path), TESTS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    number, told, *rest = done.stdout.splitlines()
    assert int(number) == errno.ENOSPC and FULL in told and rest[-1] == "20000", done.stdout


def test_the_error_is_of_its_own_kind(tmp_path: Path) -> None:
    store = waited(tmp_path / "s.db", 1e6, 1 << 30)
    pages = store.db.execute("PRAGMA page_count").fetchone()[0]
    store.db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFull, match=FULL) as caught:
        store.new_conversation("", {"a": json.dumps(["x"] * 10_000)})
    assert caught.value.code == "disk_full"
    store.db.execute("PRAGMA max_page_count = 100000")
    store.new_conversation("", {"a": json.dumps(["x"] * 10_000)})
    store.close()
