"""Keys in files: one a line, or as TOML; their names, and what each may use.

Knows the forms; nothing of requests. Errors never repeat what could be a secret.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ossia.errors import RequestError
from ossia.server.access import secret_digest
from ossia.server.settings import ApiKey, Limits, Priority
from ossia.tools.kinds import BROWSER, FUNCTION, KINDS, MCP

NUMBERS = {  # of a line: the field of `Limits`
    "concurrent": "concurrent",
    "tokens-per-minute": "tokens_per_minute",
    "tool-seconds-per-minute": "tool_seconds_per_minute",
    "pages-per-minute": "pages_per_minute",
    "containers": "containers",
    "tokens-per-day": "tokens_per_day",
}
WORDS: dict[str, dict[str, str | bool]] = {  # of a line: fields of `Limits`, by what is written
    "priority": {"chat": "chat", "batch": "batch"},
    "admin": {"yes": True, "no": False},
    "metrics": {"yes": True, "no": False},
}
TOOLS = "tools"
TOOL_NAMES = tuple(kind.name for kind in KINDS if kind is not FUNCTION)
WITH_PARTS = (BROWSER.name, MCP.name)
OPTIONS = (*NUMBERS, *WORDS, TOOLS)
FORM = (
    "[NAME] KEY [tools=NAME,...] [priority=chat|batch] [admin=yes] [metrics=yes] ["
    + "=N] [".join(NUMBERS)
    + "=N]"
)


def read_keys(path: Path, *, has_users: bool = False) -> tuple[ApiKey, ...]:
    """`has_users`: a proxy says who asks, and so a table `[users]` is enough. Raises `RequestError`
    for a file that cannot be read, makes no sense or has no keys: it was given to let in few.
    """
    document = _document(path)
    tables = document.get("keys")
    if tables is None and "users" in document:
        if has_users:
            return ()
        raise RequestError(
            f"{path} has a table [users] and no keys: [users] is of whom a proxy names, so give "
            "`ossia serve` --user-header and --trusted-proxy, or add keys, each with a line "
            "[[keys]]"
        )
    if isinstance(tables, list) or path.suffix == ".toml":
        return toml_keys(tables, str(path))
    return parse_keys(_text(path).splitlines(), str(path))


def read_users(path: Path) -> Limits:
    """What each may use whom a proxy has let in: the table `[users]` of a TOML file; without one,
    anything. Raises `RequestError`.
    """
    table = _document(path).get("users")
    if table is None:
        return Limits()
    try:
        return LimitsTable.model_validate(table).limits(f"{path}, users")
    except ValidationError as error:
        raise _wrong(error, f"{path}, users") from None


def _document(path: Path) -> dict[str, Any]:
    """Of TOML; empty for a file of lines."""
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        if path.suffix == ".toml":
            raise RequestError(f"{path} is not valid TOML: {error}") from error
        return {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise RequestError(f"the key file {path} cannot be read: {reason}") from error


def _wrong(error: ValidationError, place: str) -> RequestError:
    """Without the value, which could be a secret."""
    first = error.errors(include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "the table"
    return RequestError(f"{place}: {where}: {first['msg']}")


def tools_of(names: Iterable[str], place: str) -> frozenset[str]:
    """The names of tools that a key may use. Raises `RequestError` for one that no tool has."""
    made = frozenset(filter(None, names))
    for name in sorted(made):
        tool, colon, part = name.partition(":")
        is_part = bool(part) and tool in WITH_PARTS
        if tool not in TOOL_NAMES or (colon and not is_part):
            raise RequestError(
                f"{place}: there is no tool {name!r}; expected {', '.join(TOOL_NAMES)}, or "
                "mcp:LABEL for one server, browser:SOURCE for one of what is searched"
            )
    return made


Whole = Annotated[int, Ge(1)] | None


class LimitsTable(BaseModel):
    """What may be used: of a key, or of everybody who is let in by a proxy."""

    model_config = ConfigDict(extra="forbid", strict=True)

    concurrent: Whole = None
    tokens_per_minute: Whole = Field(None, alias="tokens-per-minute")
    tool_seconds_per_minute: Whole = Field(None, alias="tool-seconds-per-minute")
    pages_per_minute: Whole = Field(None, alias="pages-per-minute")
    containers: Whole = None
    tokens_per_day: Whole = Field(None, alias="tokens-per-day")
    priority: Priority = "chat"
    tools: list[Annotated[str, StringConstraints(pattern=r"^\S+$")]] | None = None

    def limits(self, place: str, **rights: bool) -> Limits:
        numbers = {field: getattr(self, field) for field in NUMBERS.values()}
        tools = None if self.tools is None else tools_of(self.tools, place)
        return Limits(tools=tools, priority=self.priority, **rights, **numbers)


class KeyTable(LimitsTable):
    """A key in a TOML file: the secret itself, or its SHA-256 in hex. Without a name it is called
    by its digest.
    """

    name: Annotated[str, StringConstraints(pattern=r"^\S+$")] | None = None
    key: Annotated[str, StringConstraints(pattern=r"^\S+$")] | None = None
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$")] | None = None
    admin: bool = False
    metrics: bool = False

    def api_key(self, place: str) -> ApiKey:
        if (self.key is None) == (self.sha256 is None):
            raise RequestError(f"{place}: give either key or sha256")
        digest = secret_digest(self.key) if self.key is not None else str(self.sha256).lower()
        limits = self.limits(place, admin=self.admin, metrics=self.metrics)
        return ApiKey(self.name or f"key-{digest[:12]}", digest, limits)


def toml_keys(tables: Any, source: str) -> tuple[ApiKey, ...]:
    """The `[[keys]]` of a TOML file. Raises `RequestError`, which does not repeat what could be a
    secret.
    """
    if not isinstance(tables, list) or not tables:
        raise RequestError(f"{source} has no keys; begin each with a line [[keys]]")
    keys: list[ApiKey] = []
    for number, table in enumerate(tables, 1):
        place = f"{source}, key {number}"
        try:
            keys.append(KeyTable.model_validate(table).api_key(place))
        except ValidationError as error:
            raise _wrong(error, place) from None
    return merged(keys, source)


def parse_keys(lines: Iterable[str], source: str) -> tuple[ApiKey, ...]:
    """The older form, a key a line, as `FORM` says; `#` begins a comment. KEY is the secret itself,
    or `sha256:` and its digest in hex. Without a NAME the key is called by its digest. Raises
    `RequestError`, which does not repeat what could be a secret.
    """
    keys: list[ApiKey] = []
    for number, line in enumerate(lines, 1):
        words = re.sub(r"(^|\s)#.*", "", line).split()
        if words:
            keys.append(_key(words, f"{source}, line {number}"))
    if not keys:
        raise RequestError(f"{source} has no keys; a line is: NAME KEY")
    return merged(keys, source)


def merged(keys: Iterable[ApiKey], source: str) -> tuple[ApiKey, ...]:
    """Checks that they can be told apart: one secret, one caller; one name, one set of limits."""
    by_digest: dict[str, ApiKey] = {}
    limits: dict[str, Limits] = {}
    for key in keys:
        if by_digest.setdefault(key.digest, key) != key:
            raise RequestError(
                f"{source}: {by_digest[key.digest].name} and {key.name} have the same key"
            )
        if limits.setdefault(key.name, key.limits) != key.limits:
            why = "have different limits, and one caller has one set"
            raise RequestError(f"{source}: the keys of {key.name} {why}")
    return tuple(by_digest.values())


def _key(words: list[str], place: str) -> ApiKey:
    is_option = [word.partition("=")[0] in OPTIONS and "=" in word for word in words]
    plain = [word for word, option in zip(words, is_option, strict=True) if not option]
    if len(plain) not in (1, 2) or any(is_option[: len(plain)]):
        raise RequestError(f"{place}: expected {FORM}")
    values: dict[str, Any] = {}
    for word in words[len(plain) :]:
        name, _, value = word.partition("=")
        if name == TOOLS:
            values[TOOLS] = tools_of(value.split(","), place)
            continue
        if name in WORDS:
            if value not in WORDS[name]:
                known = " or ".join(WORDS[name])
                raise RequestError(f"{place}: {name} must be {known}, found {value!r}")
            values[name] = WORDS[name][value]
            continue
        if not re.fullmatch(r"[1-9][0-9]{0,11}", value):
            raise RequestError(
                f"{place}: {name} must be a whole number, at least 1, found {value!r}"
            )
        values[NUMBERS[name]] = int(value)
    digest = secret_digest(plain[-1])
    if plain[-1].startswith("sha256:"):
        digest = plain[-1].removeprefix("sha256:").lower()
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise RequestError(f"{place}: sha256: must be followed by 64 hex digits")
    name = plain[0] if len(plain) == 2 else f"key-{digest[:12]}"
    return ApiKey(name, digest, Limits(**values))
