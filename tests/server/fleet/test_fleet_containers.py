"""Containers and files of one replica, asked for at another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from ossia.server.sealing import Sealer

from .conftest import Pair, two_servers

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
CODE = "<|channel|>analysis to=python code<|message|>{}<|call|>"
FINAL = "<|channel|>final<|message|>{}<|return|>"
INTERPRETER = {"type": "code_interpreter", "container": {"type": "auto"}}
INCLUDE = ["code_interpreter_call.outputs", "reasoning.encrypted_content"]
DATA = b"a,b\n1,2\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def pair(new_database: str, tmp_path: Path) -> Iterator[Pair]:
    """The first says two answers with code; the second one, when the first is gone."""
    said = {
        "one": [CODE.format("x = 41"), FINAL.format("One."), CODE.format("print(x + 1)")],
        "two": [CODE.format("print('x' in globals())"), FINAL.format("Gone.")],
    }
    said["one"].append(FINAL.format("Two."))
    options = []
    for name, texts in said.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(b"\n".join(orjson.dumps({"text": text}) for text in texts))
        options.append(("--script", str(path), "--tools", "python"))
    with two_servers(new_database, tmp_path, *options) as made:
        yield made


def told(answer: httpx.Response) -> tuple[str, str]:
    """What the code printed, and what the model said."""
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["output"]
    code = next(item for item in items if item["type"] == "code_interpreter_call")
    text = next(item for item in items if item["type"] == "message")
    logs = "".join(each.get("logs", "") for each in code["outputs"] or ())
    return logs, text["content"][0]["text"]


def ask(client: httpx.Client, **more: Any) -> httpx.Response:
    body = {"input": "Go on.", "tools": [INTERPRETER], "include": INCLUDE} | more
    return client.post("/v1/responses", json=body)


def test_code_goes_on_where_its_container_is(pair: Pair, tmp_path: Path) -> None:
    with (
        httpx.Client(base_url=pair.one.url, timeout=60) as one,
        httpx.Client(base_url=pair.two.url, timeout=60) as two,
    ):
        first = ask(one)
        assert told(first)[1] == "One."
        second = ask(two, previous_response_id=first.json()["id"])
        assert told(second) == ("42\n", "Two."), "it was answered there"
        stored = two.get(f"/v1/responses/{second.json()['id']}").json()
        assert stored["status"] == "completed"
        pair.one.process.kill()
        pair.one.process.wait()
        third = ask(two, previous_response_id=second.json()["id"])
        assert third.status_code == 503 and "ask again" in third.text
        while third.status_code == 503:
            third = ask(two, previous_response_id=second.json()["id"])
        assert told(third) == ("False\n", "Gone.")
        (code,) = (item for item in third.json()["output"] if "code" in item)
        shown = Sealer((tmp_path / "secret").read_bytes().strip()).of("")
        assert "files are gone" in shown.open(code["encrypted_content"]), "the model is told"


def test_files_are_found_from_everywhere(pair: Pair) -> None:
    with (
        httpx.Client(base_url=pair.one.url, timeout=60) as one,
        httpx.Client(base_url=pair.two.url, timeout=60) as two,
    ):
        made = [each.post("/v1/containers", json={"name": "c"}).json()["id"] for each in (one, two)]
        for each in (one, two):
            listed = each.get("/v1/containers?order=asc").json()["data"]
            assert sorted(item["id"] for item in listed) == sorted(made)
        path = f"/v1/containers/{made[0]}"
        put = two.post(f"{path}/files", files={"file": ("t.csv", DATA)})
        assert put.status_code == 200 and put.json()["container_id"] == made[0]
        content = two.get(f"{path}/files/{put.json()['id']}/content")
        assert content.content == DATA and "t.csv" in content.headers["content-disposition"]
        sent = one.post(
            "/v1/files", files={"file": ("s.txt", DATA)}, data={"purpose": "user_data"}
        ).json()["id"]
        assert two.get(f"/v1/files/{sent}/content").content == DATA
        part = {"type": "input_file", "file_id": sent}
        given = [{"type": "message", "role": "user", "content": [part]}]
        used = two.post("/v1/responses/input_tokens", json={"input": given})
        assert used.status_code == 200, used.text
        for each in (one, two):
            assert [item["id"] for item in each.get("/v1/files").json()["data"]] == [sent]
        assert two.delete(f"/v1/files/{sent}").json()["deleted"]
        assert two.get(f"/v1/files/{sent}").status_code == 404
        assert two.delete(path).json()["deleted"] and one.get(path).status_code == 404
        assert two.get("/v1/containers/cntr_" + "0" * 32).status_code == 404
