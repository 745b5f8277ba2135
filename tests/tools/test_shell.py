"""The tool `shell`, with a runner that says what it was asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from ossia.tools import SessionKey, Sessions, Toolbox, ToolResult
from ossia.tools.shell import Ran, Shell
from ossia.tools.texts import clean, cut


class Recorder:
    """Answers each command by what `ran` says; remembers what it was asked."""

    def __init__(self, *ran: Ran) -> None:
        self.ran = list(ran)
        self.asked: list[tuple[tuple[str, ...], str, float, int]] = []
        self.keys: list[SessionKey] = []

    def of(self, key: SessionKey) -> Recorder:
        self.keys.append(key)
        return self

    async def __call__(self, argv: Sequence[str], cwd: str, seconds: float, limit: int) -> Ran:
        self.asked.append((tuple(argv), cwd, seconds, limit))
        return self.ran.pop(0)


def called(recorder: Recorder, arguments: Any, call_seconds: float | None = None) -> ToolResult:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    shell = Shell(recorder.of, cwd="/mnt/data")
    sessions = Sessions(SessionKey("alice", "c"), call_seconds)
    return sessions.call_all([(shell, "shell", text)])[0]


def test_commands_and_their_outputs() -> None:
    recorder = Recorder(Ran("a\n", "", 0), Ran("", "no such file\n", 2), Ran("", "", 0))
    result = called(recorder, {"commands": ["ls", "cat x", "true"], "timeout_ms": 2500})
    assert recorder.asked[0] == (("/bin/sh", "-c", "ls"), "/mnt/data", 2.5, 16_384)
    assert [argv[-1] for argv, *_ in recorder.asked] == ["ls", "cat x", "true"]
    assert recorder.keys == [SessionKey("alice", "c")]
    assert result.text == "a\n\nno such file\n[exit code 2]\n\n[no output]"
    assert result.outputs[1] == {
        "stdout": "",
        "stderr": "no such file\n",
        "outcome": {"type": "exit", "exit_code": 2},
    }
    assert result.failed


def test_a_time_limit() -> None:
    result = called(Recorder(Ran("begun", "", None)), {"commands": ["sleep 9"]})
    assert result.text == "begun\n[the time limit was reached]"
    assert result.outputs[0]["outcome"] == {"type": "timeout"}


def test_limits_have_limits() -> None:
    recorder = Recorder(Ran("", "", 0))
    called(recorder, {"commands": ["x"], "timeout_ms": 1e12, "max_output_length": 10**12})
    assert recorder.asked[0][2:] == (600.0, 131_072)
    recorder = Recorder(Ran("", "", 0))
    called(recorder, {"commands": ["x"]}, call_seconds=50)
    assert recorder.asked[0][2] <= 50


def test_output_is_cut_whatever_the_runner_says() -> None:
    recorder = Recorder(Ran("o" * 1000, "e" * 1000, 0))
    result = called(recorder, {"commands": ["x"], "max_output_length": 100})
    output = result.outputs[0]
    assert output["stdout"].count("o") == 50 + 1  # and that of "out"
    assert "characters left out" in output["stderr"] and len(output["stderr"]) < 110
    assert cut("abcdef", 3) == "ab\n[... 3 characters left out ...]\nf"
    assert cut("abcdef", 0) == "\n[... 6 characters left out ...]\n"
    assert clean(" a\x1b[2Jb\n\x00c\ud800 ", 9) == "a[2Jb\nc"
    assert clean("abcdef", 5) == "ab..."


@pytest.mark.parametrize(
    "arguments",
    [
        "ls",
        "[]",
        "[" * 100_000,
        {},
        {"commands": "ls"},
        {"commands": []},
        {"commands": ["x"] * 33},
        {"commands": [3]},
        {"commands": ["a\0b"]},
        {"commands": ["x"], "timeout_ms": -1},
        {"commands": ["x"], "timeout_ms": "soon"},
        {"commands": ["x"], "max_output_length": True},
        '{"commands": ["x"], "timeout_ms": NaN}',
    ],
)
def test_arguments_that_cannot_be_read(arguments: Any) -> None:
    recorder = Recorder()
    result = called(recorder, arguments)
    assert result.failed and result.text.startswith("error: ")
    assert not recorder.asked


def test_what_clients_are_shown() -> None:
    session = Shell(Recorder().of).session(SessionKey())
    assert session.action("shell", '{"commands": ["ls"], "timeout_ms": 1}') == {
        "commands": ["ls"],
        "timeout_ms": 1,
        "max_output_length": 16_384,
    }
    assert session.action("shell", "ls") is None


def test_how_it_is_declared() -> None:
    target = Toolbox(builtin=(Shell(Recorder().of),)).by_recipient["functions.shell"]
    assert not target.takes_text and target.parameters["required"] == ["commands"]
