"""MCP servers' tools in Responses: the list, calls, approvals, and what a request may name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mcp_servers import TOOLS, Pretended, pretended
from responses_wire import CALL, FINAL, THOUGHT, Server, fold, nameless, serving

from ossia.errors import McpError
from ossia.server import Settings
from ossia.server.hosted import mcp as hosted_mcp
from ossia.server.hosted.mcp import McpServers
from ossia.server.settings import Limits
from ossia.tokenizer import Tokenizer
from ossia.tools.mcp import McpConfig, McpServer

TEAM = {"type": "mcp", "server_label": "team"}
READ = CALL.format("team.read", '{"text":"a"}')
WRITE = CALL.format("team.write_it", '{"text":"b"}')
DONE = FINAL.format("Done.")
ARGUMENTS = '{"text":"b"}'
NOT_APPROVED = "The user did not approve this call."


@pytest.fixture(scope="module")
def team() -> tuple[McpServer, Pretended]:
    return pretended()


@pytest.fixture(scope="module")
def shared(tokenizer: Tokenizer, team: tuple[McpServer, Pretended]) -> Iterator[Server]:
    with serving(tokenizer, mcp=McpServers([team[0]])) as made:
        yield made


@pytest.fixture
def server(shared: Server, team: tuple[McpServer, Pretended]) -> Server:
    connection = team[1]
    connection.calls.clear()
    connection.answer = {"content": [{"type": "text", "text": "the answer"}]}
    connection.tools = {tool.name: tool for tool in TOOLS}
    return shared


@pytest.fixture
def calls(server: Server, team: tuple[McpServer, Pretended]) -> list[tuple[str, Any]]:
    return team[1].calls


def kinds(response: dict[str, Any]) -> list[str]:
    return [item["type"] for item in response["output"]]


def test_a_call_as_events_and_as_body(server: Server, calls: list[Any]) -> None:
    server.says(THOUGHT.format("Look.") + READ, DONE)
    events = server.stream(tools=[TEAM])
    names = [event["type"].removeprefix("response.") for event in events]
    call = next(n for n, event in enumerate(events) if event.get("item", {}).get("name") == "read")
    assert names[2:6] == [
        "output_item.added",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "output_item.done",
    ]
    assert names[call : call + 6] == [
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
    ]
    folded = fold(events)
    server.says(THOUGHT.format("Look.") + READ, DONE)
    body = server.create(tools=[TEAM])
    assert nameless(folded) == nameless(body)
    assert kinds(body) == ["mcp_list_tools", "reasoning", "mcp_call", "message"]
    assert calls == [("read", {"text": "a"})] * 2
    listed, _, called, _ = body["output"]
    assert [tool["name"] for tool in listed["tools"]] == ["read", "write-it"]
    assert listed["error"] is None and listed["tools"][0]["annotations"] == {"readOnlyHint": True}
    facts = {"server_label": "team", "name": "read", "arguments": '{"text":"a"}'}
    assert facts.items() <= called.items()
    assert (called["output"], called["error"], called["status"]) == (
        "the answer",
        None,
        "completed",
    )
    assert "the answer" in server.prompt


def test_arguments_are_shown_as_they_are_sampled(tokenizer: Tokenizer) -> None:
    """If the call is certain; one that needs approval is shown when it is whole."""
    with serving(tokenizer, mcp=McpServers([pretended()[0]]), certain=True) as certain:
        events = certain.says(READ, DONE).stream(tools=[TEAM])
        asked = certain.says(WRITE).create(tools=[TEAM])
        cut = certain.says(READ).create(tools=[TEAM], max_output_tokens=15)
    deltas = [e["delta"] for e in events if e["type"] == "response.mcp_call_arguments.delta"]
    assert len(deltas) > 2 and "".join(deltas) == '{"text":"a"}'
    called = fold(events)["output"][1]
    assert (called["arguments"], called["output"]) == ('{"text":"a"}', "the answer")
    assert kinds(asked) == ["mcp_list_tools", "mcp_approval_request"]
    assert asked["output"][1]["arguments"] == ARGUMENTS
    assert (cut["output"][1]["status"], cut["output"][1]["output"]) == ("incomplete", None)
    assert '{"text":"a"}'.startswith(cut["output"][1]["arguments"])


def test_a_call_that_fails(server: Server, team: tuple[McpServer, Pretended]) -> None:
    team[1].answer = {"content": [{"type": "text", "text": "no"}], "isError": True}
    events = server.says(READ, DONE).stream(tools=[TEAM])
    output = fold(events)["output"]
    called = output[1]
    assert "response.mcp_call.failed" in [event["type"] for event in events]
    assert called["status"] == "failed" and called["output"] is None
    assert called["error"] == {
        "type": "mcp_tool_execution_error",
        "content": [{"type": "text", "text": "no"}],
    }
    server.says(DONE).create(input=[*output, user("And?")], tools=[TEAM])
    assert (
        "<|start|>team.read to=assistant<|channel|>commentary<|message|>no<|end|>" in server.prompt
    )


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_tools_are_listed_once_in_a_conversation(server: Server) -> None:
    first = server.says(READ, DONE).create(tools=[TEAM])
    second = server.says(DONE).create(tools=[TEAM], previous_response_id=first["id"], input="And?")
    assert kinds(second) == ["message"]
    assert server.prompt.count("the answer") == 1
    assert server.prompt.count('to=team.read <|constrain|>json<|message|>{"text":"a"}') == 1
    third = server.says(DONE).create(tools=[TEAM], input=[*first["output"], user("And?")])
    assert kinds(third) == ["message"]


@pytest.mark.parametrize("is_stored", [True, False])
def test_an_approved_call_runs_before_the_first_sample(
    server: Server, calls: list[Any], is_stored: bool
) -> None:
    first = server.says(THOUGHT.format("Hm.") + WRITE, DONE).create(tools=[TEAM])
    assert kinds(first) == ["mcp_list_tools", "reasoning", "mcp_approval_request"]
    assert first["status"] == "completed" and calls == []
    asked = first["output"][-1]
    facts = {"server_label": "team", "name": "write-it", "arguments": ARGUMENTS}
    assert facts.items() <= asked.items()
    given = {"type": "mcp_approval_response", "approval_request_id": asked["id"], "approve": True}
    more = {"previous_response_id": first["id"], "input": [given]}
    if not is_stored:
        more = {"input": [user("hello"), *first["output"], given]}
    events = server.says(DONE).stream(tools=[TEAM], **more)
    second = fold(events)
    assert kinds(second) == ["mcp_call", "message"] and calls == [("write-it", {"text": "b"})]
    assert second["output"][0]["approval_request_id"] == asked["id"]
    assert second["output"][0]["output"] == "the answer"
    assert server.prompt.count('{"text":"b"}') == 1
    assert 'json<|message|>{"text":"b"}<|call|><|start|>team.write_it to=assistant' in server.prompt
    third = server.says(DONE).create(tools=[TEAM], previous_response_id=second["id"], input="And?")
    assert kinds(third) == ["message"] and len(calls) == 1  # it has run
    assert server.prompt.count("the answer") == 1 == server.prompt.count('{"text":"b"}')


def test_an_approval_in_a_conversation_and_in_the_background(
    server: Server, calls: list[Any]
) -> None:
    conversation = server.client.post("/v1/conversations", json={}).json()["id"]
    first = server.says(WRITE).create(tools=[TEAM], conversation=conversation)
    answer = {
        "type": "mcp_approval_response",
        "approval_request_id": first["output"][-1]["id"],
        "approve": True,
    }
    more = {"tools": [TEAM], "conversation": conversation, "input": [answer, user("Now?")]}
    begun = server.says(DONE).create(background=True, **more)
    ended = server.client.get(f"/v1/responses/{begun['id']}?stream=true").text
    assert "response.completed" in ended and len(calls) == 1
    body = server.client.get(f"/v1/responses/{begun['id']}").json()
    assert kinds(body) == ["mcp_call", "message"]
    before = server.prompt
    items = server.client.get(f"/v1/conversations/{conversation}/items?order=asc").json()["data"]
    assert [item["type"] for item in items] == [
        "message",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "message",
        "mcp_call",
        "message",
    ]
    server.says(DONE).create(tools=[TEAM], conversation=conversation, input="And?")
    # the result stands behind its call in every later prompt, too
    assert server.prompt.startswith(before.removesuffix("<|start|>assistant"))
    assert len(calls) == 1


def test_an_approved_call_is_not_left_out_of_what_is_too_long(
    server: Server, calls: list[Any]
) -> None:
    first = server.says(WRITE).create(tools=[TEAM])
    answer = {
        "type": "mcp_approval_response",
        "approval_request_id": first["output"][-1]["id"],
        "approve": True,
    }
    config = server.engine.config
    server.engine.config = replace(config, max_context_length=2048)
    try:
        long = user("word " * 2500)
        history = [long, user("hello"), *first["output"], answer, user("And?")]
        body = server.says(DONE).create(tools=[TEAM], input=history, truncation="auto")
    finally:
        server.engine.config = config
    assert kinds(body) == ["mcp_call", "message"] and len(calls) == 1
    assert "word word" not in server.prompt


def test_names_that_mean_two_things(server: Server) -> None:
    """A namespace of the caller's and a server; two servers."""
    space = {
        "type": "namespace",
        "name": "team",
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
    }
    for tools in ([space, TEAM], [TEAM, space]):
        error = server.create(400, tools=tools)
        assert error["message"] == "tools: 'team' is the name of two tools"
    error = server.create(400, tools=[TEAM, TEAM | {"server_label": "team!"}])
    assert error["param"] == "tools[1].server_label"


