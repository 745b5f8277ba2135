"""The tools of `ossia chat`: options, the tools that they mean, and what a person is told of them.

Everything that can be wrong is found before the model is loaded: a sandbox that does not hold, a
package, a corpus or an MCP server that is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ossia.commands.hosted.browsing import (
    Service,
    about_browser,
    browser,
    corpus_option,
    search_option,
    searx_option,
)
from ossia.commands.hosted.tools import names_in
from ossia.commands.options import option
from ossia.errors import RequestError

if TYPE_CHECKING:
    from ossia.tools import SessionKey, Tool
    from ossia.tools.approval import Approve
    from ossia.tools.mcp import McpServer

NAMES = ("apply_patch", "browser", "python", "shell")
OF_SERVERS = ("browser", "python")  # what a server may run itself
LONG = 7 * 24 * 3600.0  # seconds that variables and files are kept: a chat may be left for long


@dataclass(frozen=True)
class ChatTools:
    """What the model may use in a chat."""

    TITLE: ClassVar[str] = "tools"
    ABOUT: ClassVar[str | None] = (
        "What the model may use. Packages: ossia[tools]. You are asked before a patch, a command "
        "or an MCP\ncall that may write."
    )

    tools: str = option(
        "", "python, browser, shell and apply_patch, any of them between commas", "NAMES"
    )
    corpus: str | None = corpus_option()
    searx: str | None = searx_option()
    search: Service | None = search_option()
    mcp: str | None = option(
        None, "MCP servers: a file with mcpServers, as other clients have it", "FILE"
    )
    patch_root: str | None = option(
        None, "the folder that apply_patch edits", "DIR", shown="the current one"
    )
    python_unsafe: bool = option(False, "run code and commands WITHOUT a sandbox")

    @property
    def names(self) -> tuple[str, ...]:
        """As they are offered: a folder to patch means apply_patch."""
        named = names_in(self.tools)
        if self.patch_root is not None and "apply_patch" not in named:
            named = (*named, "apply_patch")
        return named


@dataclass
class Bench:
    """The tools of a chat by name, and a line about each. `forget`: what is to be done when a
    conversation is over.
    """

    tools: dict[str, Tool] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    forget: list[Callable[[SessionKey], object]] = field(default_factory=list)

    def add(self, name: str, tool: Tool, about: str) -> None:
        self.tools[name] = tool
        self.about[name] = about

    def end(self, key: SessionKey) -> None:
        """The conversation is over: nothing is kept of it, and no approval holds any more."""
        for forget in self.forget:
            forget(key)


def check(options: ChatTools) -> None:
    """Raises `RequestError` for options that make no sense together."""
    for name in options.names:
        if name not in NAMES:
            known = ", ".join(NAMES)
            raise RequestError(f"--tools {name}: there is no such tool; there are {known}")
    needs = {
        "corpus": ("browser",),
        "searx": ("browser",),
        "search": ("browser",),
        "python_unsafe": ("python", "shell"),
    }
    for each, tools in needs.items():
        if getattr(options, each) and not set(tools) & set(options.names):
            flag = each.replace("_", "-")
            raise RequestError(f"--{flag} is of {' and '.join(tools)}: add --tools {tools[0]}")


def asked_of_server(options: ChatTools) -> list[dict[str, str]]:
    """The server's own tools, as a request asks for them. Raises `RequestError` for what runs only
    here.
    """
    fields = ("corpus", "searx", "search", "mcp", "patch_root", "python_unsafe")
    given = [f"--{name.replace('_', '-')}" for name in fields if getattr(options, name)]
    given += [f"--tools {name}" for name in options.names if name not in OF_SERVERS]
    if given:
        raise RequestError(
            f"{', '.join(dict.fromkeys(given))}: such a tool runs beside a model that is loaded "
            "here, not with --server; of a server only --tools python and browser can be asked"
        )
    return [{"type": name} for name in options.names]


def make(options: ChatTools, approve: Approve) -> Bench:
    """Raises `OssiaError` for a tool that does not work here."""
    check(options)
    bench = Bench()
    if "apply_patch" in options.names:
        _add_patch(Path(options.patch_root or "."), bench, approve)
    if "browser" in options.names:
        bench.add("browser", browser(options), about_browser(options))
    if "python" in options.names or "shell" in options.names:
        _add_code(options, bench, approve)
    if options.mcp is not None:
        _add_mcp(options.mcp, bench, approve)
    return bench


def _add_patch(root: Path, bench: Bench, approve: Approve) -> None:
    from ossia.tools.patch import ApplyPatch

    patch = ApplyPatch(root.expanduser(), approve)
    bench.add("apply_patch", patch, f"edits files below {root.resolve()}; asks before each patch")
    bench.forget.append(lambda key: patch.approvals.forget())


def _add_code(options: ChatTools, bench: Bench, approve: Approve) -> None:
    """The sandbox is proved here: it takes half a second."""
    from ossia.tools import InContainers, Python, Shell
    from ossia.tools.containers import Containers, Rules
    from ossia.tools.python import PythonSettings
    from ossia.tools.sandbox import find

    unsafe = options.python_unsafe
    kept = Containers(rules=Rules(expires_after=LONG), new_owner=lambda: python.new_owner())
    python = Python(PythonSettings(idle_seconds=LONG, unsafe=unsafe), containers=kept)
    rung = python.prepare()
    better = () if unsafe else find().refused
    reasons = [f"not in {name}: {why}" for name, why in better]
    about = "; ".join([f"in {rung.name}, {rung.about}", *reasons])
    if "python" in options.names:
        bench.add("python", python, about)
    if "shell" in options.names:
        shell = Shell(InContainers(python), approve=approve)
        bench.add("shell", shell, f"asks before each call; {about}")
        bench.forget.append(lambda key: shell.approvals.forget())
    bench.forget.append(python.end)


def _add_mcp(file: str, bench: Bench, approve: Approve) -> None:
    from ossia.tools.browser.needed import check_installed
    from ossia.tools.mcp.servers import mcp_servers

    check_installed("mcp")
    for server in mcp_servers(Path(file).expanduser(), approve):
        names = [tool.name for tool in server.namespace.tools]
        asks = [name for name in names if server.needs_approval(name)]
        about = f"MCP server with {', '.join(names)}"
        if asks:
            about += f"; asks before {', '.join(asks)}"
        label = server.namespace.name
        if label in bench.tools:
            raise RequestError(f"--mcp {file}: the name {label!r} is a tool's already; rename it")
        bench.add(label, server, about)
        bench.forget.append(partial(_forget, server))


def _forget(server: McpServer, key: SessionKey) -> None:
    server.approved.clear()
