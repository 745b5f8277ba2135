"""What is certain about rewritten JSON schemas: whether they have a finite value, and whether two
share one.

Knows the keywords that enforceable.py leaves, with references into one table of definitions. Both
answers err on the side of refusing a schema.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

DEFINITIONS = "#/$defs/"
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


def ends(schema: Any, ending: Collection[str]) -> bool:
    """Whether there is a finite value, if there is one for the definitions `ending`."""
    if isinstance(schema, bool):
        return True
    if "$ref" in schema and schema["$ref"].removeprefix(DEFINITIONS) not in ending:
        return False
    for key, enough in (("allOf", all), ("anyOf", any), ("oneOf", any)):
        if key in schema and not enough(ends(option, ending) for option in schema[key]):
            return False
    types = set(schema.get("type", TYPES))
    if types - {"object", "array"} or "const" in schema or "enum" in schema:
        return True
    properties = schema.get("properties", {})
    if "object" in types and all(
        ends(properties.get(name, True), ending) for name in schema.get("required", ())
    ):
        return True
    items = [*schema.get("prefixItems", ()), schema.get("items", True)][: schema.get("minItems", 0)]
    return "array" in types and all(ends(item, ending) for item in items)


def disjoint(a: Any, b: Any, definitions: Mapping[str, Any], depth: int = 8) -> bool:
    """Whether certainly no value validates under both: by their types, their constants, or a key of
    objects that one of them requires and whose schemas are disjoint.
    """
    if a is False or b is False:
        return True
    if a is True or b is True or depth == 0:
        return False

    def apart(x: Any, y: Any) -> bool:
        return disjoint(x, y, definitions, depth - 1)

    for one, other in ((a, b), (b, a)):
        if any(apart(part, other) for part in _parts(one, definitions)):
            return True
        if any(
            all(apart(option, other) for option in one[key])
            for key in ("anyOf", "oneOf")
            if key in one
        ):
            return True
    types, values = _types(a) & _types(b), _constants(a)
    if not types or (values is not None and values.isdisjoint(_constants(b) or values)):
        return True
    names = [*a.get("required", ()), *b.get("required", ())]
    return types == {"object"} and any(
        apart(_property(a, name), _property(b, name)) for name in names
    )


def _parts(schema: dict[str, Any], definitions: Mapping[str, Any]) -> Iterator[Any]:
    """Schemas that a value of this one validates under too."""
    if "$ref" in schema:
        yield definitions[schema["$ref"].removeprefix(DEFINITIONS)]
    yield from schema.get("allOf", ())


def _types(schema: dict[str, Any]) -> set[str]:
    """With whole numbers among the numbers."""
    types = {"number" if name == "integer" else name for name in schema.get("type", TYPES)}
    if (values := _constants(schema)) is None:
        return types
    kinds = {
        "n": "null",
        "t": "boolean",
        "f": "boolean",
        '"': "string",
        "[": "array",
        "{": "object",
    }
    return types & {kinds.get(value[0], "number") for value in values}


def _constants(schema: dict[str, Any]) -> set[str] | None:
    """The values of `const` or `enum`, written in one way; None if there is neither."""
    if "const" in schema:
        return {json.dumps(schema["const"], sort_keys=True)}
    if "enum" in schema:
        return {json.dumps(value, sort_keys=True) for value in schema["enum"]}
    return None


def _property(schema: dict[str, Any], name: str) -> Any:
    """What is known of the value under a key."""
    closed = schema.get("additionalProperties", True) is False and "patternProperties" not in schema
    return schema.get("properties", {}).get(name, not closed)
