"""JSON schema -> TypeScript-like text, character for character as the official format package
writes it.

Knows JSON schemas (as read from JSON) and nothing else. The losses are the official ones and kept
on purpose: `anyOf`, `allOf`, `$ref`, `const` and enums without a type are all `any`, numeric enums
are `number`, an array of an enum reads `"x" | "y"[]`, strings are quoted without escapes.
harmony/typescript.py writes schemas without loss.

Words used below: a *note* is the comment after a type (`// default: 3`), *indent* the spaces at the
beginning of a line. A property's type is written 4 spaces deeper than the property, a variant of
`oneOf` 3 deeper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ossia.harmony.json_text import compact_json

SCALARS = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean"}


def compat_type(schema: Any) -> str:
    """The text of one JSON schema."""
    return _type(schema, "")


def _type(schema: Any, indent: str) -> str:
    if not isinstance(schema, dict):
        return "any"
    if isinstance(schema.get("oneOf"), list):
        return "".join(_variant(variant, indent) for variant in schema["oneOf"])
    match schema.get("type"):
        case "object":
            return _object(schema, indent)
        case "array" if "items" in schema:
            return f"{_type(schema['items'], indent)}[]"
        case "array":
            return "Array<any>"
        case "string":
            return " | ".join(_choices(schema)) or "string"
        case str(kind):
            return SCALARS.get(kind, "any")
        case list(kinds):
            return _named_types(kinds)
    return "any"


def _named_types(kinds: list[Any]) -> str:
    words = [word for word in kinds if isinstance(word, str)]
    shown = ["number" if word == "integer" else word for word in words]
    return " | ".join(shown) if shown else "any"


def _choices(schema: Mapping[str, Any]) -> list[str]:
    enum = schema.get("enum")
    if not isinstance(enum, list):
        return []
    return [f'"{value}"' for value in enum if isinstance(value, str)]


def _variant(variant: Any, indent: str) -> str:
    """One line of a `oneOf` that is not itself a property's type."""
    notes = []
    if isinstance(variant, dict):
        if isinstance(variant.get("description"), str):
            notes.append(variant["description"])
        if "default" in variant:
            notes.append(f"default: {_variant_default(variant)}")
    shown = _nullable(variant, _type(variant, indent + "   "))
    return f"\n{indent} | {shown}{_comment(notes)}"


def _comment(notes: list[str]) -> str:
    return f" // {' '.join(notes)}" if notes else ""


def _object(schema: Mapping[str, Any], indent: str) -> str:
    out = []
    if isinstance(schema.get("description"), str):
        out.append(f"{indent}// {schema['description']}\n")
    out.append("{\n")
    properties = schema.get("properties")
    required = schema.get("required")
    if not isinstance(properties, dict):
        properties = {}
    names = set()
    if isinstance(required, list):
        names = {name for name in required if isinstance(name, str)}
    for key, value in properties.items():
        name = key if key in names else f"{key}?"
        out.append(_property(name, value if isinstance(value, dict) else {}, indent))
    return "".join(out) + indent + "}"


def _property(name: str, schema: Mapping[str, Any], indent: str) -> str:
    """The lines of one property: comments above, then name, type and note."""
    description = _description_above(schema)
    above = _comments(schema, description)
    variants = schema.get("oneOf")
    if isinstance(variants, list):
        if "default" in schema:
            above.append(f"// default: {_default(schema)}")
        head = "".join(f"{indent}{line}\n" for line in above)
        return head + _union_property(name, schema, variants, description is not None, indent)
    head = "".join(f"{indent}{line}\n" for line in above)
    note = ""
    if "default" in schema and "oneOf" not in schema:
        note = f" // default: {_default(schema)}"
    shown = _nullable(schema, _type(schema, indent + "    "))
    return f"{head}{indent}{name}: {shown},{note}\n"


def _description_above(schema: Mapping[str, Any]) -> str | None:
    """A property's description, unless the line of the first variant shows the same."""
    description = schema.get("description")
    if not isinstance(description, str):
        return None
    if "oneOf" not in schema:
        return description
    variants = schema["oneOf"]
    if not isinstance(variants, list):
        return None
    first = variants[0] if variants else None
    if isinstance(first, dict) and description == first.get("description"):
        return None
    return description


def _comments(schema: Mapping[str, Any], description: str | None) -> list[str]:
    """Title, description and examples; the last two change places above a union."""
    title = []
    described = []
    listed = []
    if isinstance(schema.get("title"), str):
        title = [f"// {schema['title']}", "//"]
    if description is not None:
        described = [f"// {description}"]
    examples = schema.get("examples")
    if isinstance(examples, list) and examples:
        listed = ["// Examples:"]
        listed += [f'// - "{example}"' for example in examples if isinstance(example, str)]
    if isinstance(schema.get("oneOf"), list):
        return title + listed + described
    return title + described + listed


def _union_property(
    name: str, schema: Mapping[str, Any], variants: list[Any], described: bool, indent: str
) -> str:
    """A property whose type is a `oneOf`: one line per variant, each with its own notes."""
    lines = [f"{indent}{name}:\n"]
    for index, variant in enumerate(variants):
        notes = []
        if isinstance(variant, dict):
            text = variant.get("description")
            is_above = text == schema.get("description") or (index == 0 and described)
            if isinstance(text, str) and not is_above:
                notes.append(text)
            if "default" in variant:
                notes.append(f"default: {_default(variant)}")
        shown = _nullable(variant, _type(variant, indent + "   "))
        lines.append(f"{indent} | {shown}{_comment(notes)}\n")
    return "".join(lines) + f"{indent},\n"


def _nullable(schema: Any, text: str) -> str:
    """Adds ` | null` if the schema is nullable, unless those four letters occur in the text."""
    nullable = isinstance(schema, dict) and schema.get("nullable") is True
    return f"{text} | null" if nullable and "null" not in text else text


def _default(schema: Mapping[str, Any]) -> str:
    """A default as a note: strings are quoted without escapes, or bare next to an enum."""
    value = schema["default"]
    if not isinstance(value, str):
        return compact_json(value)
    return value if _has_enum(schema) else f'"{value}"'


def _has_enum(schema: Mapping[str, Any]) -> bool:
    return isinstance(schema.get("enum"), list) and bool(schema["enum"])


def _variant_default(schema: Mapping[str, Any]) -> str:
    """The same in a nested `oneOf`, where a string next to an enum is written as JSON instead."""
    return compact_json(schema["default"]) if _has_enum(schema) else _default(schema)
