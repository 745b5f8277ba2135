"""MCP servers that requests name: the operator's by their labels, and strangers' by their URLs
where the operator lets them.

Each caller has a connection of its own to a server of the operator's. A stranger's is connected to
for one request, through the guard, and what the request brings to be let in there is kept nowhere.
Knows declarations of type mcp; nothing of answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from secrets import token_hex
from typing import Any

from ossia.errors import ContainerError, McpError
from ossia.server.hosted.calls import has_right
from ossia.server.hosted.secrets import HIDDEN
from ossia.server.settings import Limits
from ossia.server.wire.errors import bad
from ossia.server.wire.fields import At
from ossia.tools import SessionKey, Toolbox
from ossia.tools.browser.transport import Guard
from ossia.tools.containers import Containers
from ossia.tools.kinds import MCP, PYTHON, SHELL
from ossia.tools.mcp import McpConfig, McpServer, RequestedServer, Which, Wishes
from ossia.tools.mcp.config import label_of
from ossia.tools.mcp.declaring import DeclaredTool

log = logging.getLogger("ossia.server")
MOST_STRANGERS = 8  # of a request
MOST_HEADERS = 64
LONGEST_HEADER = 16_384  # characters
SECONDS = 30.0  # that a stranger has for an answer
ELSEWHERE = ("connector_id", "tunnel_id")
OURS = frozenset({"connection", "content-length", "host", "transfer-encoding"})
FILTERS = ("always", "never")
SCHEMES = ("http://", "https://")


@dataclass(frozen=True)
class Listed:
    """A server of a request: its `tools`, or why there are none."""

    label: str
    tools: Sequence[Mapping[str, Any]] = ()
    error: str | None = None


@dataclass
class McpVisit:
    """The servers that one request may use, by their namespaces. `close` it when the answer is
    over. `listed`: what the client is shown of those that it declared.
    """

    known: dict[str, McpServer] = field(default_factory=dict)
    strangers: dict[str, McpServer] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # why a stranger cannot be reached
    listed: list[Listed] = field(default_factory=list)

    def has_failed(self, tool: At) -> bool:
        """Whether a declared server could not be reached; the client is told why."""
        return label_of(tool["server_label"].word()) in self.failed

    def close(self) -> None:
        """Nobody waits for strangers to say goodbye."""
        for server in self.strangers.values():
            server.let_go()
        self.strangers = {}

    def requested(self, tool: At) -> RequestedServer | None:
        """What a declaration asks for; None if there is no such server for this caller. Raises
        `ApiError`.
        """
        check_kind(tool)
        label = tool["server_label"].word()
        name = label_of(label)
        if name in self.failed:
            self.listed.append(Listed(label, error=self.failed[name]))
            return None
        is_strange = name in self.strangers
        server = self.strangers.get(name) or self.known.get(name)
        if server is None:
            return None
        wishes = _wishes(tool, others=is_strange)
        made = RequestedServer(server, label, wishes, is_strange)
        tools = [_shown(each) for each in made.tools.values()]
        self.listed.append(Listed(label, tools))
        return made


def check_kind(tool: At) -> None:
    """Raises `ApiError` for servers that only their own provider can reach."""
    for name in ELSEWHERE:
        if name in tool:
            why = f"names {tool[name].value!r:.80}: this server has no connectors or tunnels"
            raise tool[name].wrong(f"{why}; give the server_url of an MCP server")


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
        ending = [asyncio.wrap_future(server.let_go()) for server in self.servers.values()]
        await asyncio.gather(*ending, return_exceptions=True)

    def allowed(self, limits: Limits) -> dict[str, McpServer]:
        """Those of the operator's that a caller may use."""
        return {
            label: server
            for label, server in self.servers.items()
            if has_right(limits, MCP.name, f"{MCP.name}:{label}")
        }

    async def visit(self, tools: Sequence[Mapping[str, Any]] | None, limits: Limits) -> McpVisit:
        """Connects to what the declarations bring, all at the same time. Raises `ApiError`."""
        visit = McpVisit(self.allowed(limits))
        brought = list(self._brought(tools or (), visit, limits))
        opening = [asyncio.ensure_future(McpServer.connected(config)) for config in brought]
        try:
            await asyncio.gather(*opening, return_exceptions=True)
            for config, made in zip(brought, opening, strict=True):
                error = made.exception()
                if error is None:
                    visit.strangers[config.label] = made.result()
                elif isinstance(error, McpError):
                    visit.failed[config.label] = str(error)
                else:
                    raise error
        except BaseException:
            for each in opening:
                each.cancel()
                if each.done() and not each.cancelled() and each.exception() is None:
                    visit.strangers[each.result().config.label] = each.result()
            visit.close()
            raise
        return visit

    def _brought(
        self, tools: Sequence[Mapping[str, Any]], visit: McpVisit, limits: Limits
    ) -> Iterator[McpConfig]:
        """Raises `ApiError`, before anything is connected to."""
        labels: set[str] = set()
        configs: list[McpConfig] = []
        for tool in At(tools, "tools").items():
            if tool["type"].value != MCP.name:
                continue
            check_kind(tool)
            label = label_of(tool["server_label"].word())
            if label in labels:
                again = f"is another server's, too: {tool['server_label'].value!r:.80}"
                raise tool["server_label"].wrong(again)
            labels.add(label)
            if "server_url" not in tool:
                continue
            if label in self.servers:
                if label in visit.known:
                    _check_ours(tool, self.servers[label])
            elif self.strangers and has_right(limits, MCP.name):
                configs.append(_config(tool, label, self.guard))
        if len(configs) > MOST_STRANGERS:
            why = f"there are {len(configs)} servers of type mcp, and {MOST_STRANGERS} are allowed"
            raise bad(why, "tools")
        yield from configs


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
    """Of a stranger. Calls need what approval the request says, for there is no operator's word."""
    url = tool["server_url"].text()
    if not url.startswith(SCHEMES) or not url.isprintable():
        raise tool["server_url"].wrong("must begin with http:// or https://")
    return McpConfig(
        label,
        url=url,
        headers=_headers(tool),
        approval="never",
        timeout=SECONDS,
        guard=guard,
    )


