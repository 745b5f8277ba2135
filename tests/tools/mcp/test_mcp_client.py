"""Other programs' tools: what they declare, how they are called, and what hostile ones can do."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import ossia
from ossia.errors import McpError
from ossia.tokenizer import Tokenizer
from ossia.tools import SessionKey, Sessions, Toolbox, ToolResult, mcp_servers
from ossia.tools.mcp import Asked, McpConfig, McpServer, Verdict, transport
from ossia.tools.mcp.declaring import Listed, declared
from ossia.tools.mcp.results import as_result

pytest.importorskip("mcp")
from mcp_types import methods as mcp_methods

STRANGER = Path(__file__).with_name("stranger.py")
Connect = Callable[..., McpServer]


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Starts a stranger; ends it with the test."""
    started: list[McpServer] = []

    def start(behaviour: str, **wishes: Any) -> McpServer:
        command = (sys.executable, "-S", str(STRANGER), behaviour, str(tmp_path / "starts"))
        taken = {key: wishes.pop(key) for key in ("ask", "save") if key in wishes}
        wishes = {"timeout": 60.0, "approval": "never"} | wishes
        started.append(McpServer.connect(McpConfig("team", command, **wishes), **taken))
        return started[-1]

    yield start
    for server in started:
        server.close()


def call(server: McpServer, function: str = "echo", **arguments: Any) -> ToolResult:
    text = json.dumps(arguments)
    return Sessions(SessionKey("alice")).call_all([(server, function, text)])[0]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(Path(ossia.__file__).parent / "assets" / "nano")


def test_a_server_is_a_namespace(connect: Connect) -> None:
    server = connect("plain")
    assert server.namespace.description == "A stranger."
    assert [tool.name for tool in server.namespace.tools] == ["echo", "write"]
    toolbox = Toolbox(builtin=(server,))
    developer = toolbox.developer(None)
    assert developer and developer.namespaces == (server.namespace,)
    assert not toolbox.system_namespaces
    target = toolbox.by_recipient["team.echo"]
    assert (target.kind, target.takes_text, target.tool) == ("builtin", False, server)
    assert call(server, text="hi") == ToolResult("hi")
    assert server.session(SessionKey()).action("echo", "{}") == {
        "type": "mcp_call",
        "server_label": "team",
        "name": "echo",
        "arguments": "{}",
    }


def test_only_allowed_tools(connect: Connect) -> None:
    server = connect("plain", allow=frozenset({"write"}))
    assert [tool.name for tool in server.namespace.tools] == ["write"]
    assert "has no tool 'echo'" in call(server, text="hi").text


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 100_000])
def test_arguments_that_cannot_be_read(connect: Connect, text: str) -> None:
    server = connect("plain")
    (result,) = Sessions(SessionKey()).call_all([(server, "echo", text)])
    assert result.failed is (text != "")


def test_schemas_are_bounded_before_they_are_compiled(
    connect: Connect, tokenizer: Tokenizer
) -> None:
    """Of a bomb the model reads that there is an object; the conversation has its grammar."""
    server = connect("bombs")
    found = {tool.name: tool.parameters for tool in server.namespace.tools}
    harmless = {name for name, schema in found.items() if schema != {"type": "object"}}
    assert "fine" in harmless
    assert not harmless & {"deep", "chain", "wide", "large"}
    Toolbox(builtin=(server,)).grammar(tokenizer, None, None)
    assert call(server, "chain", text="hi").text == "hi"


def test_texts_are_cut_and_control_tokens_are_text(connect: Connect, tokenizer: Tokenizer) -> None:
    server = connect("controls")
    assert len(server.namespace.description or "") <= 2000
    assert len(server.namespace.tools[0].description) <= 1000
    developer = Toolbox(builtin=(server,)).developer(None)
    assert developer is not None
    shown = json.dumps(developer.to_dict(), ensure_ascii=False)
    assert "\x1b" not in shown and "\x00" not in shown and "<|start|>" in shown
    body = tokenizer.encode(shown + call(server).text)
    assert not set(body) & set(tokenizer.specials.values())


def test_many_tools(connect: Connect) -> None:
    names = [tool.name for tool in connect("many").namespace.tools]
    assert (len(names), names[0], names[-1]) == (128, "tool_0", "tool_127")


def test_names_that_no_item_can_have() -> None:
    listed = [Listed(name, "", {"type": "object"}) for name in ("", "x" * 257, "fine")]
    assert list(declared(McpConfig("a", ("x",)), None, listed).tools) == ["fine"]


def test_a_list_of_much_text(connect: Connect) -> None:
    """Nobody keeps more of it than is bounded."""
    server = connect("much text")
    assert call(server, text="hi") == ToolResult("hi")
    connection = server.pool.known("alice")
    assert connection is not None and connection.listed is not None
    assert 100 < len(connection.listed) < 220


def test_a_list_without_end(connect: Connect) -> None:
    assert len(connect("endless list").namespace.tools) == 2


