"""`ossia mcp serve`: our tools as an MCP server, for other programs.

A tool that can be served is a line in TOOLS. The server is `tools/mcp/serving.py`.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from ossia.commands.hosted.browsing import OPTIONS as OF_BROWSER
from ossia.commands.hosted.browsing import (
    Service,
    browser,
    corpus_option,
    search_option,
    searx_option,
)
from ossia.commands.options import Command, Group, option
from ossia.errors import McpError

if TYPE_CHECKING:
    from ossia.tools import Tool
    from ossia.tools.mcp.serving import CallerOf

EPILOG = """\
examples:
  ossia mcp serve --tools apply_patch --patch-root .
                             on standard input and output: an entry of mcpServers is
                             {"command": "ossia", "args": ["mcp", "serve", "--tools", ...]}
  ossia mcp serve --tools browser,python --corpus docs --http 127.0.0.1:9000
                             over streamable HTTP, at http://127.0.0.1:9000/mcp
  ossia mcp serve --tools python --http 0.0.0.0:9000 --keys keys.txt
                             for other machines: only those who send Authorization: Bearer KEY
"""


@dataclass(frozen=True)
class Options:
    """What `ossia mcp serve` takes."""

    tools: str = option("", "which tools, between commas", "NAMES", shown="none")
    patch_root: Path = option(Path("."), "the folder that apply_patch edits", "DIR")
    corpus: str | None = corpus_option()
    searx: str | None = searx_option()
    search: Service | None = search_option()
    http: str | None = option(None, "listen there instead of on standard input", "HOST:PORT")
    keys: Path | None = option(None, "who may connect, as for `ossia serve`", "FILE")


def _apply_patch(options: Options) -> Tool:
    from ossia.tools.patch import ApplyPatch

    return ApplyPatch(options.patch_root)


def _browser(options: Options) -> Tool:
    return browser(options)


def _python(options: Options) -> Tool:
    """The sandbox is proved here; without one, nothing is served."""
    from ossia.tools.python import Python

    python = Python()
    python.prepare()
    return python


TOOLS: Mapping[str, Callable[[Options], Tool]] = {
    "apply_patch": _apply_patch,
    "browser": _browser,
    "python": _python,
}


def serve(options: Options) -> None:
    """Until the client goes away, or Ctrl-C."""
    names = [name.strip() for name in options.tools.split(",") if name.strip()]
    unknown = [name for name in names if name not in TOOLS]
    if unknown or not names:
        what = f"there is no tool {unknown[0]!r}" if unknown else "no tools are named"
        raise McpError(f"{what}: --tools takes some of {', '.join(TOOLS)}, between commas")
    of_browser = [name for name in OF_BROWSER if getattr(options, name) is not None]
    if of_browser and "browser" not in names:
        raise McpError(f"--{of_browser[0]} is of the tool browser: add --tools browser")
    tools = [TOOLS[name](options) for name in dict.fromkeys(names)]
    if options.http is None:
        from ossia.tools.mcp.serving import serve_stdio

        asyncio.run(serve_stdio(tools))
        return
    host, port = _address(options.http)
    _serve_http(tools, host, port, _callers(options.keys, host))


def _serve_http(tools: list[Tool], host: str, port: int, caller_of: CallerOf | None) -> None:
    import uvicorn

    from ossia.tools.mcp.serving import http_app

    uvicorn.run(http_app(tools, host, caller_of), host=host, port=port, log_level="warning")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise McpError(f"--http takes HOST:PORT, such as 127.0.0.1:9000, found {text!r}")
    return host, int(port)


def _callers(keys: Path | None, host: str) -> CallerOf | None:
    """Whose key a text is. Without keys only this machine is let in."""
    if keys is None:
        if host != "localhost" and not _is_loopback(host):
            raise McpError(f"{host} is reached from other machines: give --keys FILE")
        return None
    from ossia.server.keys import read_keys

    names = {key.digest: key.name for key in read_keys(keys)}
    return lambda key: names.get(sha256(key.encode()).hexdigest())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


COMMAND = Group(
    {"serve": ("Serve our tools to other programs.", Command(Options, serve, EPILOG))}, EPILOG
)
