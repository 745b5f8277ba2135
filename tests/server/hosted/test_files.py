"""/v1/files with the official client: each key's own, kept over a restart, within limits."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from responses_wire import Python, Server, serving

from ossia.errors import ContainerError
from ossia.server import Settings
from ossia.server.access import secret_digest
from ossia.server.hosted.attached import Attached
from ossia.server.hosted.uploads import UploadRules, Uploads
from ossia.server.settings import ApiKey, Limits
from ossia.server.wire.documents import Sent
from ossia.tokenizer import Tokenizer
from ossia.tools import SessionKey
from ossia.tools.containers import Containers, file_name

KEYS = tuple(
    ApiKey(name, secret_digest(name), Limits(tools=tools))
    for name, tools in (("ann", None), ("bob", None), ("reader", frozenset({"browser"})))
)


@pytest.fixture(scope="module")
def server(tokenizer: Tokenizer) -> Iterator[Server]:
    settings = Settings(model_name="nano", keys=KEYS)
    with serving(tokenizer, settings, builtin=[Python()], containers=Containers()) as made:
        yield made


def client(server: Server, name: str) -> openai.OpenAI:
    return openai.OpenAI(
        base_url="http://testserver/v1", api_key=name, http_client=server.client, max_retries=0
    )


@pytest.fixture
def ann(server: Server) -> openai.OpenAI:
    return client(server, "ann")


def test_a_file_from_its_beginning_to_its_end(ann: openai.OpenAI) -> None:
    made = ann.files.create(file=("../a\\b c.csv", b"1,2\n"), purpose="user_data")
    facts = (made.filename, made.bytes, made.purpose, made.status, made.object)
    assert facts == ("b c.csv", 4, "user_data", "processed", "file")
    assert made.id in [each.id for each in ann.files.list(purpose="user_data")]
    assert made.id not in [each.id for each in ann.files.list(purpose="assistants")]
    assert ann.files.retrieve(made.id) == made
    content = ann.files.content(made.id)
    assert content.read() == b"1,2\n"
    headers = content.response.headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"].startswith("attachment")
    assert ann.files.delete(made.id).deleted
    for gone in (ann.files.retrieve, ann.files.content, ann.files.delete):
        with pytest.raises(openai.NotFoundError):
            gone(made.id)


def test_lists_have_pages(ann: openai.OpenAI) -> None:
    ids = [ann.files.create(file=(f"{n}", b"x"), purpose="assistants").id for n in range(5)]
    listed = [each.id for each in ann.files.list(limit=2, purpose="assistants", order="asc")]
    assert listed == ids


def test_another_key_sees_nothing(server: Server, ann: openai.OpenAI) -> None:
    made = ann.files.create(file=("a.txt", b"a"), purpose="user_data")
    bob = client(server, "bob")
    assert not bob.files.list().data
    for ask in (bob.files.retrieve, bob.files.content, bob.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(made.id)
    container = bob.containers.create(name="his").id
    with pytest.raises(openai.NotFoundError):
        bob.containers.files.create(container, file_id=made.id)
    with pytest.raises(openai.BadRequestError):
        bob.containers.create(name="his", file_ids=[made.id])
    with pytest.raises(openai.PermissionDeniedError):
        client(server, "reader").files.create(file=("a.txt", b"a"), purpose="user_data")


def test_files_go_into_containers(ann: openai.OpenAI) -> None:
    made = ann.files.create(file=("a.txt", b"first"), purpose="user_data")
    id = ann.containers.create(name="filled", file_ids=[made.id]).id
    (first,) = ann.containers.files.list(id).data
    assert (first.path, first.source) == ("/mnt/data/a.txt", "user")
    other = ann.files.create(file=("b.txt", b"second"), purpose="user_data")
    sent = ann.containers.files.create(id, file_id=other.id)
    assert (sent.path, sent.bytes, sent.source) == ("/mnt/data/b.txt", 6, "user")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "spying"}, "purpose"),
        ({"purpose": "user_data", "expires_after[seconds]": "4000"}, "expires_after[anchor]"),
        (
            {
                "purpose": "user_data",
                "expires_after[anchor]": "created_at",
                "expires_after[seconds]": "²",
            },
            "expires_after[seconds]",
        ),
    ],
)
def test_forms_that_make_no_sense(server: Server, fields: dict[str, str], param: str) -> None:
    headers = {"Authorization": "Bearer ann"}
    files = {"file": ("a.txt", b"a")}
    post: Any = server.client.post
    refused = post("/v1/files", data=fields, files=files, headers=headers)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    refused = post("/v1/files", json=fields, headers=headers)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "file")


def test_a_file_may_go_earlier(ann: openai.OpenAI) -> None:
    made = ann.files.create(
        file=("a.txt", b"a"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert made.expires_at is not None and made.expires_at - made.created_at == 3600


# ---- the folder ----


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_they_outlast_a_restart_until_they_expire(tmp_path: Path) -> None:
    clock = Clock()
    uploads = Uploads(tmp_path, UploadRules(expires_after=60.0), clock)
    made = uploads.add("ann", "a.txt", "user_data", io.BytesIO(b"abc"))
    short = uploads.add("ann", "b.txt", "user_data", io.BytesIO(b"b"), 10)
    (tmp_path / f"file-{'0' * 32}.data").write_bytes(b"half of one")
    (tmp_path / f"file-{'1' * 32}.json").write_bytes(b"{")
    (tmp_path / "notes.txt").write_text("somebody else's")
    again = Uploads(tmp_path, UploadRules(expires_after=60.0), clock)
    assert again.of_caller("ann") == sorted([made, short], key=lambda each: each.id)
    with again.open(made) as file:
        assert file.read() == b"abc"
    clock.now += 10
    assert again.of_caller("ann") == [made]
    clock.now += 50
    assert not again.of_caller("ann")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


DAMAGE = (
    {"expires": None},
    {"expires": "soon"},
    {"created": [1]},
    {"bytes": "8"},
    {"caller": None},
    {"name": 3},
    {"more": 1, "expires": float("nan")},
)


@pytest.mark.parametrize("damage", DAMAGE, ids=repr)
def test_what_is_damaged_on_the_disk_is_no_file(tmp_path: Path, damage: dict[str, Any]) -> None:
    """And is in nobody's way."""
    uploads = Uploads(tmp_path)
    whole = uploads.add("ann", "a", "user_data", io.BytesIO(b"a"))
    other = uploads.add("ann", "b", "user_data", io.BytesIO(b"b"))
    about = tmp_path / f"{other.id}.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | damage))
    again = Uploads(tmp_path)
    assert again.of_caller("ann") == [whole]
    again.add("ann", "c", "user_data", io.BytesIO(b"c"))
    assert not about.exists()