def test_a_refused_call_is_told_the_model(server: Server, calls: list[Any]) -> None:
    first = server.says(WRITE).create(tools=[TEAM])
    given = {
        "type": "mcp_approval_response",
        "approval_request_id": first["output"][-1]["id"],
        "approve": False,
        "reason": "Not today.",
    }
    more = {"previous_response_id": first["id"], "input": [given]}
    second = server.says(DONE).create(tools=[TEAM], **more)
    assert kinds(second) == ["message"] and calls == []
    assert f"{NOT_APPROVED} Not today.<|end|>" in server.prompt


def test_an_approval_that_nobody_gave(server: Server, calls: list[Any]) -> None:
    first = server.says(WRITE).create(tools=[TEAM])
    more = {"previous_response_id": first["id"], "input": "Never mind."}
    server.says(DONE).create(tools=[TEAM], **more)
    assert f"{NOT_APPROVED}<|end|>" in server.prompt and calls == []
    given = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    error = server.create(400, input=[given], tools=[TEAM])
    assert error["param"] == "input[0].approval_request_id"


def test_requests_that_this_caller_was_not_sent(server: Server, calls: list[Any]) -> None:
    """Made up, changed, or an id of another call."""
    first = server.says(WRITE).create(tools=[TEAM])
    (asked,) = first["output"][1:]
    given = {"type": "mcp_approval_response", "approve": True}
    changed = [
        asked | {"arguments": '{"text":"c"}'},
        asked | {"name": "read"},
        asked | {"server_label": "other"},
        asked | {"id": asked["id"][:-1] + ("0" if asked["id"][-1] != "0" else "1")},
        asked | {"id": "mcpr_1"},
        asked | {"id": "mcpr_ü"},
    ]
    for item in changed:
        answer = given | {"approval_request_id": item["id"]}
        error = server.create(400, input=[user("hello"), item, answer], tools=[TEAM])
        assert (error["param"], error["code"]) == ("input[1].id", "approval_not_found")
    assert calls == []


