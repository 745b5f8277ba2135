"""Two proofs about rewritten JSON schemas: that a schema has a finite value, and that no value
validates under two of them.

Knows the keywords that schema.py leaves, with references into one table of definitions. Where a
proof fails although the statement is true, a schema is refused that could have been enforced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(eq=False)
class _Node:
    """What holds once `missing` of those that it waits for hold. `waiting`: who waits for it."""

    missing: int = 1
    waiting: list[_Node] = field(default_factory=list)
    has_ended: bool = False


class Ending:
    """Which definitions have a finite value: the least fixed point. Every schema is looked at once,
    and then every one that something waits for. Raises GivenUp.
    """

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._names = {name: _Node() for name in definitions}
        for name, schema in definitions.items():
            self._wait(self._names[name], [self._ends(schema)], 1)

    def __contains__(self, name: str) -> bool:
        return self._names[name].has_ended

    def add(self, name: str) -> None:
        """Now it has one."""
        self._settle(self._names[name])

    def _wait(self, node: _Node, parts: Sequence[_Node], enough: int) -> _Node:
        """`node`, which holds when so many of the parts do."""
        node.missing = enough - sum(part.has_ended for part in parts)
        if node.missing <= 0:
            self._settle(node)
            return node
        for part in parts:
            if not part.has_ended:
                part.waiting.append(node)
        return node

    def _settle(self, node: _Node) -> None:
        ended = [node]
        while ended:
            node = ended.pop()
            if node.has_ended:
                continue
            node.has_ended = True
            for waiting in node.waiting:
                waiting.missing -= 1
                if waiting.missing == 0:
                    ended.append(waiting)

    def _all(self, parts: Sequence[_Node]) -> _Node:
        return self._wait(_Node(), parts, len(parts))

    def _any(self, parts: Sequence[_Node]) -> _Node:
        return self._wait(_Node(), parts, 1)

    def _ends(self, schema: Any) -> _Node:
        """Whether the schema has a finite value."""
        check_wanted()
        if isinstance(schema, bool):
            return self._all([])
        needed = []
        if "$ref" in schema:
            needed.append(self._names[schema["$ref"].removeprefix(DEFINITIONS)])
        needed += map(self._ends, schema.get("allOf", ()))
        for key in ("anyOf", "oneOf"):
            if key in schema:
                needed.append(self._any([self._ends(option) for option in schema[key]]))
        types = set(schema.get("type", TYPES))
        if not (types - {"object", "array"} or "const" in schema or "enum" in schema):
            shapes = []
            if "object" in types:
                shapes.append(self._all([self._ends(v) for v in _required_values(schema)]))
            if "array" in types:
                shapes.append(self._all([self._ends(v) for v in _required_items(schema)]))
            needed.append(self._any(shapes))
        return self._all(needed)


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