@pytest.mark.parametrize("behaviour", ["large", "endless", "garbage", "flood", "crash"])
def test_a_stranger_costs_one_call(
    connect: Connect, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one connects again, and fails in the same way; there are no more."""
    monkeypatch.setattr(transport, "MOST_MESSAGES", 300)
    server = connect(behaviour)
    for _ in range(2):
        result = call(server, "write", text="hi")
        assert result.failed and "the connection to team was lost" in result.text
        assert len(result.text) < 1000


def test_a_stranger_that_hangs(connect: Connect) -> None:
    server = connect("hang")
    hasty = replace(server, config=replace(server.config, timeout=0.2))
    result = call(hasty, text="hi")
    assert result.failed and "team" in result.text and len(result.text) < 500


def test_answers_of_another_form(connect: Connect) -> None:
    result = call(connect("shape"), text="hi")
    assert result.failed and "no answer that MCP knows" in result.text


def test_a_lost_connection_is_opened_again(connect: Connect, tmp_path: Path) -> None:
    """A call that changes nothing is made again; any other might be carried out twice."""
    assert call(connect("once"), text="hi") == ToolResult("hi")
    (tmp_path / "starts").unlink()
    server = connect("once")
    result = call(server, "write", text="hi")
    assert "whether the call was carried out is not known" in result.text
    assert call(server, "write", text="hi") == ToolResult("hi")


def test_a_tool_that_changed_has_to_be_approved_again(connect: Connect, tmp_path: Path) -> None:
    server = connect("changed")
    assert call(server, text="hi").text == "The user did not approve this call."
    assert server.namespace.tools[0].description == "Says it again."
    (tmp_path / "starts").unlink()
    asked: list[Asked] = []

    async def ask(what: Asked) -> Verdict:
        asked.append(what)
        return Verdict(True, always=True)

    server = connect("changed", ask=ask)
    assert [call(server, text="hi").text for _ in range(2)] == ["hi", "hi"]
    assert [what.reason for what in asked] == ["changed"]


def test_a_tool_that_is_gone(connect: Connect) -> None:
    assert "no longer has 'echo'" in call(connect("renamed"), text="hi").text


@pytest.mark.parametrize(
    ("approval", "asked_for"), [("never", []), ("writes", ["write"]), ("always", ["echo", "write"])]
)
def test_approvals(connect: Connect, approval: str, asked_for: list[str]) -> None:
    asked: list[Asked] = []

    async def ask(what: Asked) -> Verdict:
        asked.append(what)
        return Verdict(what.arguments == {"text": "yes"}, "not \x1bnow")

    server = connect("plain", approval=approval, ask=ask)
    for function in ("echo", "write"):
        assert server.needs_approval(function) is (function in asked_for)
        assert call(server, function, text="yes").text == "yes"
        refused = call(server, function, text="no")
        if function in asked_for:
            assert refused == ToolResult("The user did not approve this call. not now", failed=True)
    assert sorted({what.name for what in asked}) == asked_for
    others = server.asking(None)
    assert call(others, text="yes").failed is ("echo" in asked_for)


def test_approved_for_good(connect: Connect) -> None:
    asked: list[Asked] = []

    async def ask(what: Asked) -> Verdict:
        asked.append(what)
        return Verdict(True, always=True)

    server = connect("plain", approval="always", ask=ask)
    assert [call(server, text="a").text, call(server, text="b").text] == ["a", "b"]
    assert len(asked) == 1 and not server.needs_approval("echo")
    assert server.needs_approval("write")


def test_results(connect: Connect) -> None:
    mixed = call(connect("mixed"), text="hi")
    assert mixed.failed
    assert mixed.text == "hi\n[image: image/png, about 300 bytes]\n[file: file:///a b]\ninner"
    assert call(connect("structured")).text == '{"a": [1, "ü"]}'


def test_lists_of_very_many_parts_are_cut(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before they are walked: that is done on the event loop of all tools."""
    walked: list[int] = []
    validate = mcp_methods.validate_server_result

    def counted(method: str, version: str, raw: Any) -> Any:
        walked.extend(len(each) for each in raw.values() if isinstance(each, list))
        return validate(method, version, raw)

    monkeypatch.setattr(mcp_methods, "validate_server_result", counted)
    server = connect("parts")
    result = call(server, text="hi")
    assert not result.failed and result.text.startswith("part 0\npart 1\n")
    assert result.text.endswith("part 999\n[... 49000 parts left out ...]")
    assert walked == [1000, 1001]


def test_long_results_are_cut_and_kept(connect: Connect) -> None:
    kept: dict[str, str] = {}

    def save(key: SessionKey, name: str, text: str) -> str:
        kept[f"{key.caller}/{name}"] = text
        return f"/mnt/data/{name}"

    result = call(connect("long", save=save))
    assert len(result.text) < 33_000 and "67232 characters left out" in result.text
    assert result.text.endswith("[the whole result is in /mnt/data/echo.txt]")
    assert kept == {"alice/echo.txt": "x" * 100_000}


@pytest.mark.parametrize("answer", [{}, {"content": 3}, {"content": [3, {}, {"type": "text"}]}])
def test_results_of_another_form(answer: dict[str, Any]) -> None:
    assert not as_result(answer, "echo").failed


def test_servers_that_do_not_start(connect: Connect) -> None:
    with pytest.raises(McpError, match="No such file"):
        McpServer.connect(McpConfig("team", ("/no/such/program",)))
    with pytest.raises(McpError, match=r"no \[31mlicence"):
        connect("dead")
    with pytest.raises(McpError, match="team: no connection"):
        connect("too deep")
    with pytest.raises(McpError, match="no connection within 1 s"):
        connect("silent", timeout=1.0)
    with pytest.raises(McpError, match="no connection"):
        McpServer.connect(McpConfig("team", url="http://127.0.0.1:9/mcp", timeout=5.0))


def test_a_file_of_servers_and_who_is_asked(tmp_path: Path) -> None:
    def entry(state: str, **more: Any) -> dict[str, Any]:
        args = ["-S", str(STRANGER), "plain", str(tmp_path / state)]
        return {"command": sys.executable, "args": args, **more}

    asked: list[tuple[str, str]] = []

    def approve(question: Asked) -> bool:
        asked.append((f"{question.label}.{question.name}", threading.current_thread().name))
        return question.arguments == {"text": "yes"}

    file = tmp_path / "mcp.json"
    both = {"one": entry("1"), "two": entry("2", approval="never")}
    file.write_text(json.dumps({"mcpServers": both}))
    one, two = mcp_servers(file, approve)
    texts = [(one, "yes"), (one, "no"), (two, "no")]
    said = [call(server, "write", text=text).text for server, text in texts]
    assert said == ["yes", "The user did not approve this call.", "no"]
    assert asked == [("one.write", threading.current_thread().name)] * 2
    assert call(one, text="it reads").text == "it reads" and len(asked) == 2
    one.close()
    two.close()
    file.write_text(json.dumps({"mcpServers": {**both, "bad": {"command": "/no/such/program"}}}))
    with pytest.raises(McpError, match=r"bad: .*No such file"):
        mcp_servers(file)


def test_secrets_are_not_shown() -> None:
    config = McpConfig("team", ("x",), env={"K": "s3cret"}, headers={"A": "s3cret"}, url="u-s3cret")
    assert "s3cret" not in repr(config)


def test_its_processes_end_with_it(connect: Connect, tmp_path: Path) -> None:
    server = connect("family")
    child = int((tmp_path / "starts.child").read_text())
    assert Path(f"/proc/{child}").exists() or not Path("/proc").exists()
    server.close()
    with pytest.raises(ProcessLookupError):
        for _ in range(200):
            os.kill(child, 0)
            time.sleep(0.05)  # whoever takes it over has to notice


def test_little_of_our_environment_is_passed_on(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "1")
    names = json.loads(call(connect("environment", env={"ITS": "own"})).text)
    assert "SECRET_OF_OURS" not in names and {"PATH", "ITS"} <= set(names)


async def hostile_web(scope: Any, receive: Any, send: Any) -> None:
    """An MCP server over HTTP that answers a call by 200 MB, compressed ones or not."""
    message = json.loads((await receive()).get("body") or b"{}") if scope["type"] == "http" else {}
    kind = {"type": "http.response.start", "status": 200}
    headers = [(b"content-type", b"application/json")]
    method = message.get("method", "")
    answers: dict[str, Any] = {
        "initialize": {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "web", "version": "1"},
        },
        "tools/list": {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]},
    }
    reply: dict[str, Any] = {"jsonrpc": "2.0", "id": message.get("id")}
    if method == "tools/call":
        if message["params"]["arguments"].get("text") == "zip":
            headers.append((b"content-encoding", b"gzip"))
        await send({**kind, "headers": headers})
        for _ in range(200):
            body = b"x" * (1 << 20)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})
        return
    if scope["type"] != "http" or method not in answers:
        kind["status"] = 405 if scope.get("method") != "POST" else 202
        if method == "server/discover":
            kind["status"] = 200
            reply["error"] = {"code": -32601, "message": "no"}
    else:
        reply["result"] = answers[method]
    await send({**kind, "headers": headers})
    body = json.dumps(reply).encode() if kind["status"] == 200 else b""
    await send({"type": "http.response.body", "body": body})


def test_a_stranger_over_http_costs_one_call() -> None:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        running = uvicorn.Server(uvicorn.Config(hostile_web, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [port]})
        thread.start()
        try:
            while not running.started:
                time.sleep(0.01)
            url = f"http://127.0.0.1:{port.getsockname()[1]}/mcp"
            server = McpServer.connect(McpConfig("web", url=url, approval="never", timeout=60.0))
            for text in ("plain", "zip"):
                result = call(server, text=text)
                assert result.failed and len(result.text) < 1000, result.text
            server.close()
        finally:
            running.should_exit = True
            thread.join()
