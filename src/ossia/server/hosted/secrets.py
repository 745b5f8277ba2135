"""What a request brings to be let in at an MCP server: shown to nobody, kept and logged nowhere.

Knows the fields of a declaration; nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

HIDDEN = ("authorization", "headers")
TOKENS = ("authorization_token", *HIDDEN)  # Anthropic's name for it, too
ADDRESSES = ("server_url", "url")
LISTS = ("tools", "mcp_servers")  # the second is Anthropic's; all of its items are servers
MCP = "mcp"
LEFT_OUT = b"(it cannot be read, and is left out, for it may hold what lets in at a server)"
MARKS = (b"mcp", b"\\u", b"\0")  # of which one stands in a body of servers, however it is written


def shown(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A declaration without its secrets. Of an address there is the host: all else may be one."""
    made = {key: value for key, value in tool.items() if key not in TOKENS}
    for name in ADDRESSES:
        if made.get(name) is not None:
            made[name] = _host(made[name])
    return made


def _host(url: Any) -> str:
    try:
        parts = urlsplit(str(url))
        host = parts.hostname
    except ValueError:
        return "<redacted>"
    if not host:
        return "<redacted>"
    return f"{parts.scheme}://{host}/<redacted>"


def in_body(body: bytes) -> bytes:
    """A request's body as it may be logged; the same bytes if it declares no MCP server."""
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
        if not any(mark in body for mark in MARKS):
            return body
        return LEFT_OUT
    if not isinstance(asked, dict):
        return body
    plain = dict(asked)
    for name in LISTS:
        given = asked.get(name)
        if isinstance(given, list):
            plain[name] = [_plain(each, name) for each in given]
    may_hide = any(mark in body for mark in MARKS)
    try:
        if plain == asked and not (may_hide and _has_key_twice(body)):
            return body
        return orjson.dumps(plain)
    except (RecursionError, orjson.JSONEncodeError):  # it is nested too deeply
        return LEFT_OUT


def _has_key_twice(body: bytes) -> bool:
    """Whether it holds what no reader of it sees: of two values the last counts."""
    found = False

    def noted(pairs: list[tuple[str, Any]]) -> None:
        nonlocal found
        found |= len({key for key, _ in pairs}) < len(pairs)

    json.loads(body, object_pairs_hook=noted)
    return found


def _plain(declared: Any, where: str) -> Any:
    if not isinstance(declared, Mapping):
        return declared
    if where == "tools" and not _is_server(declared):
        return declared
    return shown(declared)


def _is_server(tool: Any) -> bool:
    return isinstance(tool, Mapping) and tool.get("type") == MCP
