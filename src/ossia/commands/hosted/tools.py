"""The tools that `ossia serve --tools` runs itself: options, and the tools that they mean.

Everything that can be wrong is found at start: a sandbox that does not hold, a package or a corpus
that is missing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ossia.commands.hosted import browsing, mcp
from ossia.commands.hosted.browsing import Found
from ossia.commands.options import option
from ossia.errors import RequestError

if TYPE_CHECKING:
    from ossia.server.hosted.mcp import McpServers
    from ossia.tools import Tool
    from ossia.tools.containers import Containers
    from ossia.tools.mcp import RemotePython

NAMES = ("browser", "python", "shell")
RUN_CODE = {"python", "shell"}
OF_BROWSER = browsing.OPTIONS
OF_CODE = ("containers", "python_unsafe")


@dataclass(frozen=True)
class Hosted:
    """What the server runs when a request asks for it."""

    TITLE: ClassVar[str] = "tools"
    ABOUT: ClassVar[str | None] = (
        "What the server runs itself, when a request asks for it. Packages: ossia[tools]."
    )

    tools: str = option("", "browser, python and shell, between commas", "NAMES", shown="none")
    corpus: tuple[str, ...] = browsing.corpora_option()
    searx: str | None = browsing.any_searx_option()
    search: tuple[Found, ...] = browsing.searches_option()
    containers: str | None = option(
        None, "where the files of code are kept", "DIR", shown="a temporary folder"
    )
    python_mcp: str | None = option(
        None,
        "run code at the MCP server of this address, such as another ossia's; a key for it is "
        "OSSIA_PYTHON_KEY in the environment",
        "URL",
        shown="here, in a sandbox",
    )
    python_unsafe: bool = option(
        False, "run code WITHOUT a sandbox; only where --host is this machine"
    )
    mcp: str | None = option(
        None, "MCP servers, as other clients have them: {mcpServers: {...}}", "FILE", shown="none"
    )
    mcp_any: bool = option(
        False, "let requests bring the server_url of MCP servers on the public internet"
    )
    citations: Literal["links", "marks"] = option(
        "links", "what becomes of the marks by which the model cites pages"
    )

    @property
    def names(self) -> tuple[str, ...]:
        return names_in(self.tools)


def names_in(text: str) -> tuple[str, ...]:
    """Names between commas, each once."""
    names = (name.strip() for name in text.split(","))
    return tuple(dict.fromkeys(filter(None, names)))


@dataclass
class Made:
    """`about`: a line for people about each tool."""

    tools: list[Tool] = field(default_factory=list)
    containers: Containers | None = None
    mcp: McpServers | None = None
    about: list[str] = field(default_factory=list)


def check(options: Hosted, *, is_loopback: bool) -> None:
    """Raises `RequestError` for options that make no sense together."""
    for name in options.names:
        if name not in NAMES:
            known = ", ".join(NAMES)
            raise RequestError(f"--tools {name}: there is no such tool; there are {known}")
    browsing.corpora(options.corpus)
    names = set(options.names)
    for tools, fields in (({"browser"}, OF_BROWSER), (RUN_CODE, OF_CODE)):
        for each in fields:
            if getattr(options, each) and not names & tools:
                flag = each.replace("_", "-")
                tool = min(tools)
                raise RequestError(f"--{flag} is of the tool {tool}: add --tools {tool}")
    _check_remote(options)
    if options.python_unsafe and not is_loopback:
        raise RequestError(
            "--python-unsafe lets whoever asks change this machine: it works only with a --host "
            "that is this machine, such as 127.0.0.1"
        )


def _check_remote(options: Hosted) -> None:
    if options.python_mcp is None:
        return
    if "python" not in options.names:
        raise RequestError("--python-mcp is of the tool python: add --tools python")
    here = [f"--{name.replace('_', '-')}" for name in OF_CODE if getattr(options, name)]
    if "shell" in options.names:
        here.append("--tools shell")
    if here:
        raise RequestError(f"{here[0]} is for code that runs here; --python-mcp runs it elsewhere")


def make(options: Hosted) -> Made:
    """Raises `OssiaError` for a tool that does not work here."""
    made = Made()
    if "browser" in options.names:
        _add_browser(options, made)
    if options.python_mcp is not None:
        made.tools.append(remote_python(options.python_mcp))
        made.about.append("python: at another MCP server")
    elif RUN_CODE & set(options.names):
        _add_code(options, made)
    if options.mcp is not None or options.mcp_any:
        made.mcp = mcp.connected(options.mcp, strangers=options.mcp_any)
        made.about += mcp.about(made.mcp)
    return made


def _add_browser(options: Hosted, made: Made) -> None:
    made.tools.append(browsing.browser_of(options))
    made.about.append(f"browser: {browsing.about_sources(options)}")


def remote_python(url: str) -> RemotePython:
    """Raises `OssiaError` for a server that is not there, or has no such tool."""
    from ossia.tools.browser.needed import check_installed
    from ossia.tools.mcp import McpConfig, RemotePython

    check_installed("mcp")
    key = os.environ.get("OSSIA_PYTHON_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return RemotePython.connect(McpConfig("python", url=url, headers=headers, timeout=150.0))


def _add_code(options: Hosted, made: Made) -> None:
    """The sandbox is proved here: it takes half a second."""
    from ossia.tools.containers import Containers
    from ossia.tools.python import Python, PythonSettings
    from ossia.tools.shell import Shell
    from ossia.tools.shell_place import InContainers

    settings = PythonSettings(unsafe=options.python_unsafe)
    kept = None if options.containers is None else Path(options.containers).expanduser()
    containers = Containers(kept, new_owner=lambda: python.new_owner())
    python = Python(settings, containers=containers)
    rung = python.prepare()
    if "python" in options.names:
        made.tools.append(python)
    if "shell" in options.names:
        made.tools.append(Shell(InContainers(python)))
    made.containers = python.containers
    names = " and ".join(name for name in options.names if name in RUN_CODE)
    made.about.append(f"{names}: in {rung.name}, {rung.about}")