def test_there_is_so_much_room(tmp_path: Path) -> None:
    rules = UploadRules(quota=10, files=2, most=15)
    uploads = Uploads(tmp_path, rules)
    first = uploads.add("ann", "a", "user_data", io.BytesIO(b"x" * 8))

    def refused(caller: str, size: int) -> str | None:
        with pytest.raises(ContainerError) as error:
            uploads.add(caller, "b", "user_data", io.BytesIO(b"x" * size))
        return error.value.code

    assert refused("ann", 3) == refused("bob", 8) == "too_large"
    uploads.add("ann", "b", "user_data", io.BytesIO(b"xx"))
    assert refused("ann", 0) == "too_many"
    uploads.delete("ann", first.id)
    uploads.add("bob", "c", "user_data", io.BytesIO(b"x" * 10))
    assert len(list(tmp_path.iterdir())) == 4


def test_few_bytes_do_not_stand_for_any_number_of_files(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    made = uploads.add("ann", "a", "user_data", io.BytesIO(b"x" * 8))
    attached = Attached("ann", uploads, files=True, left=20)
    assert attached.named(made.id) == attached.named(made.id) == ("a", b"x" * 8)
    with pytest.raises(ContainerError, match="together"):
        attached.named(made.id)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("the client is gone")

    uploads = Uploads(tmp_path, UploadRules(quota=10))
    with pytest.raises(OSError, match="gone"):
        uploads.add("ann", "a", "user_data", Broken(b"x" * 10))
    assert not list(tmp_path.iterdir())
    uploads.add("ann", "a", "user_data", io.BytesIO(b"x" * 10))  # its room is free again


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("data.csv", "data.csv"),
        ("C:\\Users\\ann\\a b.csv", "a b.csv"),
        ("/etc/../x/..", "file"),
        ("", "file"),
        ("a\n\x1b[2K\u202eb\ud800.txt", "a[2Kb.txt"),
        ("é" * 300 + ".csv", "é" * 98 + ".csv"),
        ("x" * 3_000_000, "x" * 200),  # not by taking away one after the other
    ],
)
def test_names_of_files_from_outside(given: str, name: str) -> None:
    assert file_name(given) == name


async def test_no_file_is_put_over_another(anyio_backend: str) -> None:
    """In a container that two conversations share. The same one may come again, changed or not."""
    containers = Containers()
    shared = SessionKey("ann", "a conversation", containers.create("ann").id)

    async def attach(text: bytes) -> None:
        attached = Attached("ann", files=True)
        assert attached.put(Sent("data.csv", text)) == "/mnt/data/data.csv"
        await attached.fill(containers, shared)

    await attach(b"one")
    with pytest.raises(ContainerError, match=r"another file 'data\.csv' already") as refused:
        await attach(b"two")
    assert refused.value.code == "name_taken"
    area = containers.of("ann", shared.container).area
    with area.open("data.csv") as file:
        assert file.read() == b"one"
    area.write("data.csv", io.BytesIO(b"changed by code"), 100)
    await attach(b"one")
    with area.open("data.csv") as file:
        assert file.read() == b"changed by code"
