"""Declarations of tools that the server runs: what a request may ask of one, and who may have it.

A kind of which requests ask for more than its being there has a reader in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ossia.errors import ToolError
from ossia.server.wire.errors import ApiError
from ossia.server.wire.fields import At
from ossia.tools import Tool
from ossia.tools.browser import Browser, LimitedBrowser
from ossia.tools.browser.backend import domain_of
from ossia.tools.kinds import BROWSER
from ossia.tools.protocol import by_wire_type


def asked_for(tool: Tool, declared: At) -> Tool:
    """The tool as this request wants it. Raises `ApiError`."""
    read = READERS.get(tool.kind.name)
    return tool if read is None else read(tool, declared)


def _browser(tool: Tool, declared: At) -> Tool:
    """Domains bind search and open: OpenAI has them in `filters`, Anthropic beside the type.
    Without `external_web_access` only what is local is found. `source`, beyond both APIs, names
    what is searched.
    """
    if not isinstance(tool, Browser | LimitedBrowser):
        return tool
    if declared["source"].value is not None:
        tool = _using(tool, declared["source"])
    filters = declared
    if "filters" in declared:
        filters = declared["filters"].object("an object with lists of domains")
    allowed = _domains(filters["allowed_domains"])
    blocked = _domains(filters["blocked_domains"])
    external = declared["external_web_access"]
    is_external = external.value is None or external.flag()
    if not allowed and not blocked and is_external:
        return tool
    return tool.limited(allowed or None, is_external, blocked)


def _using(tool: Browser | LimitedBrowser, source: At) -> LimitedBrowser:
    try:
        return tool.using(source.word())
    except ToolError as error:
        raise source.wrong(f"is wrong: {error}", "source_not_found") from error


def _domains(given: At) -> list[str]:
    """An empty list is as good as none. Raises `ApiError`."""
    if not given.value:
        return []
    return [_domain(each) for each in given.items("a list of domains")]


def _domain(given: At) -> str:
    try:
        return domain_of(given.word())
    except ToolError as error:
        raise given.wrong(f"is wrong: {error}") from error


# by the name of a kind
READERS: dict[str, Callable[[Tool, At], Tool]] = {BROWSER.name: _browser}


def check_allowed(
    declared: Iterable[At], tools: Mapping[str, Tool], allowed: Mapping[str, Tool]
) -> None:
    """Raises `ApiError` (403) for a tool that is here and that this caller may not use."""
    kinds = by_wire_type(tools.values())
    own = by_wire_type(allowed.values())
    for tool in declared:
        name = tool["type"].value
        if isinstance(name, str) and name in kinds and name not in own:
            raise ApiError(
                403,
                f"{tool.path}: this key may not use {kinds[name].kind.name}",
                param=tool.path,
                code="tool_not_allowed",
            )
