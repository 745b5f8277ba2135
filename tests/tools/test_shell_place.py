"""Commands of our shell, in the sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from python_tools import ALICE, Notebook, python_tool

from ossia.tools import SessionKey, Sessions, ToolResult
from ossia.tools.containers import Containers, Rules
from ossia.tools.python import Python
from ossia.tools.shell import Shell
from ossia.tools.shell_place import InContainers


@pytest.fixture(scope="module")
def tool() -> Iterator[Python]:
    rules = Rules(quota=1 << 20)
    with python_tool(
        containers=Containers(None, rules, new_owner=lambda: made.new_owner())
    ) as made:
        yield made


def run(tool: Python, *commands: str, key: SessionKey = ALICE, **more: int) -> ToolResult:
    text = json.dumps({"commands": commands, **more})
    (result,) = Sessions(key, 60).call_all([(Shell(InContainers(tool)), "shell", text)])
    return result


def test_commands_share_the_files_of_their_container(tool: Python) -> None:
    first = run(tool, "echo hello > a.txt; pwd", "cat a.txt; exit 3")
    assert first.text == "/mnt/data\n\nhello\n[exit code 3]" and first.failed
    assert Notebook(tool)("print(open('/mnt/data/a.txt').read())") == "hello\n\n"
    other = run(tool, "cat a.txt", key=SessionKey("bob", "conversation"))
    assert other.failed and "hello" not in other.text


def test_a_command_without_end(tool: Python) -> None:
    result = run(tool, "echo begun; sleep 100", timeout_ms=300)
    assert result.text == "begun\n[the time limit was reached]"


def test_a_command_that_fills_the_disk(tool: Python) -> None:
    result = run(tool, "echo kept > b.txt; sleep 0.1; head -c 3000000 /dev/zero > c; sleep 100")
    assert "/mnt/data was full" in result.text and result.failed
    assert run(tool, "ls").text == "a.txt\nb.txt"


def test_there_is_no_network_and_nothing_of_ours(tool: Python) -> None:
    reached = "python3 -c \"import socket; socket.create_connection(('127.0.0.1', 80))\""
    result = run(tool, "ls /root /home", "env", reached)
    assert result.failed and "Error" in result.outputs[2]["stderr"]
    assert "OSSIA" not in result.text
