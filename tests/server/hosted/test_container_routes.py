"""/v1/containers with the official client: each key's own, files in and out, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from responses_wire import Python, Server, serving

from ossia.server import Settings
from ossia.server.access import secret_digest
from ossia.server.settings import ApiKey, Limits
from ossia.tokenizer import Tokenizer
from ossia.tools.containers import Containers, Rules


def key(name: str, **limits: Any) -> ApiKey:
    return ApiKey(name, secret_digest(f"secret of {name}"), Limits(**limits))


KEYS = (
    key("ann"),
    key("bob"),
    key("two", containers=2),
    key("reader", tools=frozenset({"browser"})),
)


@pytest.fixture(scope="module")
def containers() -> Containers:
    return Containers(rules=Rules(quota=1 << 20, memory=2 << 30))


@pytest.fixture(scope="module")
def server(tokenizer: Tokenizer, containers: Containers) -> Iterator[Server]:
    settings = Settings(model_name="nano", keys=KEYS)
    with serving(tokenizer, settings, builtin=[Python()], containers=containers) as made:
        yield made


def client(server: Server, name: str) -> openai.OpenAI:
    return openai.OpenAI(
        base_url="http://testserver/v1",
        api_key=f"secret of {name}",
        http_client=server.client,
        max_retries=0,
    )


@pytest.fixture
def ann(server: Server) -> openai.OpenAI:
    return client(server, "ann")


@pytest.fixture
def bob(server: Server) -> openai.OpenAI:
    return client(server, "bob")


def test_a_container_from_its_beginning_to_its_end(ann: openai.OpenAI) -> None:
    made = ann.containers.create(name="report")
    assert (made.name, made.status, made.object) == ("report", "running", "container")
    assert made.expires_after is not None and made.expires_after.minutes == 20
    assert made.id in [each.id for each in ann.containers.list()]
    assert ann.containers.retrieve(made.id).id == made.id
    ann.containers.delete(made.id)
    with pytest.raises(openai.NotFoundError) as gone:
        ann.containers.retrieve(made.id)
    assert gone.value.code == "container_expired"


def test_files_go_in_and_out(ann: openai.OpenAI, containers: Containers) -> None:
    id = ann.containers.create(name="files").id
    sent = ann.containers.files.create(id, file=("../..\\a b.html", b"<script>1</script>"))
    assert (sent.path, sent.bytes, sent.source) == ("/mnt/data/a b.html", 18, "user")
    container = containers.get("ann", id)
    (container.area.path / "made.txt").write_text("by code")
    listed = ann.containers.files.list(id).data
    assert {each.path: each.source for each in listed} == {
        "/mnt/data/a b.html": "user",
        "/mnt/data/made.txt": "assistant",
    }
    assert ann.containers.files.retrieve(sent.id, container_id=id).path == sent.path
    content = ann.containers.files.content.retrieve(sent.id, container_id=id)
    assert content.read() == b"<script>1</script>"
    headers = content.response.headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-disposition"].startswith("attachment")
    ann.containers.files.delete(sent.id, container_id=id)
    with pytest.raises(openai.NotFoundError):
        ann.containers.files.content.retrieve(sent.id, container_id=id)


def test_links_out_of_it_are_not_followed(
    ann: openai.OpenAI, containers: Containers, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    id = ann.containers.create(name="links").id
    container = containers.get("ann", id)
    (container.area.path / "link").symlink_to(secret)
    assert not ann.containers.files.list(id).data
    with pytest.raises(openai.NotFoundError):
        ann.containers.files.content.retrieve(container.file_id("link"), container_id=id)


def test_another_key_sees_nothing(ann: openai.OpenAI, bob: openai.OpenAI) -> None:
    id = ann.containers.create(name="hers").id
    file = ann.containers.files.create(id, file=("a.txt", b"a"))
    assert id not in [each.id for each in bob.containers.list()]
    for ask in (
        lambda: bob.containers.retrieve(id),
        lambda: bob.containers.delete(id),
        lambda: bob.containers.files.list(id),
        lambda: bob.containers.files.create(id, file=("b.txt", b"b")),
        lambda: bob.containers.files.content.retrieve(file.id, container_id=id),
    ):
        with pytest.raises(openai.NotFoundError) as refused:
            ask()
        assert refused.value.code == "container_not_found"


def test_what_a_container_may_be_asked_for(ann: openai.OpenAI) -> None:
    made = ann.containers.create(
        name="small",
        memory_limit="1g",
        expires_after={"anchor": "last_active_at", "minutes": 5},
        network_policy={"type": "disabled"},
    )
    assert made.memory_limit == "1g"
    assert made.expires_after is not None and made.expires_after.minutes == 5
    large = ann.containers.create(
        name="large",
        memory_limit="64g",
        expires_after={"anchor": "last_active_at", "minutes": 600},
    )
    assert large.to_dict()["memory_limit"] == "2g", "what the operator gives"
    assert large.expires_after is not None and large.expires_after.minutes == 20


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": "x", "network_policy": {"type": "allowlist"}}, "network_policy.type"),
        ({"name": "x", "file_ids": ["file_1"]}, "file_ids"),
        ({"name": "x", "memory_limit": "2t"}, "memory_limit"),
        ({"name": "x", "expires_after": {"anchor": "created_at", "minutes": 1}}, None),
    ],
)
def test_what_makes_no_sense_is_refused(server: Server, body: Any, param: str | None) -> None:
    headers = {"Authorization": "Bearer secret of ann"}
    answer = server.client.post("/v1/containers", json=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert param is None or answer.json()["error"]["param"] == param


@pytest.mark.parametrize("charset", ["utf-7", "unicode_escape", "punycode", "undefined"])
def test_names_of_files_are_utf8(server: Server, charset: str) -> None:
    headers = {"Authorization": "Bearer secret of ann"}
    made = server.client.post("/v1/containers", json={"name": "x"}, headers=headers).json()
    form = f"multipart/form-data; charset={charset}; boundary=b"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="+2AA-\\ud800"\r\n\r\nx'
    sent = server.client.post(
        f"/v1/containers/{made['id']}/files",
        content=part + b"\r\n--b--\r\n",
        headers=headers | {"Content-Type": form},
    )
    assert sent.status_code == 400 and "UTF-8" in sent.json()["error"]["message"]


def test_a_number_that_no_clock_has(server: Server) -> None:
    after = {"anchor": "last_active_at", "minutes": 10**400}
    body = {"name": "x", "expires_after": after}
    headers = {"Authorization": "Bearer secret of ann"}
    assert server.client.post("/v1/containers", json=body, headers=headers).status_code == 400


def test_a_file_that_is_too_large_or_missing(ann: openai.OpenAI, server: Server) -> None:
    id = ann.containers.create(name="full").id
    with pytest.raises(openai.APIStatusError) as large:
        ann.containers.files.create(id, file=("a.bin", b"x" * (2 << 20)))
    assert large.value.status_code == 413
    headers = {"Authorization": "Bearer secret of ann"}
    path = f"/v1/containers/{id}/files"
    unknown = server.client.post(path, headers=headers, json={"file_id": "file-1"})
    assert unknown.status_code == 404 and unknown.json()["error"]["param"] == "file_id"
    for sent in (
        {"json": {"file_id": 3}},
        {"json": []},
        {"files": {"other": b"x"}},
        {"data": {"a": "b"}},
    ):
        answer = server.client.post(path, headers=headers, **sent)  # type: ignore[arg-type]
        assert answer.status_code == 400, answer.text


def test_a_key_has_so_many(server: Server) -> None:
    two = client(server, "two")
    for name in ("a", "b"):
        two.containers.create(name=name)
    with pytest.raises(openai.RateLimitError) as refused:
        two.containers.create(name="c")
    assert refused.value.code == "container_too_many"


def test_a_key_that_may_not_run_code(server: Server) -> None:
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client(server, "reader").containers.create(name="x")
    assert refused.value.code == "tool_not_allowed"


def test_a_server_that_runs_no_code(tokenizer: Tokenizer) -> None:
    with serving(tokenizer, builtin=[]) as server:
        answer = server.client.get("/v1/containers")
    assert answer.status_code == 404 and "--tools" in answer.json()["error"]["message"]


def test_the_gauge(server: Server, containers: Containers) -> None:
    headers = {"Authorization": "Bearer secret of ann"}
    text = server.client.get("/metrics", headers=headers).text
    assert f'ossia:containers{{model_name="nano"}} {float(containers.count)}' in text
