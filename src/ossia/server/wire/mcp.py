"""MCP servers that requests name: the operator's by their labels, and strangers' by their URLs
where the operator lets them.

A stranger's server is connected to for one request, through the guard, and what the request brings
to be let in there is kept nowhere. Knows declarations of type mcp; nothing of answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ossia.errors import McpError
from ossia.server.wire.errors import bad
from ossia.server.wire.fields import At
from ossia.tools.browser.transport import Guard
from ossia.tools.mcp import McpConfig, McpServer, RequestedServer, Which, Wishes
from ossia.tools.mcp.config import label_of

log = logging.getLogger("ossia.server")
MOST_STRANGERS = 8  # of a request
SECONDS = 30.0  # that a stranger has for an answer
HIDDEN = ("authorization", "headers")  # fields that are never shown to anybody
ELSEWHERE = ("connector_id", "tunnel_id")


@dataclass(frozen=True)
class Listed:
    """A server of a request: its `tools`, or why there are none."""

    label: str
    tools: Sequence[Mapping[str, Any]] = ()
    error: str | None = None


@dataclass
class McpVisit:
    """The servers of one request, by label. `close` it when the answer is over."""

    known: dict[str, McpServer] = field(default_factory=dict)
    strangers: list[McpServer] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # label -> why
    listed: list[Listed] = field(default_factory=list)

    async def close(self) -> None:
        strangers = self.strangers
        self.strangers = []
        for server in strangers:
            with suppress(Exception):
                await asyncio.to_thread(server.close)

    def requested(self, tool: At) -> RequestedServer | None:
        """What a declaration asks for; None if there is no such server. Raises `ApiError`."""
        label = tool["server_label"].word()
        for name in ELSEWHERE:
            if name in tool:
                why = f"names {tool[name].value!r:.80}: this server has no connectors or tunnels"
                raise tool[name].wrong(f"{why}; give the server_url of an MCP server")
        if label in self.failed:
            self.listed.append(Listed(label, error=self.failed[label]))
            return None
        server = self.known.get(label_of(label))
        if server is None:
            log.info("%s is passed over: there is no MCP server %.80r", tool.path, label)
            return None
        made = RequestedServer(server, _wishes(tool))
        self.listed.append(Listed(label, tuple(map(_shown, made.tools.values()))))
        return made


class McpServers:
    """`servers`: the operator's. `strangers`: whether requests may bring others; `guard`: what of
    them may be connected to.
    """

    def __init__(
        self,
        servers: Iterable[McpServer] = (),
        *,
        strangers: bool = False,
        guard: Guard | None = None,
    ) -> None:
        self.servers = {server.config.label: server for server in servers}
        self.strangers = strangers
        self.guard = guard or Guard()

    async def close(self) -> None:
        for server in self.servers.values():
            with suppress(Exception):
                await asyncio.to_thread(server.close)

    async def visit(
        self,
        tools: Sequence[Mapping[str, Any]] | None,
        known: Mapping[str, McpServer] | None = None,
        *,
        strangers: bool = True,
    ) -> McpVisit:
        """Connects to what the declarations name. `known`: the servers that the caller may use;
        None: all. `strangers`: whether the caller may bring others. Raises `ApiError`.
        """
        visit = McpVisit(dict(self.servers if known is None else known))
        configs = list(self._strangers(tools or (), self.strangers and strangers))
        opening = [asyncio.to_thread(McpServer.connect, config) for config in configs]
        for config, made in zip(
            configs, await asyncio.gather(*opening, return_exceptions=True), strict=True
        ):
            if isinstance(made, McpServer):
                visit.strangers.append(made)
                visit.known[config.label] = made
            elif isinstance(made, McpError):
                visit.failed[config.label] = str(made)
            else:
                await visit.close()
                raise made
        return visit

    def _strangers(self, tools: Sequence[Mapping[str, Any]], let_in: bool) -> Iterable[McpConfig]:
        """Raises `ApiError`."""
        labels: set[str] = set()
        for tool in At(tools, "tools").items():
            if tool["type"].value != "mcp" or "server_url" not in tool:
                continue
            label = tool["server_label"].word()
            ours = self.servers.get(label_of(label))
            if ours is not None:
                _check_ours(tool, ours)
            elif let_in:
                config = _config(tool, label, self.guard)
                if config.label in labels:
                    raise tool["server_label"].wrong(f"is another server's, too: {label!r:.80}")
                labels.add(config.label)
                yield config
        if len(labels) > MOST_STRANGERS:
            why = f"there are {len(labels)} servers of type mcp, and {MOST_STRANGERS} are allowed"
            raise bad(why, "tools")


def _check_ours(tool: At, ours: McpServer) -> None:
    """The label is the operator's: so are the address and what lets us in there."""
    if ours.config.url != tool["server_url"].text():
        raise tool["server_url"].wrong(
            f"is not the address of {ours.config.label!r} here; leave it out, or take another label"
        )
    for name in HIDDEN:
        if name in tool:
            raise tool[name].wrong(f"is the operator's for {ours.config.label!r}; leave it out")


def _config(tool: At, label: str, guard: Guard) -> McpConfig:
    url = tool["server_url"].text()
    if urlsplit(url).scheme not in ("http", "https"):
        raise tool["server_url"].wrong("must begin with http:// or https://")
    headers: dict[str, str] = {}
    if "headers" in tool:
        for name, value in tool["headers"].object().value.items():
            headers[str(name)] = At(value, f"{tool.path}.headers.{name:.40}").text()
    if "authorization" in tool:
        headers["Authorization"] = f"Bearer {tool['authorization'].text()}"
    for name, value in headers.items():
        if not (name.isascii() and value.isascii() and value.isprintable()):
            raise tool["headers"].wrong("must be of printable ASCII characters")
    return McpConfig(
        label_of(label),
        url=url,
        headers=headers,
        approval="always",
        timeout=SECONDS,
        guard=guard,
    )


def _wishes(tool: At) -> Wishes:
    about = tool["server_description"].text("")
    allowed = _which(tool["allowed_tools"])
    wanted = tool["require_approval"]
    match wanted.value:
        case None:
            return Wishes(allowed, about=about)
        case "always":
            return Wishes(allowed, asked=Which(), about=about)
        case "never":
            return Wishes(allowed, trusted=Which(), about=about)
    wanted.object("always, never or an object with filters of tools")
    filters = {word: _which(wanted[word]) for word in ("always", "never") if word in wanted}
    return Wishes(allowed, filters.get("always"), filters.get("never"), about)


def _which(given: At) -> Which:
    """A list of names, or a filter."""
    if given.value is None:
        return Which()
    if isinstance(given.value, list):
        return Which(frozenset(each.text() for each in given.items()))
    given.object("a list of names, or a filter of tools")
    names = None
    if "tool_names" in given:
        names = frozenset(each.text() for each in given["tool_names"].items())
    return Which(names, given["read_only"].flag() if "read_only" in given else None)


def _shown(tool: Any) -> dict[str, Any]:
    """A tool of `mcp_list_tools`: as the model reads it, so that it has bounds."""
    return {
        "name": tool.listed.name,
        "description": tool.function.description or None,
        "input_schema": tool.function.parameters or {"type": "object"},
        "annotations": {"readOnlyHint": tool.listed.reads},
    }


def echoed(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A declaration as it is shown: without what lets us in. An address may hold a token."""
    shown = {key: value for key, value in tool.items() if key not in HIDDEN}
    url = shown.get("server_url")
    if isinstance(url, str):
        parts = urlsplit(url)
        shown["server_url"] = f"{parts.scheme}://{parts.hostname}/<redacted>"
    return shown
