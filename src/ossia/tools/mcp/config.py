"""The file that says which MCP servers there are, in the form that other clients have:

    {"mcpServers": {"files": {"command": "npx", "args": ["-y", "..."], "env": {"KEY": "${KEY}"}},
                    "team": {"url": "https://example.com/mcp", "headers": {...},
                             "allow": ["search"], "approval": "always", "timeout": 30}}}

Knows the file; opens no connection. What is secret in it is in no `repr`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ossia.errors import McpError

if TYPE_CHECKING:
    from ossia.tools.browser.transport import Guard

SECONDS = 60.0  # of a call, and of connecting
MOST_SECONDS = 600.0
MOST_LABEL = 64  # characters
MOST_SERVERS = 32
RESERVED = frozenset(
    {"functions", "browser", "python", "container", "assistant", "user", "system", "developer"}
    | {"tool", "all"}
)
Approval: TypeAlias = Literal["always", "writes", "never"]
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class McpConfig:
    """A server: a `command` to start, or the `url` of one. `allow`: the tools that may be used;
    None: all. `approval`: which calls have to be approved; "writes" are those of all tools that do
    not say that they only read. `timeout`: seconds of a call, and of connecting. `guard`: what of
    a `url` may be connected to, for a stranger's; None: anything.
    """

    label: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None
    url: str | None = field(default=None, repr=False)  # may hold a token
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    allow: frozenset[str] | None = None
    approval: Approval = "writes"
    timeout: float = SECONDS
    guard: Guard | None = field(default=None, repr=False)


def read_config(path: Path | str) -> tuple[McpConfig, ...]:
    """Raises McpError, which names the server and repeats no value of it."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise McpError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise McpError(f"{path} is not JSON: {error}") from error
    servers = data.get("mcpServers") if isinstance(data, Mapping) else None
    if not isinstance(servers, Mapping):
        raise McpError(f'{path} has no servers: it needs {{"mcpServers": {{"NAME": {{...}}}}}}')
    if len(servers) > MOST_SERVERS:
        raise McpError(f"{path} has {len(servers)} servers, and {MOST_SERVERS} are allowed")
    made: list[McpConfig] = []
    for name, entry in servers.items():
        where = f"{path}: the server {name!r}"
        if not isinstance(entry, Mapping):
            raise McpError(f"{where} must be an object with a command or a url")
        if entry.get("disabled") is not True:
            label = recipient_name(str(name), {each.label for each in made}, RESERVED)
            made.append(_server(label, entry, where))
    return tuple(made)


def recipient_name(name: str, taken: Iterable[str], reserved: Collection[str] = frozenset()) -> str:
    """A name that recipients can have, letters, digits and underscores, and that is none of
    these.
    """
    clean = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")[:MOST_LABEL] or "mcp"
    if clean[0].isdigit():
        clean = f"_{clean}"
    if clean in reserved:
        clean = f"{clean}_mcp"
    found = clean
    number = 2
    while found in taken:
        found = f"{clean}_{number}"
        number += 1
    return found


def label_of(given: str) -> str:
    """The name of the namespace of a server that a person calls so."""
    return recipient_name(given, (), RESERVED)


def _server(label: str, entry: Mapping[str, Any], where: str) -> McpConfig:
    command = entry.get("command")
    url = entry.get("url")
    if (command is None) == (url is None):
        raise McpError(f"{where} must have either a command or a url")
    if entry.get("type") == "sse":
        raise McpError(f"{where} is of type sse, which is gone: use its streamable HTTP address")
    args = _strings(entry.get("args", []), f"{where}: args")
    allow = entry.get("allow")
    approval = entry.get("approval", "writes")
    if approval not in ("always", "writes", "never"):
        raise McpError(f"{where}: approval must be always, writes or never")
    words: tuple[str, ...] = ()
    if command is not None:
        words = (_text(command, f"{where}: command"), *args)
    if url is not None:
        url = _url(url, where)
    cwd = entry.get("cwd")
    if cwd is not None:
        cwd = _text(cwd, f"{where}: cwd")
    allowed = None
    if allow is not None:
        allowed = frozenset(_strings(allow, f"{where}: allow"))
    return McpConfig(
        label,
        command=words,
        env=_texts(entry.get("env", {}), f"{where}: env"),
        cwd=cwd,
        url=url,
        headers=_texts(entry.get("headers", {}), f"{where}: headers"),
        allow=allowed,
        approval=approval,
        timeout=_seconds(entry.get("timeout", SECONDS), where),
    )


def _seconds(value: Any, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= MOST_SECONDS:
        raise McpError(f"{where}: timeout must be a number of seconds up to {MOST_SECONDS:g}")
    return float(value)


def _url(value: Any, where: str) -> str:
    url = _text(value, f"{where}: url")
    if not url.startswith(("http://", "https://")):
        raise McpError(f"{where}: url must begin with http:// or https://")
    return url


def _strings(value: Any, where: str) -> list[str]:
    if not isinstance(value, list):
        raise McpError(f"{where} must be a list of strings")
    return [_text(each, where) for each in value]


def _texts(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise McpError(f"{where} must be an object of strings")
    return {str(key): _text(each, where) for key, each in value.items()}


def _text(value: Any, where: str) -> str:
    """With the environment's variables in the place of `${NAME}` and `${NAME:-default}`."""
    if not isinstance(value, str) or "\0" in value:
        raise McpError(f"{where} must be text")

    def replaced(found: re.Match[str]) -> str:
        text = os.environ.get(found[1], found[2])
        if text is None:
            raise McpError(f"{where} needs the environment variable {found[1]}, which is not set")
        return text

    return _VARIABLE.sub(replaced, value)
