"""Our tools for other programs: an MCP server over the standard streams or HTTP.

Serves whatever tools it is given. A client's sessions are its own: they are kept by its key and
its connection, and close when it has been away for long. Knows the package's server; nothing of
what the tools do.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ossia.errors import McpError
from ossia.tools.protocol import SessionKey, Tool, ToolResult
from ossia.tools.sessions import Sessions
from ossia.tools.toolbox import TextFunction

if TYPE_CHECKING:
    from mcp import types
    from mcp.server.lowlevel import Server
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger("ossia.tools")
MOST_CLIENTS = 64  # whose sessions are kept
IDLE_SECONDS = 20 * 60.0
CALL_SECONDS = 150.0
LONGEST_REFUSED = 1 << 20  # bytes of a request that is refused, and read for its id
TEXT = {"python": "code"}  # what the text of a tool without JSON is called; others: `input`
CALLER = "ossia.caller"  # in a request's scope: the name of its key
CallerOf = Callable[[str], str | None]  # the name of a key; None for no key of ours


@dataclass(frozen=True)
class Served:
    """A function as MCP's clients see it. `text`: the argument that is the whole body, if the
    model's calls of it are text.
    """

    name: str
    tool: Tool
    function: str
    description: str
    schema: Mapping[str, Any]
    text: str | None = None

    def body(self, arguments: Mapping[str, Any]) -> str:
        """What the model would have written."""
        if self.text is None:
            return json.dumps(dict(arguments))
        return str(arguments.get(self.text, ""))


def served(tools: Sequence[Tool]) -> dict[str, Served]:
    """By name: a function's own, with its namespace's before it where two have the same."""
    found = [each for tool in tools for each in _functions(tool)]
    names = [each.name for each in found]
    made: dict[str, Served] = {}
    for each in found:
        name = each.name
        if names.count(name) > 1:
            name = f"{each.tool.namespace.name}_{name}"
        if name in made:
            raise McpError(f"two tools are called {name!r}: serve one of them")
        made[name] = each
    return made


def _functions(tool: Tool) -> list[Served]:
    space = tool.namespace
    if not space.tools:
        text = TEXT.get(space.name, "input")
        whole = Served(
            space.name,
            tool,
            "",
            space.description or "",
            _text_schema(text),
            text,
        )
        return [whole]
    made = []
    for function in space.tools:
        about = function.description
        if isinstance(function, TextFunction):
            schema = _text_schema("input")
            made.append(Served(function.name, tool, function.name, about, schema, "input"))
            continue
        parameters = function.parameters
        schema = dict(parameters) if isinstance(parameters, Mapping) else {}
        schema["type"] = "object"
        made.append(Served(function.name, tool, function.name, about, schema))
    return made


def _text_schema(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "string"}},
        "required": [name],
    }


class Clients:
    """The sessions of every client, those used last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[SessionKey, tuple[Sessions, float]] = OrderedDict()
        self._busy: dict[SessionKey, int] = {}

    async def call(self, key: SessionKey, each: Served, body: str) -> ToolResult:
        await self._make_room(key)
        sessions, _ = self._kept.pop(key, (Sessions(key, CALL_SECONDS), 0.0))
        self._kept[key] = (sessions, self._clock())
        self._busy[key] = self._busy.get(key, 0) + 1
        try:
            return await sessions.call(each.tool, each.function, body)
        finally:
            self._busy[key] -= 1
            if not self._busy[key]:
                del self._busy[key]

    async def _make_room(self, key: SessionKey) -> None:
        """Those that have been away go, and the one that has been away longest of too many."""
        now = self._clock()
        others = [each for each in self._kept if each != key and each not in self._busy]
        old = [each for each in others if now - self._kept[each][1] > IDLE_SECONDS]
        full = len(self._kept) - len(old) >= MOST_CLIENTS and key not in self._kept
        if full:
            old += others[:1]
        for each in dict.fromkeys(old):
            sessions, _ = self._kept.pop(each)
            await sessions.close()

    async def close(self) -> None:
        kept = [sessions for sessions, _ in self._kept.values()]
        self._kept.clear()
        await asyncio.gather(*(sessions.close() for sessions in kept))


