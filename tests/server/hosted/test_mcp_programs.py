"""MCP servers' tools through the server, as clients use them: real programs and a real server over
HTTP, the official client, keys; and strangers that mean harm.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from python_tools import python_tool
from responses_wire import CALL, CODE, FINAL, Server, events_of, fold, nameless, serving

from ossia.server import Settings
from ossia.server.access import secret_digest
from ossia.server.hosted.mcp import McpServers
from ossia.server.settings import ApiKey, Limits
from ossia.tokenizer import Tokenizer
from ossia.tools.browser.transport import Guard
from ossia.tools.containers import Containers, Rules
from ossia.tools.mcp import McpConfig, McpServer
from ossia.tools.python import Python

pytest.importorskip("mcp")
STRANGER = Path(__file__).parents[2] / "tools" / "mcp" / "stranger.py"
RIGHTS: dict[str, frozenset[str] | None] = {
    "ann": None,
    "bob": frozenset({"mcp"}),
    "cid": frozenset({"mcp:remember"}),
    "dot": frozenset({"browser"}),
}
KEYS = tuple(ApiKey(name, secret_digest(name), Limits(tools=own)) for name, own in RIGHTS.items())
DONE = FINAL.format("Done.")
SEALED: Any = ["reasoning.encrypted_content"]


def declared(label: str, **more: Any) -> Any:
    return {"type": "mcp", "server_label": label, "require_approval": "never", **more}


def echo(label: str, text: str = "hi") -> str:
    return CALL.format(f"{label}.echo", f'{{"text":"{text}"}}')


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server that the package makes, over HTTP."""
    from mcp.server import MCPServer
    from mcp.types import ToolAnnotations

    notes = MCPServer("notes", instructions="Keeps notes.")
    kept: list[str] = []

    @notes.tool(annotations=ToolAnnotations(read_only_hint=True))
    def find(word: str) -> str:
        """Notes with a word."""
        return "; ".join(note for note in kept if word in note) or "nothing"

    @notes.tool()
    def keep(text: str) -> str:
        """Keeps a note."""
        kept.append(text)
        return f"kept {len(kept)}"

    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        app = notes.streamable_http_app()
        running = uvicorn.Server(uvicorn.Config(app, log_config=None))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [port]})
        thread.start()
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{port.getsockname()[1]}/mcp"
        finally:
            running.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def python() -> Iterator[Python]:
    with python_tool(containers=Containers(rules=Rules(expires_after=600.0))) as tool:
        tool.containers.new_owner = tool.new_owner
        yield tool


