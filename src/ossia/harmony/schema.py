"""JSON schema -> the TypeScript-like text in which Harmony shows a function's parameters to the
model.

Knows that there are two writers, one per style, and keeps what they wrote; nothing of messages.
`compat` is official/schema.py, `faithful` is typescript.py: the same text for plain schemas,
without the official losses.
"""

from __future__ import annotations

import functools
from typing import Any

from ossia.errors import RenderError
from ossia.harmony.json_text import NOT_JSON, dumped, read
from ossia.harmony.messages import Style, check_style
from ossia.harmony.official.schema import compat_type
from ossia.harmony.typescript import TypeScript, faithful_type


def schema_to_typescript(schema: Any, style: Style = "faithful") -> str:
    """The text of one JSON schema; definitions that it refers to stand before it, one `type Name =
    ...` each.

    Raises RenderError for what is not JSON (NaN, sets), nested deeper than MOST_LEVELS, or an
    unknown style.
    """
    written = schema_types(schema, style)
    return "\n\n".join([*written.declarations.values(), written.text])


def schema_types(schema: Any, style: Style, taken: frozenset[str] = frozenset()) -> TypeScript:
    """The same with definitions and type apart; none of the definitions is named as in `taken`."""
    check_style(style)
    try:
        return _from_json(dumped(schema), style, taken)
    except NOT_JSON as error:
        raise RenderError(f"a tool's parameters must be a JSON schema: {error}") from error


@functools.lru_cache(maxsize=512)
def _from_json(text: str, style: Style, taken: frozenset[str]) -> TypeScript:
    """Cached by the schema's JSON: a conversation's tools are rendered again at every turn."""
    schema = read(text)
    return (
        TypeScript(compat_type(schema), {}) if style == "compat" else faithful_type(schema, taken)
    )
