"""What lets in at an MCP server is in no echo and no log."""

from __future__ import annotations

import json
import logging

import pytest

from ossia.server import logs
from ossia.server.hosted.secrets import in_body, shown

TOOL = {
    "type": "mcp",
    "server_label": "x",
    "server_url": "https://user:s3cret@x.example:8443/s3cret?token=s3cret#s3cret",
    "authorization": "s3cret",
    "headers": {"X-Key": "s3cret"},
}

ANTHROPICS = {
    "type": "url",
    "name": "x",
    "url": "https://x.example/s3cret",
    "authorization_token": "s3cret",
}


def deep(key: str, depth: int) -> bytes:
    """A body whose last value is nested as deeply as some readers go, and others do not."""
    return json.dumps({"tools": [TOOL]}).encode()[:-1] + b', "%s": %s%s}' % (
        key.encode(),
        b"[" * depth,
        b"]" * depth,
    )


def test_a_declaration_without_its_secrets() -> None:
    made = shown(TOOL)
    assert made["server_url"] == "https://x.example/<redacted>"
    assert set(made) == {"type", "server_label", "server_url"}
    for url in ("s3cret", "https://[s3cret", 3, "//s3cret@"):
        assert "s3cret" not in str(shown({"server_url": url}))


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"input": "hi", "tools": [{"type": "function"}, TOOL]}).encode(),
        json.dumps({"tools": [TOOL]}).replace("mcp", "m\\u0063p").encode(),
        json.dumps({"tools": [TOOL]}).encode()[:-1],
        json.dumps({"tools": [TOOL]}).encode("utf-16"),
        json.dumps({"mcp_servers": [ANTHROPICS]}).encode(),
        json.dumps({"tools": [TOOL]}).encode()[:-1] + b', "tools": []}',
        b'{"tools": [' + json.dumps(TOOL).encode() + b'], "t\\u006fols": []}',
        json.dumps({"tools": [TOOL]})
        .replace('"server_label"', '"headers": {}, "server_label"')
        .replace('"X-Key"', '"a": {"X-Key": 1}, "X-Key"')
        .encode(),
        deep("input", 300),
        deep("input", 1010),
        deep("tools", 1010),
    ],
)
def test_the_log_of_requests(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ossia.prompts"):
        logs.prompt("req_1", body)
    written = caplog.text.replace("\0", "")
    assert "req_1" in written and "X-Key" not in written and "s3cret" not in written


def test_other_bodies_are_logged_as_they_came() -> None:
    for body in (b'{"input": "what is mcp?"}', b"{", b"[3]", b'{"tools": [{"type": "mcp2"}, 3]}'):
        assert in_body(body) == body
