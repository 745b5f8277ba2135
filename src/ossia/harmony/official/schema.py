"""JSON schema -> TypeScript-like text, character for character as the official format package
writes it.

Knows JSON schemas (as read from JSON) and nothing else. The losses are the official ones and kept
on purpose: `anyOf`, `allOf`, `$ref`, `const` and enums without a type are all `any`, numeric enums
are `number`, an array of an enum reads `"x" | "y"[]`, strings are quoted without escapes.
typescript.py writes what is meant.

Words used below: a *note* is the comment behind a type (`// default: 3`), *indent* the spaces a
line starts with. A property's type is written 4 spaces deeper than the property, a variant of
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
    kind = schema.get("type")
    if isinstance(kind, list) and (words := [word for word in kind if isinstance(word, str)]):
        return " | ".join("number" if word == "integer" else word for word in words)
    if kind == "object":
        return _object(schema, indent)
    if kind == "array":
        return f"{_type(schema['items'], indent)}[]" if "items" in schema else "Array<any>"
    if kind == "string" and (choices := _choices(schema)):
        return " | ".join(choices)
    return SCALARS.get(kind, "any") if isinstance(kind, str) else "any"


def _choices(schema: Mapping[str, Any]) -> list[str]:
    enum = schema.get("enum")
    return (
        [f'"{value}"' for value in enum if isinstance(value, str)] if isinstance(enum, list) else []
    )


def _variant(variant: Any, indent: str) -> str:
    """One line of a `oneOf` that is not directly a property's."""
    notes = []
    if isinstance(variant, dict):
        if isinstance(variant.get("description"), str):
            notes.append(variant["description"])
        if "default" in variant:
            notes.append(f"default: {_variant_default(variant)}")
    comment = f" // {' '.join(notes)}" if notes else ""
    return f"\n{indent} | {_nullable(variant, _type(variant, indent + '   '))}{comment}"


def _object(schema: Mapping[str, Any], indent: str) -> str:
    out = []
    if isinstance(schema.get("description"), str):
        out.append(f"{indent}// {schema['description']}\n")
    out.append("{\n")
    properties, required = schema.get("properties"), schema.get("required")
    names = (
        {name for name in required if isinstance(name, str)}
        if isinstance(required, list)
        else set()
    )
    for key, value in properties.items() if isinstance(properties, dict) else ():
        mark = "" if key in names else "?"
        out.append(_property(f"{key}{mark}", value if isinstance(value, dict) else {}, indent))
    return "".join(out) + indent + "}"


def _property(name: str, schema: Mapping[str, Any], indent: str) -> str:
    """The lines of one property: comments above, then name, type and note."""
    variants = schema.get("oneOf")
    description = schema.get("description")
    description = description if isinstance(description, str) else None
    first = variants[0] if isinstance(variants, list) and variants else None
    if "oneOf" in schema and not isinstance(variants, list):
        description = None
    elif isinstance(first, dict) and description == first.get("description"):
        description = None  # the first variant's line will say it
    above = _comments(schema, description)
    if isinstance(variants, list):
        if "default" in schema:
            above.append(f"// default: {_default(schema)}")
        head = "".join(f"{indent}{line}\n" for line in above)
        return head + _union_property(name, schema, variants, description is not None, indent)
    head = "".join(f"{indent}{line}\n" for line in above)
    shown = "default" in schema and "oneOf" not in schema
    note = f" // default: {_default(schema)}" if shown else ""
    return f"{head}{indent}{name}: {_nullable(schema, _type(schema, indent + '    '))},{note}\n"


def _comments(schema: Mapping[str, Any], description: Any) -> list[str]:
    """Title, description and examples; the last two change places above a union."""
    title, said, shown = [], [], []
    if isinstance(schema.get("title"), str):
        title = [f"// {schema['title']}", "//"]
    if isinstance(description, str):
        said = [f"// {description}"]
    examples = schema.get("examples")
    if isinstance(examples, list) and examples:
        shown = [
            "// Examples:",
            *(f'// - "{example}"' for example in examples if isinstance(example, str)),
        ]
    return title + (shown + said if isinstance(schema.get("oneOf"), list) else said + shown)


def _union_property(
    name: str, schema: Mapping[str, Any], variants: list[Any], described: bool, indent: str
) -> str:
    """A property whose type is a `oneOf`: one line per variant, each with its own notes."""
    lines = [f"{indent}{name}:\n"]
    for index, variant in enumerate(variants):
        notes = []
        if isinstance(variant, dict):
            text = variant.get("description")
            said_above = text == schema.get("description") or (index == 0 and described)
            if isinstance(text, str) and not said_above:
                notes.append(text)
            if "default" in variant:
                notes.append(f"default: {_default(variant)}")
        comment = f" // {' '.join(notes)}" if notes else ""
        lines.append(f"{indent} | {_nullable(variant, _type(variant, indent + '   '))}{comment}\n")
    return "".join(lines) + f"{indent},\n"


def _nullable(schema: Any, text: str) -> str:
    """Adds ` | null` where the schema is nullable, unless those four letters occur anywhere in the
    text.
    """
    nullable = isinstance(schema, dict) and schema.get("nullable") is True
    return f"{text} | null" if nullable and "null" not in text else text


def _default(schema: Mapping[str, Any]) -> str:
    """A default as a note: strings are quoted without escapes, and bare where the schema has an
    enum.
    """
    value = schema["default"]
    if not isinstance(value, str):
        return compact_json(value)
    return value if _has_enum(schema) else f'"{value}"'


def _has_enum(schema: Mapping[str, Any]) -> bool:
    return isinstance(schema.get("enum"), list) and bool(schema["enum"])


def _variant_default(schema: Mapping[str, Any]) -> str:
    """The same in a nested `oneOf`, where a string beside an enum is written as JSON instead."""
    return compact_json(schema["default"]) if _has_enum(schema) else _default(schema)