def make_server(tools: Sequence[Tool], clients: Clients) -> Server[Any]:
    """Raises McpError if the package is missing, or two functions have one name."""
    try:
        from mcp import types
        from mcp.server.lowlevel import Server
    except ImportError:
        raise McpError("MCP needs `pip install 'ossia[tools]'`") from None
    by_name = served(tools)
    listed = [_listed(name, each) for name, each in by_name.items()]
    about = "\n\n".join(tool.namespace.description for tool in tools if tool.namespace.description)

    async def on_list(context: Any, parameters: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=listed)

    async def on_call(context: Any, parameters: Any) -> types.CallToolResult:
        each = by_name.get(parameters.name)
        if each is None:
            return _answer(ToolResult(f"there is no tool {parameters.name!r}", failed=True))
        key = _key(context.request)
        body = each.body(parameters.arguments or {})
        result = await clients.call(key, each, body)
        return _answer(result)

    return Server("ossia", instructions=about or None, on_list_tools=on_list, on_call_tool=on_call)


def _listed(name: str, each: Served) -> Any:
    """gpt-oss knows the tools that take text from its training, and reads no schema of them."""
    from mcp import types

    meta = {"include_in_prompt": False} if each.text and each.tool.kind.in_system else None
    schema = dict(each.schema)
    return types.Tool(name=name, description=each.description, input_schema=schema, _meta=meta)


def _answer(result: ToolResult) -> types.CallToolResult:
    """Texts, and images that the result has for clients."""
    from mcp import types

    content: list[Any] = [types.TextContent(type="text", text=result.text)]
    for output in result.outputs:
        head, _, data = str(output.get("url", "")).partition(";base64,")
        if output.get("type") == "image" and head.startswith("data:") and data:
            kind = head.removeprefix("data:")
            content.append(types.ImageContent(type="image", data=data, mime_type=kind))
    return types.CallToolResult(content=content, is_error=result.failed)


def _key(request: Any) -> SessionKey:
    """The client on the standard streams is one; over HTTP it is its key and its session."""
    if request is None:
        return SessionKey("stdio")
    caller = request.scope.get(CALLER, "")
    return SessionKey(caller, request.headers.get("mcp-session-id", ""))


async def serve_stdio(tools: Sequence[Tool]) -> None:
    """Until the client closes our input."""
    clients = Clients()
    server = make_server(tools, clients)
    from mcp.server.stdio import stdio_server

    try:
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
    finally:
        await clients.close()


def http_app(tools: Sequence[Tool], host: str, caller_of: CallerOf | None) -> ASGIApp:
    """At `/mcp`. `caller_of`: None lets everybody in who can connect."""
    app = _WithSessions(make_server(tools, Clients()).streamable_http_app(host=host))
    return app if caller_of is None else _WithKeys(app, caller_of)


class _WithSessions:
    """Speaks the versions of the protocol that have sessions. In the later ones every request
    stands alone, and nobody could tell whose variables and pages a call means; their clients are
    told which versions there are, and begin again with one of these.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from mcp.types import UNSUPPORTED_PROTOCOL_VERSION
        from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

        headers = dict(scope.get("headers", ()))
        asked = headers.get(b"mcp-protocol-version", b"").decode("latin-1")
        if not asked or asked in HANDSHAKE_PROTOCOL_VERSIONS:
            return await self.app(scope, receive, send)
        from starlette.requests import Request
        from starlette.responses import JSONResponse

        told = {
            "code": UNSUPPORTED_PROTOCOL_VERSION,
            "message": "this server needs sessions: begin with initialize",
            "data": {"supported": list(HANDSHAKE_PROTOCOL_VERSIONS), "requested": asked},
        }
        id = await _id_of(Request(scope, receive))
        body = {"jsonrpc": "2.0", "id": id, "error": told}
        return await JSONResponse(body, 400)(scope, receive, send)


async def _id_of(request: Request) -> Any:
    """Of a JSON-RPC request; None for anything else."""
    whole = b""
    async for part in request.stream():
        whole += part
        if len(whole) > LONGEST_REFUSED:
            return None
    try:
        said = json.loads(whole)
    except (ValueError, RecursionError):
        return None
    id = said.get("id") if isinstance(said, dict) else None
    return id if isinstance(id, str | int) else None


class _WithKeys:
    """Lets only those in who have a key, and marks their requests with its name."""

    def __init__(self, app: ASGIApp, caller_of: CallerOf) -> None:
        self.app = app
        self.caller_of = caller_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"")
        kind, _, key = given.partition(b" ")
        is_bearer = scope["type"] == "http" and kind.lower() == b"bearer"
        caller = self.caller_of(key.decode("latin-1")) if is_bearer else None
        if caller is not None:
            return await self.app({**scope, CALLER: caller}, receive, send)
        from starlette.responses import PlainTextResponse

        challenge = {"WWW-Authenticate": "Bearer"}
        refused = PlainTextResponse("a key is needed\n", 401, challenge)
        return await refused(scope, receive, send)