@pytest.fixture(scope="module")
def server(
    tokenizer: Tokenizer, python: Python, url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    states = tmp_path_factory.mktemp("states")

    def program(behaviour: str) -> McpServer:
        command = (sys.executable, "-S", str(STRANGER), behaviour, str(states / behaviour))
        return McpServer.connect(McpConfig(behaviour, command, approval="never"))

    hangs = program("hang")
    hasty = replace(hangs, config=replace(hangs.config, timeout=0.2))  # but not in connecting
    servers = [
        program("remember"),
        program("long"),
        program("crash"),
        program("controls"),
        program("garbage"),
        hasty,
        McpServer.connect(McpConfig("notes", url=url)),
    ]
    # tests' addresses are on this machine
    guard = Guard(allowed=lambda address: True, ports=None)
    mcp = McpServers(servers, strangers=True, guard=guard)
    settings = Settings(model_name="nano", keys=KEYS)
    with serving(
        tokenizer, settings, builtin=[python], containers=python.containers, mcp=mcp
    ) as made:
        yield made


Ask = Callable[..., Any]


@pytest.fixture
def ask(server: Server) -> Ask:
    """A response, by the official client: `ask(what the model says, ..., tools=[...])`."""

    def made(*texts: str, key: str = "ann", **more: Any) -> Any:
        server.says(*texts)
        client = openai.OpenAI(
            base_url="http://testserver/v1",
            api_key=key,
            http_client=server.client,
            max_retries=0,
        )
        return client.responses.create(**({"input": "Go.", "model": "nano"} | more))

    return made


def kinds(response: Any) -> list[str]:
    return [item.type for item in response.output]


def test_a_real_server_streamed_and_not(server: Server, ask: Ask) -> None:
    found = CALL.format("notes.find", '{"word":"a"}')
    plain = ask(found, DONE, tools=[declared("notes")])
    listed, called, message = plain.output
    assert [tool.name for tool in listed.tools] == ["find", "keep"] and listed.error is None
    assert (called.name, called.output, called.error) == ("find", "nothing", None)
    assert message.content[0].text == "Done."
    assert "Keeps notes." in server.prompt and "type find = (_: {" in server.prompt
    server.says(found, DONE)
    body = {"input": "Go.", "tools": [declared("notes")], "stream": True}
    headers = {"Authorization": "Bearer ann"}
    answer = server.client.post("/v1/responses", json=body, headers=headers)
    assert nameless(fold(events_of(answer.text))["output"]) == nameless(plain.to_dict()["output"])


def test_a_write_is_approved_first(ask: Ask) -> None:
    """Whatever the request says: the operator's file says writes."""
    kept = CALL.format("notes.keep", '{"text":"a rose"}')
    first = ask(kept, tools=[declared("notes")])
    asked = first.output[-1]
    assert (asked.type, asked.name) == ("mcp_approval_request", "keep")
    answer: Any = {
        "type": "mcp_approval_response",
        "approval_request_id": asked.id,
        "approve": True,
    }
    more = {"input": [answer], "tools": [declared("notes")], "previous_response_id": first.id}
    second = ask(DONE, **more)
    assert kinds(second) == ["mcp_call", "message"]
    assert second.output[0].output == "kept 1"
    assert second.output[0].approval_request_id == asked.id
    with pytest.raises(openai.BadRequestError, match="there is no response"):
        ask(DONE, key="bob", **more)
    with pytest.raises(openai.BadRequestError, match="is not of a call that this server asked you"):
        history = [{"role": "user", "content": "Go."}, asked.to_dict(), answer]
        ask(DONE, key="bob", **(more | {"input": history, "previous_response_id": None}))


def test_callers_have_connections_of_their_own(ask: Ask) -> None:
    tools = [declared("remember")]
    outputs = {
        (key, word): ask(echo("remember", word), DONE, key=key, tools=tools).output[1].output
        for word in ("one", "two")
        for key in ("ann", "bob", "cid")
    }
    assert outputs == {
        (key, word): seen
        for word, seen in (("one", "one"), ("two", "one,two"))
        for key in ("ann", "bob", "cid")
    }


@pytest.mark.parametrize(
    ("key", "label", "may"),
    [("cid", "remember", True), ("cid", "long", False), ("dot", "remember", False)],
)
def test_what_a_key_may_use(server: Server, ask: Ask, key: str, label: str, may: bool) -> None:
    response = ask(DONE, key=key, tools=[declared(label)])
    assert ("mcp_list_tools" in kinds(response)) is may
    assert bool(response.tools) is may
    assert (f"namespace {label}" in server.prompt) is may


def test_a_server_of_the_requests_own(server: Server, ask: Ask, url: str) -> None:
    tool = declared("mine", server_url=url, authorization="s3cret")
    found = CALL.format("mine.find", '{"word":"x"}')
    response = ask(found, DONE, key="bob", tools=[tool])
    assert kinds(response) == ["mcp_list_tools", "mcp_call", "message"]
    assert response.output[1].status == "completed"
    assert "s3cret" not in response.to_json() + server.prompt
    del tool["require_approval"]
    assert ask(found, tools=[tool]).output[-1].type == "mcp_approval_request"
    body = ask(DONE, key="cid", tools=[tool])  # it may use one of the operator's, no others
    assert (kinds(body), body.tools) == (["message"], [])
    metrics = server.client.get("/metrics", headers={"Authorization": "Bearer ann"}).text
    assert 'tool="mcp"' in metrics and "mine" not in metrics and 'tool="mcp:remember"' in metrics


@pytest.mark.parametrize("label", ["crash", "hang", "garbage"])
def test_a_hostile_server_costs_one_call(ask: Ask, label: str) -> None:
    response = ask(CALL.format(f"{label}.write", '{"text":"hi"}'), DONE, tools=[declared(label)])
    assert kinds(response) == ["mcp_list_tools", "mcp_call", "message"]
    called = response.output[1]
    assert (called.status, called.output) == ("failed", None) and called.error


def test_the_list_of_models_tells_what_a_key_may_use(server: Server) -> None:
    for key, own in (("cid", ["mcp:remember"]), ("dot", [])):
        headers = {"Authorization": f"Bearer {key}"}
        (model,) = server.client.get("/v1/models", headers=headers).json()["data"]
        assert model["tools"] == own


def test_control_tokens_are_text(server: Server, ask: Ask) -> None:
    ask(echo("controls"), DONE, tools=[declared("controls")])
    special = server.tokenizer.specials["<|start|>"]
    # system, developer, user, the call, its result, and the answer that begins
    assert list(server.engine.submitted[-1]).count(special) == 6


def test_a_long_result_is_a_file_of_the_container(ask: Ask) -> None:
    tools = [declared("long"), {"type": "code_interpreter", "container": {"type": "auto"}}]
    first = ask(echo("long"), DONE, tools=tools)
    output = first.output[1].output
    assert "characters left out" in output and len(output) < 33_000
    path = output.rpartition("the whole result is in ")[2].rstrip("]")
    assert path.startswith("/mnt/data/echo-")
    code = CODE.format(f"print(len(open('{path}').read()))")
    more = {"previous_response_id": first.id, "include": ["code_interpreter_call.outputs"]}
    second = ask(code, DONE, tools=tools, **more)
    assert second.output[0].outputs[0].logs == "100000\n"
    alone = ask(echo("long"), DONE, tools=[declared("long")])
    assert "/mnt/data" not in alone.output[1].output


def test_sealed_calls_bring_back_what_the_model_read(server: Server, ask: Ask) -> None:
    tools = [declared("notes")]
    first = ask(
        CALL.format("notes.find", '{"word":"zzz"}'), DONE, tools=tools, store=False, include=SEALED
    )
    before = server.prompt
    sent = [item.to_dict() for item in first.output]
    sent[1] |= {"output": "something else", "arguments": "{}"}  # what was sealed counts
    history = [{"role": "user", "content": "Go."}, *sent, {"role": "user", "content": "And?"}]
    ask(DONE, tools=tools, input=history)
    said = before.removesuffix("<|start|>assistant")
    assert server.prompt.startswith(said)
