"""A JSON schema, rewritten into what the grammar compiler enforces exactly; anything else refused
by name.

Knows JSON schema (2020-12) and what llguidance 1.9 makes of it: keywords it has not, keywords it
takes but does not enforce to the letter, and plain mistakes. Every value sampled under the
rewritten schema validates under the original by the `jsonschema` package, formats included. Nothing
here knows tokens or messages.

The rewriting may only narrow a schema. It
- puts exact patterns in the place of formats, and translates patterns (see patterns.py);
- makes exclusive bounds inclusive and rounds bounds inwards, as numbers are compared after rounding;
- closes objects: keys that are not declared become a pattern for all other keys, because the compiler lets an
  undeclared key be spelled `"\\u0061"`, which is the declared key "a" once more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, Decimal
from functools import reduce
from itertools import combinations
from operator import getitem
from typing import Any
from urllib.parse import unquote

from ossia.errors import GrammarError
from ossia.harmony.grammar.compiling import Complaint, compiled
from ossia.harmony.grammar.enforced import DEFINITIONS, TYPES, disjoint, ends
from ossia.harmony.grammar.patterns import anything_but, format_pattern, translate

SEARCHED = 1 << 23  # characters that are compiled again to find the part that is wrong
SAFE = 2**53 - 1  # beyond, numbers are not exact in the compiler, nor in most JSON readers

# Keywords of JSON schema, of this or an older draft, that restrict values and that are not
# enforced.
_REFUSED = {
    *(
        "not",
        "if",
        "then",
        "else",
        "contains",
        "minContains",
        "maxContains",
        "uniqueItems",
        "propertyNames",
    ),
    *(
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "unevaluatedItems",
        "unevaluatedProperties",
    ),
    *("additionalItems", "$dynamicRef", "$recursiveRef", "extends", "disallow", "divisibleBy"),
}
_HINTS = {
    "additionalItems": ": write `prefixItems` and `items`",
    "uniqueItems": ": say so in the description and check the call",
    "oneOf": ": its options may overlap; use `anyOf`, or give each a required property with another `const`",
}
_FREE_FORMATS = ("password", "path", "file-path", "directory-path")  # that any text has

Path = tuple[str | int, ...]


def json_grammar(schema: Any, what: str) -> str:
    """A grammar for llguidance, of the JSON texts whose values validate. `what` names the schema in
    errors, such as "tool 'f': parameters". Raises GrammarError with the keyword and place that
    cannot be enforced.
    """
    try:
        return _Rewriting(_plain(schema), what).run()
    except RecursionError:
        raise GrammarError(f"{what}: the schema is nested too deeply") from None
    except (TypeError, UnicodeEncodeError) as error:
        raise GrammarError(f"{what}: the schema is not JSON: {error}") from None


def _plain(value: Any) -> Any:
    """Any mapping as a dict and any sequence as a list; the keys strings. Raises TypeError for what
    JSON lacks.
    """
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"the key {wrong[0]!r} is not a string")
        "".join(value).encode()
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        value.encode()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{value!r:.60} is no JSON value")


class _Rewriting:
    """One document. Whatever a `$ref` names goes into fresh `$defs`, wherever it stood."""

    def __init__(self, root: Any, what: str) -> None:
        self._root, self._what = root, what
        self._names: dict[Path, str] = {}  # of the fresh definitions
        self._definitions: dict[str, Any] = {}
        self._made: list[
            tuple[Path, dict[str, Any]]
        ] = []  # every rewritten schema, inner ones first

    def run(self) -> str:
        """The grammar."""
        root = self._schema(self._root, ())
        if isinstance(root, bool):
            root = {} if root else {"enum": []}
        self._names.setdefault((), "root")
        self._definitions["root"] = root
        while missing := [
            place for place, name in self._names.items() if name not in self._definitions
        ]:
            for where in missing:
                self._definitions[self._names[where]] = self._schema(self._at(where), where)
        self._prove_one_of()
        self._refuse_endless()
        grammar, error = self._compile(root)
        if error:
            where, error = next(self._culprits(error), ((), error))
            hint = _HINTS["oneOf"] if error.kind == "overlap" else f": {error}"
            raise self._refused(where, f"cannot be enforced{hint}")
        return grammar

    def _compile(self, schema: dict[str, Any]) -> tuple[str, Complaint | None]:
        return compiled({**schema, "$defs": self._definitions})

    def _culprits(self, error: Complaint) -> Iterator[tuple[Path, Complaint]]:
        """The innermost schemas that do not compile by themselves; a part without any value is
        fault only where the whole has none. In a large schema few are tried, each with all
        definitions.
        """
        size = len(json.dumps(self._definitions))
        for where, schema in self._made[: SEARCHED // size]:
            _, its = self._compile(schema)
            if its is not None and (its.kind != "empty" or error.kind == "empty"):
                yield where, its

    def _at(self, where: Path) -> Any:
        return reduce(getitem, where, self._root)

    def _refused(self, where: Path, why: str) -> GrammarError:
        pointer = "#" + "".join(
            f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in where
        )
        return GrammarError(f"{self._what}: {pointer} {why}")

    # -- one schema
    # ------------------------------------------------------------------------------------------

    def _schema(self, node: Any, where: Path) -> Any:
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            raise self._refused(where, f"should be a schema, found {node!r:.60}")
        out: dict[str, Any] = {}
        for key in node:
            self._refuse_keyword(key, node[key], (*where, key))
        self._copy_types(node, out, where)
        self._rewrite_string(node, out, where)
        self._rewrite_numbers(node, out, where)
        self._rewrite_array(node, out, where)
        self._rewrite_object(node, out, where)
        self._rewrite_applicators(node, out, where)
        self._made.append((where, out))
        return out

    def _schemas(self, nodes: Any, where: Path) -> dict[str, Any]:
        if not isinstance(nodes, dict):
            raise self._refused(where, f"should be an object of schemas, found {nodes!r:.60}")
        return {name: self._schema(node, (*where, name)) for name, node in nodes.items()}

    def _list(self, value: Any, where: Path, least: int = 1) -> list[Any]:
        if not isinstance(value, list) or len(value) < least:
            raise self._refused(
                where, f"should be a list{' with something in it' * least}, found {value!r:.60}"
            )
        return value

    def _refuse_keyword(self, key: str, value: Any, where: Path) -> None:
        harmless: dict[str, list[Any]] = {
            "uniqueItems": [False],
            "propertyNames": [True, {}, {"type": "string"}],
        }
        if key in _REFUSED and value not in harmless.get(key, []):
            raise self._refused(where, f"cannot be enforced{_HINTS.get(key, '')}")
        if key == "$id" and len(where) > 1:
            raise self._refused(
                where, "starts a document within the document, which is not supported"
            )

    def _copy_types(self, node: dict[str, Any], out: dict[str, Any], where: Path) -> None:
        if "type" not in node:
            return
        types = node["type"] if isinstance(node["type"], list) else [node["type"]]
        if not types or any(name not in TYPES for name in types):
            raise self._refused(
                (*where, "type"), f"should be one of {', '.join(TYPES)}, or a list of them"
            )
        # a number may be whole, and the compiler fails over unions in which a kind stands twice
        out["type"] = [
            name for name in dict.fromkeys(types) if name != "integer" or "number" not in types
        ]

    def _count(self, node: dict[str, Any], key: str, where: Path) -> int | None:
        value: Any = node.get(key)
        if value is None and key not in node:
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value != int(value) or value < 0:
            raise self._refused(
                (*where, key), f"should be a whole number from 0, found {value!r:.60}"
            )
        return int(value)

    def _copy_counts(
        self, node: dict[str, Any], out: dict[str, Any], where: Path, *keys: str
    ) -> None:
        for key in keys:
            if (count := self._count(node, key, where)) is not None:
                out[key] = count

    def _rewrite_string(self, node: dict[str, Any], out: dict[str, Any], where: Path) -> None:
        self._copy_counts(node, out, where, "minLength", "maxLength")
        patterns = []
        if "pattern" in node:
            patterns.append(self._pattern(node["pattern"], (*where, "pattern")))
        if (
            "format" in node
            and "string" in out.get("type", TYPES)
            and node["format"] not in _FREE_FORMATS
        ):
            pattern = format_pattern(node["format"]) if isinstance(node["format"], str) else None
            if pattern is None:
                raise self._refused(
                    (*where, "format"),
                    f"{node['format']!r:.60} is a format that cannot be enforced",
                )
            patterns.append(pattern)
        if patterns:
            out["pattern"] = patterns[0]
        if patterns[1:]:
            out["allOf"] = [{"pattern": patterns[1]}]

    def _pattern(self, pattern: Any, where: Path) -> str:
        if not isinstance(pattern, str):
            raise self._refused(where, f"should be a string, found {pattern!r:.60}")
        try:
            return translate(pattern)
        except GrammarError as error:
            raise self._refused(where, f"cannot be enforced: {error}") from None

    # -- numbers
    # ---------------------------------------------------------------------------------------------

    def _rewrite_numbers(self, node: dict[str, Any], out: dict[str, Any], where: Path) -> None:
        whole = "type" in out and "number" not in out["type"]
        for key, exclusive, side in (
            ("minimum", "exclusiveMinimum", 1),
            ("maximum", "exclusiveMaximum", -1),
        ):
            bounds = []
            for name in (key, exclusive):
                if name in node:
                    value = self._number(node[name], (*where, name))
                    bounds.append(side * _inwards(side * value, whole, name == exclusive))
            if bounds:
                bound = max(bounds, key=lambda value: side * value)
                if side * bound > SAFE:
                    raise self._refused(
                        (*where, key), "leaves only numbers that are not exact in JSON"
                    )
                out[key] = bound if abs(bound) <= SAFE else -side * SAFE
        if "multipleOf" in node:
            out["multipleOf"] = self._step(node["multipleOf"], (*where, "multipleOf"))

    def _number(self, value: Any, where: Path) -> Decimal:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise self._refused(where, f"should be a number, found {value!r:.60}")
        return Decimal(repr(value))

    def _step(self, value: Any, where: Path) -> int | float:
        """Steps with which floating-point division is exact. They are few, as steps of schemas that
        are joined are multiplied in 32 bits.
        """
        step = self._number(value, where)
        if not 0 < step <= 10_000 or step * 8 != int(step * 8):
            raise self._refused(
                where, "can be enforced for whole numbers up to 10000, halves, quarters and eighths"
            )
        return int(step) if step == int(step) else float(step)

    # -- arrays and objects
    # ----------------------------------------------------------------------------------

    def _rewrite_array(self, node: dict[str, Any], out: dict[str, Any], where: Path) -> None:
        self._copy_counts(node, out, where, "minItems", "maxItems")
        if "prefixItems" in node:
            items = self._list(node["prefixItems"], (*where, "prefixItems"))
            out["prefixItems"] = [
                self._schema(item, (*where, "prefixItems", n)) for n, item in enumerate(items)
            ]
        if "items" in node:
            if isinstance(node["items"], list):
                raise self._refused(
                    (*where, "items"), "is a list, as in old drafts: write `prefixItems`"
                )
            out["items"] = self._schema(node["items"], (*where, "items"))

    def _rewrite_object(self, node: dict[str, Any], out: dict[str, Any], where: Path) -> None:
        properties = self._schemas(node.get("properties", {}), (*where, "properties"))
        required = self._list(node.get("required", []), (*where, "required"), 0)
        if any(not isinstance(name, str) for name in required):
            raise self._refused((*where, "required"), "should be a list of strings")
        named = dict.fromkeys([*properties, *required])
        if odd := next(
            (name for name in named if not name.isprintable() and _has_controls(name)), None
        ):
            raise self._refused(
                where, f"declares the key {odd!r}; keys with control characters are not supported"
            )
        others = self._schema(
            node.get("additionalProperties", True), (*where, "additionalProperties")
        )
        patterns = self._pattern_properties(node, named, where)
        self._count_properties(node, out, required, where)
        if set(named) - set(required) and out.keys() & {"minProperties", "maxProperties"}:
            # the compiler counts keys that may be left out only where there are no others
            others = False
            if out.get("maxProperties", 0) >= len(named) and not patterns:
                del out["maxProperties"]
        if named and not patterns and others is not False:
            # of a key that is only required, `properties` must say what the pattern for the others
            # says
            properties |= {name: others for name in required if name not in properties}
            patterns = {"" if others in (True, {}) else anything_but(named): others}
        elif patterns and others not in (True, {}, False):
            raise self._refused(
                (*where, "additionalProperties"),
                "is a schema beside `patternProperties`, which cannot be enforced",
            )
        out |= {"properties": properties} if properties else {}
        out |= {"required": required} if required else {}
        out |= {"patternProperties": patterns} if patterns else {}
        if patterns or others is not True:
            out["additionalProperties"] = False if patterns else others

    def _pattern_properties(
        self, node: dict[str, Any], named: Mapping[str, None], where: Path
    ) -> dict[str, Any]:
        here = (*where, "patternProperties")
        schemas = self._schemas(node.get("patternProperties", {}), here)
        patterns = {name: self._pattern(name, (*here, name)) for name in schemas}
        for name, pattern in patterns.items():
            # The compiler would go on behind a comma and find that no key may follow.
            _, error = compiled(
                {
                    "type": "string",
                    "allOf": [{"pattern": pattern}, {"pattern": anything_but(named)}],
                }
            )
            if error:
                raise self._refused(
                    (*here, name), f"matches no keys but those in `properties`: {error}"
                )
        return {patterns[name]: schema for name, schema in schemas.items()}

    def _count_properties(
        self, node: dict[str, Any], out: dict[str, Any], required: list[str], where: Path
    ) -> None:
        """A key may be sampled twice if it is not declared, so two such keys cannot be asked for."""
        self._copy_counts(node, out, where, "minProperties", "maxProperties")
        missing = out.get("minProperties", 0) - len(set(required))
        if missing <= 0:
            out.pop("minProperties", None)
        elif missing > 1:
            raise self._refused(
                (*where, "minProperties"),
                "can be enforced up to one more than there are in `required`",
            )

    # -- schemas of schemas
    # ----------------------------------------------------------------------------------

    def _rewrite_applicators(self, node: dict[str, Any], out: dict[str, Any], where: Path) -> None:
        if "const" in node:
            out["const"] = self._value(node["const"], (*where, "const"))
        if "enum" in node:
            values = self._list(node["enum"], (*where, "enum"))
            out["enum"] = [
                self._value(value, (*where, "enum", n)) for n, value in enumerate(values)
            ]
        if "$ref" in node:
            target = self._target(node["$ref"], (*where, "$ref"))
            out["$ref"] = DEFINITIONS + self._names.setdefault(target, str(len(self._names)))
        for key in ("allOf", "anyOf", "oneOf"):
            if key in node:
                options = self._list(node[key], (*where, key))
                options = [
                    self._schema(option, (*where, key, n)) for n, option in enumerate(options)
                ]
                out[key] = out.get(key, []) + options  # `allOf` may already hold a format

    def _value(self, value: Any, where: Path) -> Any:
        """A constant; numbers must be such that the compiler writes what it read."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int | float) and not abs(value) <= SAFE:
            raise self._refused(where, f"has the number {value!r}, which is not exact in JSON")
        if isinstance(value, dict):
            if odd := next(filter(_has_controls, value), None):
                raise self._refused(
                    where, f"has the key {odd!r}; keys with control characters are not supported"
                )
            return {key: self._value(item, (*where, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._value(item, (*where, n)) for n, item in enumerate(value)]
        return value

    def _target(self, reference: Any, where: Path) -> Path:
        """The place that a `$ref` names, by walking there: a pointer does not tell indices from
        names.
        """
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise self._refused(
                where, f"{reference!r:.80} is not supported: use '#/$defs/...' of the same schema"
            )
        place: Any = self._root
        path: list[str | int] = []
        for part in unquote(reference).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            key = int(name) if isinstance(place, list) and name.isdecimal() else name
            try:
                place = place[key]
            except (KeyError, IndexError, TypeError):
                raise self._refused(where, f"{reference!r:.80} leads nowhere") from None
            path.append(key)
        return tuple(path)

    # -- the whole
    # -------------------------------------------------------------------------------------------

    def _prove_one_of(self) -> None:
        """Where no value satisfies two options, one of them is any of them; the compiler sees that
        less often.
        """
        for _, schema in self._made:
            options = schema.get("oneOf", ())
            if options and all(
                disjoint(a, b, self._definitions) for a, b in combinations(options, 2)
            ):
                del schema["oneOf"]
                if "anyOf" in schema:
                    schema["allOf"] = [*schema.get("allOf", ()), {"anyOf": schema.pop("anyOf")}]
                schema["anyOf"] = options

    def _refuse_endless(self) -> None:
        """Every schema that recursion leads to must have a value of finite size: the least fixed
        point.
        """
        ending: set[str] = set()
        while fresh := {
            name
            for name in self._definitions.keys() - ending
            if ends(self._definitions[name], ending)
        }:
            ending |= fresh
        for where, name in self._names.items():
            if name not in ending:
                raise self._refused(
                    where, "asks for itself again and again, so that no value of it ever ends"
                )


def _has_controls(name: str) -> bool:
    return any(char < " " or char == "\x7f" for char in name)


def _inwards(lower: Decimal, whole: bool, exclusive: bool) -> int | float:
    """A lower bound as an inclusive one of at most 15 digits, never below the given.

    So many digits survive a double, and a number that is at least the bound to the letter is so
    when read.
    """
    digits = max(1, lower.adjusted() + 1) if lower else 1
    unit = Decimal(1) if whole else Decimal(1).scaleb(min(0, digits - 15))
    bound = (lower / unit).to_integral_value(ROUND_CEILING) * unit
    if exclusive and bound == lower:
        bound += unit
    return int(bound) if bound == bound.to_integral_value() else float(bound)
