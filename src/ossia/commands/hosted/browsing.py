"""What the browser of a command searches: options, and the browser that they mean.

Keys of search services come from the environment, never from the command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from ossia.commands.options import option
from ossia.errors import RequestError

if TYPE_CHECKING:
    from ossia.tools.browser import Backend, Browser

Service: TypeAlias = Literal["exa", "you"]
Found: TypeAlias = Literal["exa", "you", "none"]
SEARX = "searx"
ABOUT: Mapping[str, str] = {
    SEARX: "the web, with SearXNG",
    "exa": "the web, with Exa",
    "you": "the web, with You.com",
    "none": "nothing: it opens URLs",
}
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
NO_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
PACKAGES = ("httpx2", "lxml", "protego")
OPTIONS = ("corpus", "searx", "search")


class One(Protocol):
    """Options of a browser that has one source."""

    @property
    def corpus(self) -> str | None: ...
    @property
    def searx(self) -> str | None: ...
    @property
    def search(self) -> Service | None: ...


class Several(Protocol):
    """Options of a browser whose users choose."""

    @property
    def corpus(self) -> tuple[str, ...]: ...
    @property
    def searx(self) -> str | None: ...
    @property
    def search(self) -> tuple[Found, ...]: ...


# ---- options of one source ----


def corpus_option() -> str | None:
    """Of every command that has a browser, as the next two are."""
    about = "what the browser searches: a folder of texts, or a file of JSON lines"
    return option(None, about, "DIR", shown="nothing: it opens URLs", one_of="search")


def searx_option() -> str | None:
    about = "address of a SearXNG that the browser searches the web with"
    return option(None, about, "URL", one_of="search")


def search_option() -> Service | None:
    about = "search the web with Exa (EXA_API_KEY in the environment) or You.com (YDC_API_KEY)"
    return option(None, about, one_of="search")


def browser(options: One) -> Browser:
    """Raises `ToolError` for a package, a corpus or a key that is missing."""
    from ossia.tools.browser import Browser

    _check_packages()
    if options.search is not None:
        return Browser(backend=_service(options.search))
    return Browser(options.corpus, options.searx)


def about_browser(options: One) -> str:
    if options.corpus is not None:
        return f"searches {options.corpus}"
    if options.search is not None:
        return f"searches {ABOUT[options.search]}"
    if options.searx is not None:
        return f"searches with {options.searx}"
    return "opens URLs, searches nothing"


# ---- options of several ----


def corpora_option() -> tuple[str, ...]:
    """Of `ossia serve`, as the next two are: requests choose among all that is given."""
    about = (
        "what the browser searches: a folder of texts, or a file of JSON lines; repeatable, for "
        "requests that choose one by its name"
    )
    return option((), about, "[NAME=]DIR", shown="nothing: it opens URLs")


def any_searx_option() -> str | None:
    return option(None, "address of a SearXNG that the browser searches the web with", "URL")


def searches_option() -> tuple[Found, ...]:
    about = (
        "search the web with Exa (EXA_API_KEY in the environment) or You.com (YDC_API_KEY); none: "
        "open URLs only; repeatable"
    )
    return option((), about, shown="no search")


def corpora(given: tuple[str, ...]) -> dict[str, str]:
    """Paths by name: that before the `=`, else that of the folder. Raises `RequestError`."""
    named: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or "/" in name:
            path = text
            stem = Path(text).expanduser().resolve().stem
            name = NO_NAME.sub("-", stem).strip("-.") or "corpus"
        elif not NAME.fullmatch(name):
            raise RequestError(
                f"--corpus {text}: {name!r} is no name: letters, digits and . _ - are (a folder "
                "with = in its name is written ./...)"
            )
        if name in named or name in ABOUT:
            raise RequestError(
                f"--corpus {text}: there is a source {name!r} already; give it another name: "
                f"--corpus NAME={path}"
            )
        named[name] = path
    return named


def browser_of(options: Several) -> Browser:
    """Raises `OssiaError` for a package, a corpus or a key that is missing."""
    from ossia.tools.browser import Browser

    _check_packages()
    return Browser(sources=dict(_sources(options)) or None)


def _sources(options: Several) -> Iterator[tuple[str, Backend]]:
    """The corpora first: who chooses nothing stays offline."""
    from ossia.tools.browser import Corpus, PlainWeb, Searx

    for name, path in corpora(options.corpus).items():
        yield name, Corpus.open(Path(path).expanduser())
    if options.searx is not None:
        yield SEARX, Searx(options.searx)
    for service in dict.fromkeys(options.search):
        yield service, PlainWeb() if service == "none" else _service(service)


def about_sources(options: Several) -> str:
    parts = [f"{name} ({path})" for name, path in corpora(options.corpus).items()]
    if options.searx is not None:
        parts.append(f"{SEARX} ({options.searx})")
    parts += [f"{service} ({ABOUT[service]})" for service in dict.fromkeys(options.search)]
    if not parts:
        return "opens URLs, searches nothing"
    return f"searches {', '.join(parts)}"


def _service(name: Service) -> Backend:
    from ossia.tools.browser import Exa, YouCom

    return Exa() if name == "exa" else YouCom()


def _check_packages() -> None:
    from ossia.tools.browser.needed import check_installed

    for package in PACKAGES:
        check_installed(package)
