"""What a request brings to be let in at an MCP server: shown to nobody, kept and logged nowhere.

Knows the fields of a declaration; nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

HIDDEN = ("authorization", "headers")
MCP = "mcp"


def shown(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A declaration without its secrets. Of an address there is the host: all else may be one."""
    made = {key: value for key, value in tool.items() if key not in HIDDEN}
    if made.get("server_url") is not None:
        made["server_url"] = _host(made["server_url"])
    return made


def _host(url: Any) -> str:
    try:
        parts = urlsplit(str(url))
        host = parts.hostname
    except ValueError:
        return "<redacted>"
    return f"{parts.scheme}://{host}/<redacted>" if host else "<redacted>"


def in_body(body: bytes) -> bytes:
    """A request's body as it may be logged; the same bytes if it declares no MCP server."""
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
        if b"mcp" not in body and b"\\u" not in body:
            return body
        return b"(it is not JSON, and is left out, for it may hold what lets in at a server)"
    tools = asked.get("tools") if isinstance(asked, dict) else None
    if not isinstance(tools, list) or not any(map(_is_server, tools)):
        return body
    asked["tools"] = [shown(tool) if _is_server(tool) else tool for tool in tools]
    return orjson.dumps(asked)


def _is_server(tool: Any) -> bool:
    return isinstance(tool, Mapping) and tool.get("type") == MCP
