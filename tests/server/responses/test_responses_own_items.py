"""Tools of the client's whose calls are items of a kind of their own, a patch and commands; and our
shell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from responses_wire import CALL, CUSTOM, FINAL, THOUGHT, Server, fold, nameless, serving

from ossia.tokenizer import Tokenizer
from ossia.tools.shell import Ran, Shell

DONE = FINAL.format("Done.")
PATCH = {"type": "apply_patch"}
LOCAL = {"type": "shell", "environment": {"type": "local"}}
HOSTED = {"type": "shell", "environment": {"type": "container_auto"}}
SECTIONS = """\
*** Begin Patch
*** Add File: a.txt
+one
*** Update File: b.txt
@@
-old
+new
*** Delete File: c.txt
*** End Patch"""
APPLY = CUSTOM.format("apply_patch", SECTIONS)
COMMANDS = '{"commands":["ls","pwd"],"timeout_ms":1000}'
RUN = CALL.format("functions.shell", COMMANDS)


def run(argv: Sequence[str], cwd: str, seconds: float, limit: int) -> Ran:
    return Ran(f"ran {argv[-1]}\n", "", 3 if argv[-1] == "fail" else 0)


@pytest.fixture(scope="module")
def server(tokenizer: Tokenizer) -> Iterator[Server]:
    with serving(tokenizer, builtin=[Shell(lambda key: run)]) as made:
        yield made


def both(server: Server, text: str, **body: Any) -> list[dict[str, Any]]:
    """The output, the same streamed and not."""
    folded = fold(server.says(text, DONE).stream(**body))
    whole = server.says(text, DONE).create(**body)
    assert nameless(folded) == nameless(whole)
    output: list[dict[str, Any]] = whole["output"]
    return output


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


# ---- patches ----


def test_a_patch_is_an_item_a_section(server: Server) -> None:
    thought, *calls = both(server, THOUGHT.format("Hm.") + APPLY, tools=[PATCH])
    assert thought["type"] == "reasoning"
    assert [call["type"] for call in calls] == ["apply_patch_call"] * 3
    assert [call["operation"] for call in calls] == [
        {"type": "create_file", "path": "a.txt", "diff": "+one\n"},
        {"type": "update_file", "path": "b.txt", "diff": "@@\n-old\n+new\n"},
        {"type": "delete_file", "path": "c.txt"},
    ]
    assert len({call["call_id"] for call in calls} | {call["id"] for call in calls}) == 6


def patched(calls: list[dict[str, Any]], *outputs: Any) -> list[dict[str, Any]]:
    return [
        {
            "type": "apply_patch_call_output",
            "call_id": call["call_id"],
            "status": "completed" if output is None or output == "ok" else "failed",
            "output": output,
        }
        for call, output in zip(calls, outputs, strict=False)
    ]


@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ((None, None, None), "Success. Updated the following files:\nA a.txt\nM b.txt\nD c.txt"),
        (("ok", "no such file", None), "A a.txt: ok\nM b.txt: error: no such file\nD c.txt"),
    ],
)
def test_outputs_of_a_patch_are_one_result(
    server: Server, is_stored: bool, outputs: Any, told: str
) -> None:
    first = server.says(THOUGHT.format("Hm.") + APPLY, DONE).create(tools=[PATCH])
    given = patched(first["output"][1:], *outputs)
    more: dict[str, Any] = {"previous_response_id": first["id"], "input": given}
    if not is_stored:
        more = {"input": [user("hello"), *first["output"], *given]}
    server.says(DONE).create(tools=[PATCH], **more)
    call = f"to=functions.apply_patch code<|message|>{SECTIONS}<|call|>"
    assert server.prompt.count("to=functions.apply_patch") == 1 and call in server.prompt
    result = "<|start|>functions.apply_patch to=assistant<|channel|>commentary<|message|>"
    assert f"{call}{result}{told}<|end|>" in server.prompt


def test_calls_and_outputs_that_are_sent_in_turns(server: Server) -> None:
    """As clients keep them that carry out one after the other."""
    first = server.says(APPLY, DONE).create(tools=[PATCH])
    given = patched(first["output"], None, None, None)
    mixed = [item for pair in zip(first["output"], given, strict=True) for item in pair]
    server.says(DONE).create(tools=[PATCH], input=[user("hello"), *mixed])
    assert server.prompt.count("<|start|>functions.apply_patch to=assistant") == 1
    assert f"{SECTIONS}<|call|><|start|>functions.apply_patch to=assistant" in server.prompt


def test_the_reasoning_before_a_patch_is_remembered(server: Server) -> None:
    first = server.says(THOUGHT.format("Why not.") + APPLY, DONE).create(tools=[PATCH])
    calls = first["output"][1:]
    given = patched(calls, None, None, None)
    server.says(DONE).create(tools=[PATCH], input=[user("hello"), *calls, *given])
    assert "Why not." in server.prompt


def test_what_is_no_patch_is_told_the_model(server: Server) -> None:
    output = both(server, CUSTOM.format("apply_patch", "no patch"), tools=[PATCH])
    assert [item["type"] for item in output] == ["message"]
    assert "<|start|>functions.apply_patch to=assistant" in server.prompt
    server.says(CUSTOM.format("apply_patch", "no patch"))  # again and again
    (call,) = server.create(tools=[PATCH])["output"]
    assert call["operation"] == {
        "type": "update_file",
        "path": "(this is no patch)",
        "diff": "no patch",
    }


# ---- commands ----


def test_commands_for_the_client(server: Server) -> None:
    (call,) = both(server, RUN, tools=[LOCAL])
    assert call["type"] == "shell_call" and call["environment"] == {"type": "local"}
    assert call["action"] == {
        "commands": ["ls", "pwd"],
        "timeout_ms": 1000,
        "max_output_length": None,
    }
    outcome = {"type": "exit", "exit_code": 2}
    outputs = [
        {"stdout": "a\n", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}},
        {"stdout": "", "stderr": "no", "outcome": outcome},
        {"stdout": "", "stderr": "", "outcome": {"type": "timeout"}},
    ]
    given = {"type": "shell_call_output", "call_id": call["call_id"], "output": outputs}
    server.says(DONE).create(tools=[LOCAL], input=[user("hello"), call, given])
    told = "a\n\nno\n[exit code 2]\n\n[the time limit was reached]<|end|>"
    assert f"functions.shell to=assistant<|channel|>commentary<|message|>{told}" in server.prompt
    shown = json.dumps(json.loads(COMMANDS))
    assert f"to=functions.shell <|constrain|>json<|message|>{shown}<|call|>" in server.prompt


def test_a_shell_without_a_place_is_the_clients(server: Server) -> None:
    (call,) = server.says(RUN).create(tools=[{"type": "shell"}])["output"]
    assert call["environment"] == {"type": "local"}


def test_arguments_without_commands_are_told_the_model(server: Server) -> None:
    output = both(server, CALL.format("functions.shell", '{"cmd":"ls"}'), tools=[LOCAL])
    assert [item["type"] for item in output] == ["message"]
    assert "`commands` must be a list" in server.prompt


def test_our_shell(server: Server) -> None:
    text = CALL.format("functions.shell", '{"commands":["ls","fail"]}')
    call, printed, message = both(server, text, tools=[HOSTED])
    assert (call["type"], printed["type"]) == ("shell_call", "shell_call_output")
    assert call["environment"]["type"] == "container_reference"
    assert call["action"]["commands"] == ["ls", "fail"]
    assert printed["call_id"] == call["call_id"]
    assert [each["outcome"]["exit_code"] for each in printed["output"]] == [0, 3]
    assert message["type"] == "message" and "ran fail" in server.prompt
    before = server.prompt
    server.says(DONE).create(
        tools=[HOSTED], input=[user("hello"), call, printed, message, user("And?")]
    )
    assert "ran ls\n\nran fail\n[exit code 3]<|end|>" in server.prompt
    assert "ran ls\n\nran fail\n[exit code 3]<|end|>" in before


def test_a_server_without_a_shell_passes_it_over(tokenizer: Tokenizer) -> None:
    with serving(tokenizer) as server:
        body = server.says(DONE).create(tools=[HOSTED])
        assert body["tools"] == [] and body["x-ossia"]["unavailable_tools"] == ["shell"]


@pytest.mark.parametrize(("name", "tool"), [("apply_patch", PATCH), ("shell", LOCAL)])
def test_choices(server: Server, name: str, tool: dict[str, Any]) -> None:
    text = APPLY if name == "apply_patch" else RUN
    body = server.says(text).create(tools=[tool], tool_choice={"type": name})
    assert body["output"][0]["type"] == f"{name}_call"
    again = {"type": "custom" if name == "apply_patch" else "function", "name": name}
    assert server.create(400, tools=[tool, again])["param"] == "tools[1].name"
    assert server.create(400, tools=[], tool_choice={"type": name})["param"] == "tool_choice"


def test_commands_of_the_old_tool_are_read(server: Server) -> None:
    action = {"type": "exec", "command": ["ls", "-l"], "env": {}}
    call = {"type": "local_shell_call", "id": "lsh_1", "call_id": "c1", "action": action}
    output = {"type": "local_shell_call_output", "id": "c1", "output": "a file"}
    server.says(DONE).create(input=[user("hello"), call, output])
    assert '{"command": ["ls", "-l"]}<|call|>' in server.prompt
    assert "<|start|>functions.local_shell to=assistant<|channel|>commentary" in server.prompt


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({"type": "apply_patch_call", "call_id": "a", "operation": {"type": "x"}}, ".operation"),
        ({"type": "apply_patch_call_output", "call_id": "a"}, ".call_id"),
        (
            {"type": "mcp_approval_response", "approval_request_id": ["a"]},
            ".approval_request_id",
        ),
        ({"type": "shell_call_output", "call_id": ["a"], "output": []}, ".call_id"),
        ({"type": "shell_call", "call_id": "a"}, ".action"),
        (
            {"type": "shell_call", "call_id": "a", "action": {"commands": [3]}},
            ".action.commands[0]",
        ),
        ({"type": "shell_call_output", "call_id": "a", "output": []}, ".call_id"),
        ({"type": "local_shell_call_output", "id": "a", "output": ""}, ".id"),
        ({"type": "mcp_approval_response", "approval_request_id": 3}, ".approval_request_id"),
        ({"type": "mcp_call", "server_label": "a", "output": "x"}, ".name"),
        ({"type": "mcp_approval_request", "server_label": "a", "name": "b"}, ".arguments"),
    ],
)
def test_items_that_are_wrong_are_named(server: Server, item: Any, path: str) -> None:
    error = server.create(400, input=[user("hello"), item])
    assert error["param"] == f"input[1]{path}"


def test_sections_and_outputs_that_are_wrong_are_named(server: Server) -> None:
    section = {
        "type": "apply_patch_call",
        "call_id": "a",
        "operation": {"type": "delete_file", "path": "a.txt"},
    }
    second = section | {"call_id": "a_1", "operation": {"type": "delete_file", "path": ["b"]}}
    output = {"type": "apply_patch_call_output", "call_id": "a", "status": "completed"}
    error = server.create(400, input=[section, second, output])
    assert error["param"] == "input[1].operation"
    error = server.create(400, input=[output, section])
    assert error["param"] == "input[0].call_id"
    call = {"type": "mcp_call", "server_label": "a", "name": "b", "arguments": "{}", "output": ""}
    server.says(DONE).create(input=[call | {"approval_request_id": ["a"]}], truncation="auto")