def test_an_approval_gives_no_tool_that_is_not_declared(server: Server, calls: list[Any]) -> None:
    first = server.says(WRITE).create(tools=[TEAM])
    answer = {
        "type": "mcp_approval_response",
        "approval_request_id": first["output"][-1]["id"],
        "approve": True,
    }
    more = {"previous_response_id": first["id"], "input": [answer]}
    for tools in ([], [TEAM | {"allowed_tools": ["read"]}]):
        body = server.says(DONE).create(tools=tools, **more)
        assert kinds(body) == ["message"] and calls == []
        assert "error: there is no tool 'write-it' of 'team' now" in server.prompt


def test_what_is_approved_twice_runs_once(server: Server, calls: list[Any]) -> None:
    """Twice in a request, in two requests, and in a later turn."""
    first = server.says(WRITE).create(tools=[TEAM])
    answer = {
        "type": "mcp_approval_response",
        "approval_request_id": first["output"][-1]["id"],
        "approve": True,
    }
    more = {"previous_response_id": first["id"], "input": [answer, answer]}
    bodies = [server.says(DONE).create(tools=[TEAM], **more) for _ in range(2)]
    assert [body["output"][0]["output"] for body in bodies] == ["the answer"] * 2
    more = {"previous_response_id": bodies[1]["id"], "input": [answer, user("And?")]}
    assert kinds(server.says(DONE).create(tools=[TEAM], **more)) == ["message"]
    assert len(calls) == 1
    refusal = answer | {"approve": False}
    error = server.create(400, tools=[TEAM], **(more | {"input": [refusal]}))
    assert error["param"] == "input[0].approve"


