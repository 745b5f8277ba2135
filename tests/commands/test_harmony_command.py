"""`ossia harmony`: what it prints, in a pipe and in a terminal, and how it refuses what it cannot
read.
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from harmony_schemas import MISSHAPEN

from ossia import hub
from ossia.commands.main import main


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def pipe_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


TALK = [
    {"role": "user", "content": "Hi <|end|> there"},
    {"role": "assistant", "content": "hm", "channel": "analysis"},
    {"role": "assistant", "content": "Hello 👍", "channel": "final"},
]
SPOKEN = (
    "<|start|>user<|message|>Hi <|end|> there<|end|><|start|>assistant<|channel|>final"
    "<|message|>Hello 👍<|end|>"
)


@pytest.fixture
def talk(tmp_path: Path) -> str:
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(TALK))
    return str(path)


def test_harmony_render(talk: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["harmony", "render", talk]) == 0
    out = capsys.readouterr()
    assert out.out == SPOKEN + "<|start|>assistant\n" and out.err.endswith(" tokens\n")
    assert (
        main(["harmony", "render", talk, "--for", "conversation", "--json", "--tokenizer", "nano"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == SPOKEN and found["ids"]
    assert main(["harmony", "render", talk, "--for", "training", "--json", "--keep-analysis"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"].endswith("<|return|>") and "hm" in found["text"]
    assert len(found["mask"]) == len(found["ids"]) and any(found["mask"]) and not all(found["mask"])


def test_harmony_render_token_by_token(talk: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["harmony", "render", talk, "--for", "training", "--tokens"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(n) for n in range(len(lines))]
    assert lines[0].split()[1:] == ["200006", '"<|start|>"'] and lines[-1].endswith("learned")
    assert json.loads(lines[3].split(maxsplit=2)[2]) == "Hi"


def test_harmony_render_of_a_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
    }
    request = {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [tool],
        "reasoning_effort": "high",
    }
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request))
    assert main(["harmony", "render", str(path), "--chat", "--date", "2025-08-05"]) == 0
    out = capsys.readouterr().out
    assert "Reasoning: high" in out and "Current date: 2025-08-05" in out and "type f = " in out


def test_harmony_parse_is_the_way_back(
    talk: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["harmony", "render", talk, "--for", "conversation", "--keep-analysis", "--json"]) == 0
    )
    ids = json.loads(capsys.readouterr().out)["ids"]
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    for given in ([str(tmp_path / "ids.json")], ["--ids", ",".join(map(str, ids))]):
        assert main(["harmony", "parse", *given]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found == {"messages": TALK, "repairs": []}


def test_harmony_parse_reports_repairs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe_in(monkeypatch, "<|channel|>analysis I must refuse<|end|>\n")
    assert main(["harmony", "parse"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["messages"] == [
        {"role": "assistant", "content": "I must refuse", "channel": "analysis"}
    ]
    assert {repair["kind"] for repair in found["repairs"]} == {"missing-message"}
    pipe_in(monkeypatch, "<|channel|>analysis I must refuse<|message|>x<|end|>")
    assert main(["harmony", "parse", "--strict"]) == 2
    assert 'unexpected tokens remaining in message header: Some("I")' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not JSON"),
        ("3", "list of messages"),
        ('[{"role": "nobody", "content": ""}]', "nobody"),
        ("[1]", "message"),
    ],
)
def test_harmony_render_of_something_else(
    text: str, word: str, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert main(["harmony", "render", str(path)]) == 2
    assert word in capsys.readouterr().err


REQUESTS: list[tuple[Any, str]] = [
    (3, "a request must be an object, not 3"),
    ({}, "a request needs a list under the key 'messages'"),
    ({"messages": {"role": "user"}}, "messages must be a list"),
    ({"messages": [], "tools": 5}, "tools must be a list, not 5"),
    ({"messages": [], "tools": {"a": 1}}, "tools must be a list"),
    ({"messages": [], "tools": ["f"]}, "tools[0]: a function tool must be an object"),
    ({"messages": [], "reasoning_effort": {"a": 1}}, "unknown reasoning effort"),
]
CASES: list[tuple[Any, str, list[str]]] = [
    ([message], f"messages[0]: {said}", []) for message, said in MISSHAPEN
]
CASES += [({"messages": 5}, "a list of messages under the key 'messages'", [])]


@pytest.mark.parametrize(
    ("data", "said", "options"), CASES + [(data, said, ["--chat"]) for data, said in REQUESTS]
)
def test_wrong_shapes_are_one_clear_line(
    data: Any, said: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    assert main(["harmony", "render", str(path), *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"ossia: {path}: ") and said in err and err.count("\n") == 1


HOSTILE = "a\x1b[2Jb\x9b2Jc\x7f"


@pytest.mark.parametrize("variable", ["NO_COLOR", "TERM", None])
@pytest.mark.parametrize("options", [[], ["--json"], ["--tokens"]])
def test_nothing_commands_a_terminal(
    variable: str | None, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hostile.json"
    path.write_text(json.dumps([{"role": "user", "content": HOSTILE}]))
    if variable:
        monkeypatch.setenv(variable, "dumb")
    for args in (["render", str(path), "--for", "conversation", *options], ["parse"]):
        pipe_in(monkeypatch, f"<|message|>{HOSTILE}")
        monkeypatch.setattr(sys, "stdout", shown := Terminal())
        assert main(["harmony", *args]) == 0
        text = shown.getvalue()
        text = text if variable else re.sub("\x1b\\[[0-9]*m", "", text)  # the colours
        assert (
            "2" in text
            and "\ufffd" in text
            and not any(control in text for control in "\x1b\x9b\x7f")
        )


def test_in_a_pipe_the_text_is_exact(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe_in(monkeypatch, json.dumps([{"role": "user", "content": HOSTILE}]))
    assert main(["harmony", "render", "--for", "conversation"]) == 0
    assert capsys.readouterr().out == f"<|start|>user<|message|>{HOSTILE}<|end|>\n"
    pipe_in(monkeypatch, f"<|channel|>final<|message|>{HOSTILE}<|return|>")
    assert main(["harmony", "parse"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["messages"][0]["content"] == HOSTILE and "\x9b" in out


def test_an_empty_list_is_no_tokens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe_in(monkeypatch, "[]\n")
    assert main(["harmony", "parse"]) == 0
    nothing = capsys.readouterr().out
    assert main(["harmony", "parse", "--ids", ""]) == 0
    assert capsys.readouterr().out == nothing and json.loads(nothing)["messages"] == []


def test_tokenizers_are_never_downloaded(
    talk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(*_: Any) -> Path:
        raise AssertionError("asked for a download")

    monkeypatch.setattr(hub, "_snapshot", no_network)
    monkeypatch.chdir(tmp_path)
    outputs = []
    for name in ("o200k_harmony", "gpt-oss-20b", "gpt-oss-120b", "openai/gpt-oss-20b"):
        assert main(["harmony", "render", talk, "--json", "--tokenizer", name]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs == outputs[:1] * 4
    for name in ("somebody/something", "gpt-5", "no/such/folder"):
        assert main(["harmony", "render", talk, "--tokenizer", name]) == 2
        err = capsys.readouterr().err
        assert f"no folder {name!r}" in err and "use o200k_harmony, nano or the folder" in err
    (tmp_path / "gpt-oss-20b").mkdir()
    (tmp_path / "gpt-oss-20b" / "tokenizer.json").write_bytes(
        (hub.embedded("nano") / "tokenizer.json").read_bytes()
    )
    assert main(["harmony", "render", talk, "--json", "--tokenizer", "gpt-oss-20b"]) == 0
    assert capsys.readouterr().out != outputs[0]