def _headers(tool: At) -> dict[str, str]:
    """Errors repeat no value."""
    given = tool["headers"]
    headers: dict[str, str] = {}
    if given.value is not None:
        for name, value in given.object("an object of strings").value.items():
            headers[str(name)] = At(value, f"{given.path}.{name:.40}").text().strip()
    if tool["authorization"].value is not None:
        headers["Authorization"] = f"Bearer {tool['authorization'].text()}"
    if not OURS.isdisjoint(map(str.lower, headers)):
        raise given.wrong(f"must not have any of {', '.join(sorted(OURS))}")
    lines = [f"{name}: {value}" for name, value in headers.items()]
    are_plain = all(line.isascii() and line.isprintable() for line in lines)
    are_small = all(len(line) <= LONGEST_HEADER for line in lines)
    if not (are_plain and are_small and len(lines) <= MOST_HEADERS):
        raise given.wrong(
            f"(with authorization) must be at most {MOST_HEADERS} headers of printable ASCII "
            "characters"
        )
    return headers


def _wishes(tool: At, *, others: bool) -> Wishes:
    """`others`: whether what the request does not name needs approval."""
    about = tool["server_description"].text("")
    allowed = _which(tool["allowed_tools"])
    wanted = tool["require_approval"]
    match wanted.value:
        case None:
            return Wishes(allowed, others=others, about=about)
        case "always":
            return Wishes(allowed, others=True, about=about)
        case "never":
            return Wishes(allowed, about=about)
    wanted.object("always, never or an object with filters of tools")
    filters = {word: _which(wanted[word]) for word in FILTERS if word in wanted}
    asked = filters.get("always")
    trusted = filters.get("never")
    return Wishes(allowed, asked, trusted, others, about)


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
    reads = None
    if "read_only" in given:
        reads = given["read_only"].flag()
    return Which(names, reads)


def with_files(tools: Toolbox, containers: Containers) -> Toolbox:
    """Results that are too long for the model are files of the container of its code, if it has
    one.
    """
    if not any(tool.kind in (PYTHON, SHELL) for tool in tools.builtin):
        return tools

    def save(key: SessionKey, name: str, text: str) -> str | None:
        stem, _, kind = name.rpartition(".")
        path = f"{stem}-{token_hex(4)}.{kind}"
        content = BytesIO(text.encode("utf-8", "replace"))
        try:
            container = containers.of(key.caller, key.container or key.conversation)
            containers.write(container, path, content)
        except (ContainerError, OSError) as error:
            log.warning("a long result of an MCP server is not kept: %s", error)
            return None
        return f"/mnt/data/{path}"

    saving = [
        replace(tool, save=save) if isinstance(tool, RequestedServer) else tool
        for tool in tools.builtin
    ]
    return replace(tools, builtin=tuple(saving))


def _shown(tool: DeclaredTool) -> dict[str, Any]:
    """A tool of `mcp_list_tools`: as the model reads it, so that it has bounds."""
    return {
        "name": tool.listed.name,
        "description": tool.function.description or None,
        "input_schema": tool.function.parameters or {"type": "object"},
        "annotations": {"readOnlyHint": tool.listed.reads},
    }