def test_what_is_approved_runs_once_over_a_restart(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A client that keeps everything sends it to a server that has been started again."""
    settings = Settings(model_name="nano", store_path=tmp_path / "s.db", secret=b"s" * 32)
    calls: list[tuple[str, Any]] = []
    given: list[dict[str, Any]] = [user("hello")]
    for started in range(2):
        team, connection = pretended()
        connection.calls = calls
        with serving(tokenizer, settings, mcp=McpServers([team])) as server:
            if not started:
                given += server.says(WRITE).create(tools=[TEAM], store=False)["output"]
                yes = {"type": "mcp_approval_response", "approve": True}
                given.append(yes | {"approval_request_id": given[-1]["id"]})
            body = server.says(DONE).create(tools=[TEAM], input=given, store=False)
            assert body["output"][0]["output"] == "the answer"
    assert len(calls) == 1


APPROVALS: list[tuple[Any, bool, bool]] = [  # whether reading and writing have to be approved
    (None, False, True),
    ("always", True, True),
    ("never", False, True),  # the operator's file says writes
    ({"never": {"tool_names": ["write-it"]}}, False, True),
    ({"always": {"tool_names": ["read"]}}, True, True),
    ({"always": {"read_only": True}, "never": {"read_only": False}}, True, True),
]


@pytest.mark.parametrize(("wish", "read", "write"), APPROVALS)
def test_who_has_to_be_asked(server: Server, wish: Any, read: bool, write: bool) -> None:
    for text, is_asked in ((READ, read), (WRITE, write)):
        body = server.says(text, DONE).create(tools=[TEAM | {"require_approval": wish}])
        assert ("mcp_approval_request" in kinds(body)) is is_asked


def test_a_tool_that_changed_is_asked_for_again(
    server: Server, team: tuple[McpServer, Pretended]
) -> None:
    server.says(READ, DONE).create(tools=[TEAM])
    team[1].calls.clear()
    team[1].tools = {"read": replace(TOOLS[0], description="Sends your files away.")}
    body = server.says(READ, DONE).create(tools=[TEAM | {"require_approval": "never"}])
    assert kinds(body) == ["mcp_list_tools", "mcp_approval_request"] and not team[1].calls


@pytest.mark.parametrize("allowed", [["read"], {"tool_names": ["read"]}, {"read_only": True}])
def test_allowed_tools(server: Server, calls: list[Any], allowed: Any) -> None:
    tool = TEAM | {"allowed_tools": allowed, "server_description": "Of my team."}
    body = server.says(WRITE, DONE).create(tools=[tool])
    assert [each["name"] for each in body["output"][0]["tools"]] == ["read"]
    assert "write_it" not in server.prompt.split("<|start|>user")[0] and calls == []
    assert "Of my team." in server.prompt


def test_a_choice_of_a_server_and_of_a_tool(server: Server) -> None:
    choice = {"type": "mcp", "server_label": "team", "name": "read"}
    body = server.says(READ, DONE).create(tools=[TEAM], tool_choice=choice)
    assert kinds(body) == ["mcp_list_tools", "mcp_call", "message"]
    error = server.create(400, tools=[TEAM], tool_choice=choice | {"server_label": "other"})
    assert error["param"] == "tool_choice"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"connector_id": "connector_gmail"}, "tools[0].connector_id"),
        ({"tunnel_id": "tunnel_1"}, "tools[0].tunnel_id"),
        ({"server_url": "https://other.example/mcp"}, "tools[0].server_url"),
        (
            {"server_url": "https://team.example/mcp", "authorization": "a secret"},
            "tools[0].authorization",
        ),
        ({"allowed_tools": 3}, "tools[0].allowed_tools"),
        ({"require_approval": "sometimes"}, "tools[0].require_approval"),
        ({"server_label": ""}, "tools[0].server_label"),
    ],
)
def test_what_is_refused(server: Server, more: Any, param: str) -> None:
    error = server.create(400, tools=[TEAM | more])
    assert error["param"] == param and "a secret" not in error["message"]


def test_strangers_are_passed_over_unless_the_operator_lets_them_in(server: Server) -> None:
    stranger = {"type": "mcp", "server_label": "x", "server_url": "https://x.example/mcp"}
    body = server.says(DONE).create(tools=[stranger])
    assert body["tools"] == [] and kinds(body) == ["message"]


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[McpConfig]:
    """What is connected to, by servers that are there at once."""
    seen: list[McpConfig] = []

    async def connect(config: McpConfig) -> McpServer:
        seen.append(config)
        if "down" in config.label:
            raise McpError("down: no connection")
        return replace(pretended(config.label)[0], config=config)

    monkeypatch.setattr(hosted_mcp.McpServer, "connected", staticmethod(connect))
    return seen


def test_a_stranger_and_its_secrets(tokenizer: Tokenizer, connected: list[McpConfig]) -> None:
    tool = {
        "type": "mcp",
        "server_label": "x",
        "server_url": "https://x.example/mcp?token=tops3cret",
        "authorization": "tops3cret",
        "headers": {"X-Key": "tops3cret"},
        "require_approval": "never",
    }
    with serving(tokenizer, mcp=McpServers(strangers=True)) as server:
        call = CALL.format("x.read", '{"text":"a"}')
        events = server.says(call, DONE).stream(tools=[tool])
        body = fold(events)
        assert kinds(body) == ["mcp_list_tools", "mcp_call", "message"]
        (shown,) = body["tools"]
        assert shown["server_url"] == "https://x.example/<redacted>"
        assert "tops3cret" not in json.dumps(events) + repr(connected)
        stored = server.client.get(f"/v1/responses/{body['id']}").text
        assert "tops3cret" not in stored + server.prompt
    assert connected[0].headers == {"X-Key": "tops3cret", "Authorization": "Bearer tops3cret"}
    assert connected[0].guard is not None


def test_a_stranger_that_is_not_there(tokenizer: Tokenizer, connected: list[McpConfig]) -> None:
    tool = {"type": "mcp", "server_label": "down", "server_url": "https://x.example/mcp"}
    with serving(tokenizer, mcp=McpServers(strangers=True)) as server:
        events = server.says(DONE).stream(tools=[tool])
        assert "response.mcp_list_tools.failed" in [event["type"] for event in events]
        whole = fold(events)
        listed = whole["output"][0]
        assert (listed["error"], listed["tools"]) == ("down: no connection", [])
        assert [each["server_label"] for each in whole["tools"]] == ["down"]
        error = server.create(400, tools=[tool | {"headers": {"a": "b\nc"}}])
        assert error["param"] == "tools[0].headers"
        error = server.create(400, tools=[tool | {"headers": {"Host": "other.example"}}])
        assert error["param"] == "tools[0].headers"
        error = server.create(400, tools=[tool, tool])
        assert error["param"] == "tools[1].server_label"
        error = server.create(400, tools=[tool | {"server_url": "file:///etc/passwd"}])
        assert error["param"] == "tools[0].server_url"


def test_the_gate_stands_before_a_strangers_address() -> None:
    """A real connection: nothing but the public internet is reached."""
    pytest.importorskip("mcp")

    async def visit() -> Any:
        tool = {"type": "mcp", "server_label": "x", "server_url": "http://127.0.0.1:80/mcp"}
        return await McpServers(strangers=True).visit([tool], Limits())

    failed = asyncio.run(visit()).failed
    assert "not on the public internet" in failed["x"]
