"""Valid requests of the tools that the server runs, mutated: whatever is wrong with one, its answer
is below 500, and the next valid one is answered.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from amounts import seeds
from hostile_bodies import mutate
from mcp_servers import pretended
from python_tools import python_tool
from responses_wire import CALL, FINAL, Server, serving

from ossia.server.hosted.mcp import McpServers
from ossia.tokenizer import Tokenizer
from ossia.tools.browser import Browser
from ossia.tools.browser.corpus import Corpus
from ossia.tools.containers import Containers, Rules

TEAM = {"type": "mcp", "server_label": "team", "require_approval": "always"}
WRITE = CALL.format("team.write_it", '{"text":"b"}')
DONE = FINAL.format("Done.")
CODE = {"type": "code_interpreter", "container": {"type": "auto"}}
SEARCH = {"type": "web_search", "source": "law", "filters": {"allowed_domains": ["a.example"]}}
FOUND = {
    "type": "web_search_call",
    "id": "ws_1",
    "status": "completed",
    "action": {"type": "search", "query": "rome", "sources": [{"type": "url", "url": "x"}]},
    "encrypted_content": "abc",
}
RAN = {
    "type": "code_interpreter_call",
    "id": "ci_1",
    "container_id": "cntr_1",
    "code": "1",
    "outputs": [{"type": "logs", "logs": "1"}],
    "status": "completed",
}
CALLED = {
    "type": "mcp_call",
    "id": "mcp_1",
    "server_label": "team",
    "name": "read",
    "arguments": "{}",
    "output": "x",
    "error": None,
}
LISTED = {
    "type": "mcp_list_tools",
    "id": "mcpl_1",
    "server_label": "team",
    "tools": [{"name": "read", "input_schema": {"type": "object"}}],
}
SAID = {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}


@pytest.fixture(scope="module")
def server(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    law = tmp_path_factory.mktemp("law")
    (law / "a.md").write_text("# Rome\n\nOld.\n")
    with python_tool(containers=Containers(rules=Rules(expires_after=600.0))) as python:
        python.containers.new_owner = python.new_owner
        team, _ = pretended()
        with serving(
            tokenizer,
            builtin=[python, Browser(sources={"law": Corpus.open(law)})],
            containers=python.containers,
            mcp=McpServers([team]),
        ) as made:
            yield made


@pytest.fixture(scope="module")
def bodies(server: Server) -> list[tuple[str, dict[str, Any]]]:
    """Each is answered by 200 as it is."""
    form = {"file": ("a.csv", b"a,b\n")}
    sent = server.client.post("/v1/files", files=form, data={"purpose": "user_data"}).json()["id"]
    upload = {"type": "container_upload", "file_id": sent}
    document = {"type": "document", "source": {"type": "file", "file_id": sent}}
    runs = {"type": "code_execution_20250522", "name": "code_execution"}
    server.says(WRITE, DONE)
    asked = server.create(tools=[TEAM])["output"][-1]
    assert asked["type"] == "mcp_approval_request"
    approves = {
        "type": "mcp_approval_response",
        "approval_request_id": asked["id"],
        "approve": True,
        "reason": "",
    }
    in_container = CODE | {"container": {"type": "auto", "file_ids": [sent], "memory_limit": "1g"}}
    file = {"type": "input_file", "file_id": sent, "filename": "a.csv"}
    with_file = {"role": "user", "content": [file]}
    chat = {"role": "user", "content": [{"type": "file", "file": {"file_id": sent}}]}
    return [
        ("/v1/responses", {"input": [SAID, asked, approves], "tools": [TEAM]}),
        ("/v1/responses", {"input": [SAID, LISTED, CALLED, FOUND, RAN], "tools": [TEAM, SEARCH]}),
        ("/v1/responses", {"input": [with_file], "tools": [in_container, SEARCH]}),
        ("/v1/responses/compact", {"input": [SAID, FOUND, RAN, CALLED], "instructions": "a"}),
        ("/v1/responses/input_tokens", {"input": [with_file, FOUND], "tools": [CODE, TEAM]}),
        (
            "/v1/messages",
            {
                "messages": [{"role": "user", "content": [upload, document]}],
                "max_tokens": 50,
                "tools": [runs],
                "container": None,
            },
        ),
        ("/v1/chat/completions", {"messages": [chat], "tools": [SEARCH], "max_tokens": 50}),
        (
            "/v1/containers",
            {
                "name": "a",
                "file_ids": [sent],
                "memory_limit": "1g",
                "expires_after": {"anchor": "last_active_at", "minutes": 5},
                "network_policy": {"type": "disabled"},
            },
        ),
    ]


def test_every_valid_one_is_answered(
    server: Server, bodies: list[tuple[str, dict[str, Any]]]
) -> None:
    server.says(DONE)
    for path, body in bodies:
        answer = server.client.post(path, json=body)
        assert answer.status_code == 200, (path, answer.text)


@pytest.mark.parametrize("seed", seeds(40))
def test_mutated_ones_are_no_500(
    server: Server, bodies: list[tuple[str, dict[str, Any]]], seed: int
) -> None:
    rng = random.Random(seed)
    server.says(DONE)
    for path, valid in bodies:
        body = copy.deepcopy(valid)
        for _ in range(rng.choice((1, 1, 2, 4))):
            if body:
                mutate(body, rng)
        sent = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        answer = server.client.post(path, content=sent, headers=headers)
        assert answer.status_code < 500, (path, sent[:2000], answer.text)
