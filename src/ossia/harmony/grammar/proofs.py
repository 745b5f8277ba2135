"""Two proofs about rewritten JSON schemas: that a schema has a finite value, and that no value
validates under two of them.

Knows the keywords that schema.py leaves, with references into one table of definitions. Where a
proof fails although the statement is true, a schema is refused that could have been enforced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import starmap
from typing import Any

from ossia.harmony.grammar.compiling import check_wanted
from ossia.harmony.grammar.keywords import Schema

Apart = Callable[[Any, Any], bool]
Values = tuple[set[str], set[str] | None]  # types, and constants if there are any
DEFINITIONS = "#/$defs/"
MOST_STEPS = 500_000  # pairs of schemas, keys and constants that are compared: half a second
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


def newly_ending(definitions: Schema, ending: set[str]) -> set[str]:
    """The names of definitions that have a finite value, given that `ending` have one: new ones.
    Raises GivenUp.
    """
    fresh = set()
    for name in definitions.keys() - ending:
        check_wanted()
        if ends(definitions[name], ending):
            fresh.add(name)
    return fresh


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


def _included_end(schema: Schema, ending: Collection[str]) -> bool:
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


def _required_values(schema: Schema) -> list[Any]:
    """The schemas of the values that every object has."""
    properties = schema.get("properties", {})
    return [properties.get(name, True) for name in schema.get("required", ())]


def _required_items(schema: Schema) -> list[Any]:
    """The schemas of the items that every array has."""
    items = [*schema.get("prefixItems", ()), schema.get("items", True)]
    return items[: schema.get("minItems", 0)]


class Disjointness:
    """Whether it is certain that no value validates under two schemas: because of their types,
    their constants, or a key of objects that one of them requires and whose schemas are disjoint.

    Of one document, whose proofs may take `steps` together: what is asked later is not proved.
    Raises GivenUp.
    """

    def __init__(self, definitions: Mapping[str, Any], steps: int = MOST_STEPS) -> None:
        self.steps = steps  # that are left
        self._definitions = definitions
        self._known: dict[int, Values] = {}  # by the schema's id

    def __call__(self, a: Any, b: Any, depth: int = 8) -> bool:
        """`depth`: how deep to look, in schemas within schemas."""
        if a is False or b is False:
            return True
        if a is True or b is True or depth == 0:
            return False
        check_wanted()
        self.steps -= 1
        if self.steps < 0:
            return False

        def apart(x: Any, y: Any) -> bool:
            return self(x, y, depth - 1)

        return (
            self._values_apart(a, b)
            or self._some_part_apart(a, b, apart)
            or self._some_part_apart(b, a, apart)
            or self._properties_apart(a, b, apart)
        )

    def _some_part_apart(self, one: Schema, other: Schema, apart: Apart) -> bool:
        """Whether a schema that `one` includes is disjoint from `other`, or all its options are."""
        if any(apart(part, other) for part in _parts(one, self._definitions)):
            return True
        for key in ("anyOf", "oneOf"):
            if key in one and all(apart(option, other) for option in one[key]):
                return True
        return False

    def _values_apart(self, a: Schema, b: Schema) -> bool:
        """Whether the types, or the constants, have nothing in common."""
        types, ours = self._values(a)
        other_types, theirs = self._values(b)
        if types.isdisjoint(other_types):
            return True
        if ours is None or theirs is None:
            return False
        self.steps -= min(len(ours), len(theirs))
        return ours.isdisjoint(theirs)

    def _properties_apart(self, a: Schema, b: Schema, apart: Apart) -> bool:
        """Whether both are objects only, and differ in a key that one of them requires."""
        if self._values(a)[0] & self._values(b)[0] != {"object"}:
            return False
        required = dict.fromkeys([*a.get("required", ()), *b.get("required", ())])
        self.steps -= len(required)
        tags = []
        others = []
        for name in required:
            pair = (_property(a, name), _property(b, name))
            if all(map(_is_constant, pair)):
                tags.append(pair)
            else:
                others.append(pair)
        return any(starmap(apart, tags + others))  # a tag settles it soonest

    def _values(self, schema: Schema) -> Values:
        """The types that a value may have, and the constants."""
        if id(schema) not in self._known:
            self._known[id(schema)] = (_types(schema), _constants(schema))
        return self._known[id(schema)]


def _is_constant(schema: Any) -> bool:
    return isinstance(schema, dict) and ("const" in schema or "enum" in schema)


def _parts(schema: Schema, definitions: Mapping[str, Any]) -> Iterator[Any]:
    """Schemas that every value of this one validates under too."""
    if "$ref" in schema:
        yield definitions[schema["$ref"].removeprefix(DEFINITIONS)]
    yield from schema.get("allOf", ())


def _types(schema: Schema) -> set[str]:
    """The types that a value may have; whole numbers are numbers."""
    types = {"number" if name == "integer" else name for name in schema.get("type", TYPES)}
    values = _constants(schema)
    if values is None:
        return types
    return types & {_TYPE_OF.get(value[0], "number") for value in values}


def _constants(schema: Schema) -> set[str] | None:
    """The values of `const` or `enum`, as JSON with sorted keys; None if there is neither."""
    if "const" in schema:
        return {json.dumps(schema["const"], sort_keys=True)}
    if "enum" in schema:
        return {json.dumps(value, sort_keys=True) for value in schema["enum"]}
    return None


def _property(schema: Schema, name: str) -> Any:
    """The schema of the value under a key, as far as it is known."""
    properties = schema.get("properties", {})
    if name in properties:
        return properties[name]
    if "patternProperties" in schema:
        return True
    return schema.get("additionalProperties", True) is not False
