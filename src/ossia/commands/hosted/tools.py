"""The tools that `ossia serve --tools` runs itself: options, and the tools that they mean.

Everything that can be wrong is found at start: a sandbox that does not hold, a package or a corpus
that is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ossia.commands.options import option
from ossia.errors import RequestError

if TYPE_CHECKING:
    from ossia.tools import Tool
    from ossia.tools.containers import Containers

NAMES = ("browser", "python")
OF_BROWSER = ("corpus", "searx")
OF_PYTHON = ("containers", "python_unsafe")


@dataclass(frozen=True)
class Hosted:
    """What the server runs when a request asks for it."""

    TITLE: ClassVar[str] = "tools"
    ABOUT: ClassVar[str | None] = (
        "What the server runs itself, when a request asks for it. Packages: ossia[tools]."
    )

    tools: str = option("", "browser, python, or both between commas", "NAMES", shown="none")
    corpus: str | None = option(
        None,
        "what the browser searches: a folder of texts, or a file of JSON lines",
        "DIR",
        shown="nothing: it opens URLs",
        one_of="search",
    )
    searx: str | None = option(
        None, "address of a SearXNG that the browser searches the web with", "URL", one_of="search"
    )
    containers: str | None = option(
        None, "where the files of code are kept", "DIR", shown="a temporary folder"
    )
    python_unsafe: bool = option(
        False, "run code WITHOUT a sandbox; only where --host is this machine"
    )
    citations: Literal["links", "marks"] = option(
        "links", "what becomes of the marks by which the model cites pages"
    )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(filter(None, (name.strip() for name in self.tools.split(","))))


@dataclass
class Made:
    """`about`: a line for people about each tool."""

    tools: list[Tool] = field(default_factory=list)
    containers: Containers | None = None
    about: list[str] = field(default_factory=list)


def check(options: Hosted, *, is_loopback: bool) -> None:
    """Raises `RequestError` for options that make no sense together."""
    for name in options.names:
        if name not in NAMES:
            known = " and ".join(NAMES)
            raise RequestError(f"--tools {name}: there is no such tool; there are {known}")
    for tool, fields in (("browser", OF_BROWSER), ("python", OF_PYTHON)):
        for each in fields:
            if getattr(options, each) and tool not in options.names:
                flag = each.replace("_", "-")
                raise RequestError(f"--{flag} is of the tool {tool}: add --tools {tool}")
    if options.python_unsafe and not is_loopback:
        raise RequestError(
            "--python-unsafe lets whoever asks change this machine: it works only with a --host "
            "that is this machine, such as 127.0.0.1"
        )


def make(options: Hosted) -> Made:
    """Raises `OssiaError` for a tool that does not work here."""
    made = Made()
    if "browser" in options.names:
        _add_browser(options, made)
    if "python" in options.names:
        _add_python(options, made)
    return made


def _add_browser(options: Hosted, made: Made) -> None:
    from ossia.tools.browser import Browser
    from ossia.tools.browser.needed import check_installed

    for package in ("httpx2", "lxml", "protego"):
        check_installed(package)
    made.tools.append(Browser(options.corpus, options.searx))
    source = "opens URLs, searches nothing"
    if options.corpus is not None:
        source = f"searches {options.corpus}"
    elif options.searx is not None:
        source = f"searches with {options.searx}"
    made.about.append(f"browser: {source}")


def _add_python(options: Hosted, made: Made) -> None:
    """The sandbox is proved here: it takes half a second."""
    from ossia.tools.containers import Containers
    from ossia.tools.python import Python, PythonSettings

    settings = PythonSettings(unsafe=options.python_unsafe)
    kept = None if options.containers is None else Path(options.containers).expanduser()
    containers = Containers(kept, new_owner=lambda: python.new_owner())
    python = Python(settings, containers=containers)
    rung = python.prepare()
    made.tools.append(python)
    made.containers = python.containers
    made.about.append(f"python: in {rung.name}, {rung.about}")
