"""What the model wants of the browser, read from what it wrote.

Numbers may be written as 3, 3.0 or "3". Whatever else is wrong is a `ToolError` for the model to
read. Knows the three functions; nothing of pages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ossia.errors import ToolError
from ossia.tools.texts import read_json

MOST_RESULTS = 20
RESULTS = 10
LONGEST_QUERY = 2000  # characters
LARGEST = 2**53  # of numbers


@dataclass(frozen=True)
class Search:
    query: str
    topn: int = RESULTS


@dataclass(frozen=True)
class Open:
    """`link`: the number of a link, -1 for none; `url`: instead of a link. `loc` and `num_lines`
    -1: not given.
    """

    link: int = -1
    url: str | None = None
    cursor: int = -1
    loc: int = -1
    num_lines: int = -1
    view_source: bool = False


@dataclass(frozen=True)
class Find:
    pattern: str
    cursor: int = -1


Request = Search | Open | Find
NAMES = {
    "search": ("query", "topn", "top_n", "source"),
    "open": ("id", "cursor", "loc", "num_lines", "view_source", "source"),
    "find": ("pattern", "cursor"),
}


def read_request(function: str, text: str) -> Request:
    """Raises `ToolError` for what is no call of the browser."""
    if function not in NAMES:
        raise ToolError(f"Unknown function: {function}")
    given = _object(function, text)
    for name in given:
        if name not in NAMES[function]:
            known = ", ".join(f"`{each}`" for each in NAMES[function])
            raise ToolError(f"Unknown argument `{name[:100]}`. `{function}` takes {known}.")
    match function:
        case "search":
            topn = _number(given, "topn", _number(given, "top_n", RESULTS))
            query = _text(function, given, "query")[:LONGEST_QUERY]
            return Search(query, min(max(topn, 1), MOST_RESULTS))
        case "find":
            return Find(_text(function, given, "pattern").lower(), _number(given, "cursor", -1))
    return _open(given)


def _open(given: Mapping[str, Any]) -> Open:
    link, url = _target(given.get("id"))
    return Open(
        link,
        url,
        _number(given, "cursor", -1),
        _number(given, "loc", -1),
        _number(given, "num_lines", -1),
        _flag(given, "view_source"),
    )


def _object(function: str, text: str) -> dict[str, Any]:
    try:
        given = read_json(text) if text.strip() else {}
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise ToolError(f"The arguments of `{function}` are not a JSON object.")
    return {name: value for name, value in given.items() if value is not None}


def _target(given: Any) -> tuple[int, str | None]:
    """A link's number, or a URL."""
    if isinstance(given, str):
        number = _whole(given)
        if number is None:
            return -1, given.strip()
        return number, None
    return _number({"id": given} if given is not None else {}, "id", -1), None


def _number(given: Mapping[str, Any], name: str, default: int) -> int:
    if name not in given:
        return default
    number = _whole(given[name])
    if number is None:
        kind = type(given[name]).__name__
        raise ToolError(f"`{name}` should be an integer, not `{kind}`")
    return number


def _whole(value: Any) -> int | None:
    """The integer that a value stands for, within bounds; None for what stands for none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        digits = value.strip()
        if len(digits) > 16 or not digits.removeprefix("-").isdecimal():
            return None
        value = int(digits)
    if isinstance(value, float) and (not math.isfinite(value) or value != int(value)):
        return None
    if not isinstance(value, int | float):
        return None
    return max(-LARGEST, min(int(value), LARGEST))


def _text(function: str, given: Mapping[str, Any], name: str) -> str:
    if name not in given:
        raise ToolError(f"`{function}` needs a `{name}`.")
    value = given[name]
    if isinstance(value, dict | list):
        raise ToolError(f"`{name}` should be a string, not `{type(value).__name__}`")
    # half a surrogate pair can be written in JSON, and sent nowhere
    return str(value).encode("utf-8", "replace").decode()


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, False)
    words = {"true": True, "false": False}
    if isinstance(value, str):
        value = words.get(value.strip().lower(), value)
    if not isinstance(value, bool):
        raise ToolError(f"`{name}` should be a boolean, not `{type(value).__name__}`")
    return value
