"""The file of MCP servers: what other clients have in theirs is read, what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ossia.errors import McpError
from ossia.tools.mcp import McpConfig, read_config
from ossia.tools.mcp.config import RESERVED, recipient_name
from ossia.tools.mcp.declaring import Listed, declared


def read(folder: Path, value: Any) -> tuple[McpConfig, ...]:
    path = folder / "mcp.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return read_config(path)


def test_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "s3cret")
    files, team = read(
        tmp_path,
        {
            "mcpServers": {
                "my files": {"command": "npx", "args": ["-y", "x"], "env": {"A": "${KEY}"}},
                "off": {"command": "x", "disabled": True},
                "browser": {
                    "type": "http",
                    "url": "https://example.com/mcp",
                    "headers": {"Authorization": "Bearer ${KEY}", "B": "${NONE:-b}"},
                    "allow": ["search"],
                    "approval": "always",
                    "timeout": 5,
                    "autoApprove": [],
                },
            }
        },
    )
    assert (files.label, files.command, files.env) == (
        "my_files",
        ("npx", "-y", "x"),
        {"A": "s3cret"},
    )
    assert (files.approval, files.timeout, files.allow) == ("writes", 60.0, None)
    assert (team.label, team.allow, team.timeout) == ("browser_mcp", frozenset({"search"}), 5.0)
    assert team.headers == {"Authorization": "Bearer s3cret", "B": "b"}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (3, "must be an object"),
        ({}, "either a command or a url"),
        ({"command": "x", "url": "http://x"}, "either a command or a url"),
        ({"command": ["x"]}, "command must be text"),
        ({"command": "x", "args": "y"}, "args must be a list"),
        ({"command": "x", "env": {"A": 3}}, "env must be text"),
        ({"command": "x", "timeout": 0}, "timeout must be"),
        ({"command": "x", "timeout": "soon"}, "timeout must be"),
        ({"command": "x", "approval": "maybe"}, "approval must be"),
        ({"command": "x", "allow": "all"}, "allow must be a list"),
        ({"command": "x${NO_SUCH_VARIABLE}"}, "needs the environment variable NO_SUCH_VARIABLE"),
        ({"url": "file:///etc/passwd"}, "must begin with http"),
        ({"url": "http://x", "type": "sse"}, "use its streamable HTTP address"),
    ],
)
def test_what_is_wrong(tmp_path: Path, entry: Any, said: str) -> None:
    with pytest.raises(McpError, match="the server 'team'") as raised:
        read(tmp_path, {"mcpServers": {"team": entry}})
    assert said in str(raised.value)


@pytest.mark.parametrize("value", ["", "[]", "{}", '{"mcpServers": []}', "[" * 100_000])
def test_files_of_another_form(tmp_path: Path, value: str) -> None:
    with pytest.raises(McpError):
        read(tmp_path, value)
    with pytest.raises(McpError, match="cannot be read"):
        read_config(tmp_path / "none")


def test_names_that_recipients_can_have() -> None:
    names: list[str] = []
    for name in ("a.b-c", "a b c", "functions", "1st", "日本", "x" * 100, "<|end|>"):
        names.append(recipient_name(name, names, RESERVED))
    assert names[:5] == ["a_b_c", "a_b_c_2", "functions_mcp", "_1st", "mcp"]
    assert (len(names[5]), names[6]) == (64, "end")


def test_schemas_are_tidied() -> None:
    schema = {
        "title": "Arguments",
        "$schema": "x",
        "type": "object",
        "properties": {
            "title": {"title": "Title", "type": "string", "description": "d" * 2000},
            "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            "kind": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
            "fixed": {"const": {"title": "kept"}},
        },
    }
    config = McpConfig("team", ("x",))
    made = declared(config, None, [Listed("f", "", schema), Listed("g", "", {"type": "object"})])
    properties = made.tools["f"].function.parameters["properties"]
    assert set(made.tools["f"].function.parameters) == {"type", "properties"}
    assert properties["limit"] == {"type": "integer"}
    assert properties["kind"] == schema["properties"]["kind"]  # type: ignore[index]
    assert properties["fixed"] == {"const": {"title": "kept"}}
    assert set(properties["title"]) == {"type", "description"}
    assert len(properties["title"]["description"]) == 1000
    assert made.tools["g"].function.parameters is None


def test_a_server_declares_so_much_and_no_more() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x" * 30_000]}}}
    listed = [Listed(f"t{n}", "", schema) for n in range(20)]
    assert len(declared(McpConfig("team", ("x",)), None, listed).tools) == 8
