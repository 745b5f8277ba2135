"""Two proofs about rewritten JSON schemas: that a schema has a finite value, and that no value
validates under two of them.

Knows the keywords that schema.py leaves, with references into one table of definitions. Where a
proof fails although the statement is true, a schema is refused that could have been enforced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

DEFINITIONS = "#/$defs/"
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
# The type of a value, by the first character of its JSON; all others are numbers.
_TYPE_OF = {
    "n": "null",
    "t": "boolean",
    "f": "boolean",
    '"': "string",
    "[": "array",
    "{": "object",
}


def ends(schema: Any, ending: Collection[str]) -> bool:
    """Whether the schema has a finite value, given that the definitions `ending` have one."""
    if isinstance(schema, bool):
        return True
    if not _included_end(schema, ending):
        return False
    types = set(schema.get("type", TYPES))
    if types - {"object", "array"} or "const" in schema or "enum" in schema:
        return True
    if "object" in types and all(ends(value, ending) for value in _required_values(schema)):
        return True
    return "array" in types and all(ends(item, ending) for item in _required_items(schema))


def _included_end(schema: dict[str, Any], ending: Collection[str]) -> bool:
    """Whether the schemas that this one refers to or combines have finite values."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(DEFINITIONS)
        if name not in ending:
            return False
    for key, enough in (("allOf", all), ("anyOf", any), ("oneOf", any)):
        if key in schema:
            options_end = [ends(option, ending) for option in schema[key]]
            if not enough(options_end):
                return False
    return True


def _required_values(schema: dict[str, Any]) -> list[Any]:
    """The schemas of the values that every object has."""
    properties = schema.get("properties", {})
    return [properties.get(name, True) for name in schema.get("required", ())]


def _required_items(schema: dict[str, Any]) -> list[Any]:
    """The schemas of the items that every array has."""
    items = [*schema.get("prefixItems", ()), schema.get("items", True)]
    return items[: schema.get("minItems", 0)]


def disjoint(a: Any, b: Any, definitions: Mapping[str, Any], depth: int = 8) -> bool:
    """Whether it is certain that no value validates under both: because of their types, their
    constants, or a key of objects that one of them requires and whose schemas are disjoint.

    `depth`: how deep to look, in schemas within schemas.
    """
    if a is False or b is False:
        return True
    if a is True or b is True or depth == 0:
        return False

    def apart(x: Any, y: Any) -> bool:
        return disjoint(x, y, definitions, depth - 1)

    return (
        _some_part_apart(a, b, definitions, apart)
        or _some_part_apart(b, a, definitions, apart)
        or _values_apart(a, b)
        or _properties_apart(a, b, apart)
    )


def _some_part_apart(
    one: dict[str, Any],
    other: dict[str, Any],
    definitions: Mapping[str, Any],
    apart: Callable[[Any, Any], bool],
) -> bool:
    """Whether a schema that `one` includes, or all of its options, are disjoint from `other`."""
    if any(apart(part, other) for part in _parts(one, definitions)):
        return True
    for key in ("anyOf", "oneOf"):
        if key in one and all(apart(option, other) for option in one[key]):
            return True
    return False


def _parts(schema: dict[str, Any], definitions: Mapping[str, Any]) -> Iterator[Any]:
    """Schemas that every value of this one validates under too."""
    if "$ref" in schema:
        yield definitions[schema["$ref"].removeprefix(DEFINITIONS)]
    yield from schema.get("allOf", ())


def _values_apart(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether the types, or the constants, have nothing in common."""
    if not _types(a) & _types(b):
        return True
    ours = _constants(a)
    theirs = _constants(b)
    return ours is not None and theirs is not None and ours.isdisjoint(theirs)


def _properties_apart(
    a: dict[str, Any], b: dict[str, Any], apart: Callable[[Any, Any], bool]
) -> bool:
    """Whether both are objects only, and differ in a key that one of them requires."""
    if _types(a) & _types(b) != {"object"}:
        return False
    required = [*a.get("required", ()), *b.get("required", ())]
    return any(apart(_property(a, name), _property(b, name)) for name in required)


def _types(schema: dict[str, Any]) -> set[str]:
    """The types that a value may have; whole numbers are numbers."""
    types = {"number" if name == "integer" else name for name in schema.get("type", TYPES)}
    values = _constants(schema)
    if values is None:
        return types
    return types & {_TYPE_OF.get(value[0], "number") for value in values}


def _constants(schema: dict[str, Any]) -> set[str] | None:
    """The values of `const` or `enum`, as JSON with sorted keys; None if there is neither."""
    if "const" in schema:
        return {json.dumps(schema["const"], sort_keys=True)}
    if "enum" in schema:
        return {json.dumps(value, sort_keys=True) for value in schema["enum"]}
    return None


def _property(schema: dict[str, Any], name: str) -> Any:
    """The schema of the value under a key, as far as it is known."""
    properties = schema.get("properties", {})
    if name in properties:
        return properties[name]
    if "patternProperties" in schema:
        return True
    return schema.get("additionalProperties", True) is not False
