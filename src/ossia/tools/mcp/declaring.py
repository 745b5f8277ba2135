"""What an MCP server says of itself, as a namespace that the model may read: its texts are a
stranger's.

Names are made such that recipients can have them, texts are cut, schemas are bounded and tried
before anything is compiled of them for a conversation. Knows Harmony's declarations and the form
of MCP's lists; no connection.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ossia.errors import GrammarError
from ossia.harmony import FunctionTool, JsonFormat, ToolNamespace
from ossia.harmony.grammar import bounds
from ossia.harmony.grammar.bodies import Vocabulary, compile_body, vocabulary
from ossia.tokenizer import Tokenizer
from ossia.tools.mcp.config import McpConfig, recipient_name
from ossia.tools.texts import clean

log = logging.getLogger("ossia.tools")
LONGEST_NAME = 256  # characters; clients send it with every call, and back
MOST_TOOLS = 128  # of one server
INSTRUCTIONS = 2000  # characters
DESCRIPTION = 1000  # characters, of a tool and of a part of its schema
SCHEMA = 32 << 10  # characters of a schema's JSON
ALL = 256 << 10  # characters of everything that a server declares
DEPTH = 60  # levels of a schema
ANY = {"type": "object"}
_NANO = Path(__file__).parents[2] / "assets" / "nano"


@dataclass(frozen=True)
class Listed:
    """A tool as its server lists it. `reads` and `repeats`: what the server claims, that the tool
    changes nothing, or nothing more when it is called again.
    """

    name: str
    description: str
    schema: Any
    reads: bool = False
    repeats: bool = False

    @property
    def digest(self) -> str:
        """Changes when the tool does. Of what cannot be written as JSON there is none."""
        claims = [
            self.name,
            self.description,
            self.schema,
            self.reads,
            self.repeats,
        ]
        text = json.dumps(claims, sort_keys=True, default=repr)
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class DeclaredTool:
    """`digest`: of the tool as it was when it was declared."""

    function: FunctionTool
    listed: Listed
    digest: str


@dataclass(frozen=True)
class Declared:
    """`tools` by the names that the model knows."""

    namespace: ToolNamespace
    tools: Mapping[str, DeclaredTool]


def declared(config: McpConfig, instructions: str | None, listed: Sequence[Listed]) -> Declared:
    """Tools that are too many, or too large, are left out; the log says which."""
    about = clean(instructions or "", INSTRUCTIONS)
    left = ALL - len(about)
    tools: dict[str, DeclaredTool] = {}
    for each in listed:
        if config.allow is not None and each.name not in config.allow:
            continue
        if not 0 < len(each.name) <= LONGEST_NAME:
            log.warning("mcp %s: a tool without a name, or with a long one", config.label)
            continue
        name = recipient_name(each.name, tools)
        function = _function(name, each)
        left -= len(function.description) + len(json.dumps(function.parameters))
        if left < 0 or len(tools) == MOST_TOOLS:
            log.warning("mcp %s: too many tools, from %r they are left out", config.label, name)
            break
        tools[name] = DeclaredTool(function, each, each.digest)
    functions = tuple(tool.function for tool in tools.values())
    return Declared(ToolNamespace(config.label, about or None, functions), tools)


def _function(name: str, listed: Listed) -> FunctionTool:
    """A schema that cannot be enforced is shown as text, and any object is let through: the server
    says what is wrong with it.
    """
    about = clean(listed.description, DESCRIPTION)
    try:
        schema = _tidy(_bounded(listed.schema, name))
        compile_body(JsonFormat(schema, is_strict=False), _tokens(), name)
    except (GrammarError, RecursionError) as error:
        log.warning("mcp: the schema of %r is not used: %s", name, clean(str(error), 200))
        return FunctionTool(name, about, ANY)
    has_parameters = schema.get("properties") or set(schema) - {"type", "properties", "required"}
    return FunctionTool(name, about, schema if has_parameters else None)


def _bounded(schema: Any, name: str) -> dict[str, Any]:
    """Raises GrammarError for what is no schema of an object, or over a bound."""
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError) as error:
        raise GrammarError(f"{name}: the schema is not JSON: {error}") from None
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise GrammarError(f"{name}: the schema is not that of an object")
    if len(text) > SCHEMA:
        raise GrammarError(f"{name}: the schema has {len(text):,} characters")
    if next(_deep(schema), None) is not None:
        raise GrammarError(f"{name}: the schema has more than {DEPTH} levels")
    bounds.check_schema(schema, text, name)
    return {**schema, "type": "object"}


def _deep(schema: Any) -> Iterator[Any]:
    """What lies deeper than allowed."""
    waiting = [(schema, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > DEPTH:
            yield node
        children = node.values() if isinstance(node, dict) else node
        if isinstance(node, dict | list):
            waiting.extend((child, depth + 1) for child in children)


def _tidy(schema: Any) -> Any:
    """Without titles; `X | None = None` is an X that may be left out; descriptions cut."""
    if isinstance(schema, list):
        return [_tidy(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key in bounds.DATA:
            made[key] = value
        elif key in bounds.TABLES and isinstance(value, dict):
            made[key] = {name: _tidy(each) for name, each in value.items()}
        elif key == "description":
            made[key] = clean(str(value), DESCRIPTION)
        elif key not in ("title", "$schema", "$comment"):
            made[key] = _tidy(value)
    return _without_null(made)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    variants = schema.get("anyOf")
    if schema.get("default", ...) is not None or not isinstance(variants, list):
        return schema
    left = [each for each in variants if each != {"type": "null"}]
    if len(left) != 1 or not isinstance(left[0], dict):
        return schema
    rest = dict(schema)
    del rest["anyOf"], rest["default"]
    return {**left[0], **rest}


@cache
def _tokens() -> Vocabulary:
    """A small vocabulary that is always there: whether a schema compiles does not depend on it."""
    return vocabulary(Tokenizer.from_pretrained(_NANO))
