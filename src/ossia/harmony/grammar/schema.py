"""A JSON schema, rewritten so that the grammar compiler enforces it exactly; anything else is
refused by name.

Knows JSON schema (2020-12) and what llguidance 1.9 makes of it: the keywords it lacks, those it
accepts but does not enforce to the letter, and plain mistakes. Every value sampled under the
rewritten schema validates under the original by the `jsonschema` package, formats included. Nothing
here knows tokens or messages. compiling.py calls the compiler, proofs.py has the two proofs.

The rewriting may only narrow a schema. It
- replaces formats by exact patterns, and translates patterns (see patterns.py);
- makes exclusive bounds inclusive and rounds bounds inwards, as numbers are compared after
  rounding;
- closes objects: keys that are not declared become a pattern for all other keys, because the
  compiler lets an undeclared key be spelled `"\\u0061"`, which is the declared key "a" once more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import ROUND_CEILING, Decimal
from functools import reduce
from itertools import combinations
from operator import getitem
from typing import Any, Literal
from urllib.parse import unquote

from ossia.errors import GrammarError
from ossia.harmony.grammar.compiling import Complaint, compiled
from ossia.harmony.grammar.patterns import anything_but, format_pattern, translate
from ossia.harmony.grammar.proofs import DEFINITIONS, TYPES, disjoint, ends

SEARCHED = 1 << 23  # characters that are compiled again to find the part that is wrong
SAFE = 2**53 - 1  # larger numbers are not exact in the compiler, nor in most JSON readers

# Keywords of JSON schema, of this or an older draft, that restrict values but are not enforced.
_REFUSED = {
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
    "additionalItems",
    "$dynamicRef",
    "$recursiveRef",
    "extends",
    "disallow",
    "divisibleBy",
}
_HINTS = {
    "additionalItems": ": write `prefixItems` and `items`",
    "uniqueItems": ": say so in the description and check the call",
    "oneOf": ": its options may overlap; use `anyOf`, "
    "or give each a required property with another `const`",
}
_HARMLESS: dict[str, list[Any]] = {  # values with which a refused keyword restricts nothing
    "uniqueItems": [False],
    "propertyNames": [True, {}, {"type": "string"}],
}
_FREE_FORMATS = ("password", "path", "file-path", "directory-path")  # any text has them

Path = tuple[str | int, ...]
Schema = dict[str, Any]


def json_grammar(schema: Any, what: str) -> str:
    """A grammar for llguidance, of the JSON texts whose values validate.

    `what` names the schema in errors, such as "tool 'f': parameters". Raises GrammarError with the
    keyword and place that cannot be enforced.
    """
    try:
        return _Rewriting(plain(schema), what).run()
    except RecursionError:
        raise GrammarError(f"{what}: the schema is nested too deeply") from None
    except (TypeError, UnicodeEncodeError) as error:
        raise GrammarError(f"{what}: the schema is not JSON: {error}") from None


def plain(value: Any) -> Any:
    """Any mapping as a dict and any sequence as a list, with string keys. Raises TypeError for a
    value that is not JSON.
    """
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is not a string")
            key.encode()  # a lone surrogate cannot be
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str):
        value.encode()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{value!r:.60} is not a JSON value")


class _Rewriting:
    """One document. The target of every `$ref` becomes a fresh definition, wherever it was."""

    def __init__(self, root: Any, what: str) -> None:
        self._root = root
        self._what = what
        self._names: dict[Path, str] = {}  # of the fresh definitions
        self._definitions: Schema = {}
        # Every rewritten schema, inner ones first.
        self._made: list[tuple[Path, Schema]] = []

    def run(self) -> str:
        """The grammar."""
        root = self._schema(self._root, ())
        if isinstance(root, bool):
            root = {} if root else {"enum": []}
        self._names.setdefault((), "root")
        self._definitions["root"] = root
        while missing := self._places_to_define():
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

    def _places_to_define(self) -> list[Path]:
        return [place for place, name in self._names.items() if name not in self._definitions]

    def _compile(self, schema: Schema) -> tuple[str, Complaint | None]:
        return compiled({**schema, "$defs": self._definitions})

    def _culprits(self, error: Complaint) -> Iterator[tuple[Path, Complaint]]:
        """The innermost schemas that do not compile by themselves. A part without any value is to
        blame only if the whole has none. In a large document only a few are tried, each with all
        definitions.
        """
        size = len(json.dumps(self._definitions))
        for where, schema in self._made[: SEARCHED // size]:
            _, its_error = self._compile(schema)
            if its_error is not None and (its_error.kind != "empty" or error.kind == "empty"):
                yield where, its_error

    def _at(self, where: Path) -> Any:
        return reduce(getitem, where, self._root)

    def _refused(self, where: Path, why: str) -> GrammarError:
        parts = [str(part).replace("~", "~0").replace("/", "~1") for part in where]
        pointer = "".join(f"/{part}" for part in parts)
        return GrammarError(f"{self._what}: #{pointer} {why}")

    # -- one schema

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

    def _options(self, nodes: Any, where: Path) -> list[Any]:
        nodes = self._list(nodes, where)
        return [self._schema(node, (*where, n)) for n, node in enumerate(nodes)]

    def _list(self, value: Any, where: Path, least: int = 1) -> list[Any]:
        if not isinstance(value, list) or len(value) < least:
            wanted = "a list with something in it" if least else "a list"
            raise self._refused(where, f"should be {wanted}, found {value!r:.60}")
        return value

    def _refuse_keyword(self, key: str, value: Any, where: Path) -> None:
        if key in _REFUSED and value not in _HARMLESS.get(key, []):
            raise self._refused(where, f"cannot be enforced{_HINTS.get(key, '')}")
        if key == "$id" and len(where) > 1:
            raise self._refused(
                where, "starts a document within the document, which is not supported"
            )

    def _copy_types(self, node: Schema, out: Schema, where: Path) -> None:
        if "type" not in node:
            return
        types = node["type"] if isinstance(node["type"], list) else [node["type"]]
        if not types or any(name not in TYPES for name in types):
            known = ", ".join(TYPES)
            raise self._refused((*where, "type"), f"should be one of {known}, or a list of them")
        kept = list(dict.fromkeys(types))
        if "number" in kept and "integer" in kept:
            # a number may be whole, and the compiler fails over unions that name a type twice
            kept.remove("integer")
        out["type"] = kept

    def _count(self, node: Schema, key: str, where: Path) -> int | None:
        if key not in node:
            return None
        value = node[key]
        if not _is_finite(value) or value != int(value) or value < 0:
            raise self._refused(
                (*where, key), f"should be a whole number, 0 or more, found {value!r:.60}"
            )
        return int(value)

    def _copy_counts(self, node: Schema, out: Schema, where: Path, *keys: str) -> None:
        for key in keys:
            count = self._count(node, key, where)
            if count is not None:
                out[key] = count

    def _rewrite_string(self, node: Schema, out: Schema, where: Path) -> None:
        self._copy_counts(node, out, where, "minLength", "maxLength")
        patterns = []
        if "pattern" in node:
            patterns.append(self._pattern(node["pattern"], (*where, "pattern")))
        may_be_string = "string" in out.get("type", TYPES)
        if "format" in node and may_be_string and node["format"] not in _FREE_FORMATS:
            patterns.append(self._format(node["format"], (*where, "format")))
        if patterns:
            out["pattern"] = patterns[0]
        if len(patterns) > 1:
            out["allOf"] = [{"pattern": patterns[1]}]

    def _format(self, name: Any, where: Path) -> str:
        pattern = format_pattern(name) if isinstance(name, str) else None
        if pattern is None:
            raise self._refused(where, f"{name!r:.60} is a format that cannot be enforced")
        return pattern

    def _pattern(self, pattern: Any, where: Path) -> str:
        if not isinstance(pattern, str):
            raise self._refused(where, f"should be a string, found {pattern!r:.60}")
        try:
            return translate(pattern)
        except GrammarError as error:
            raise self._refused(where, f"cannot be enforced: {error}") from None

    # -- numbers

    def _rewrite_numbers(self, node: Schema, out: Schema, where: Path) -> None:
        is_whole = "type" in out and "number" not in out["type"]
        minimum = self._bound(node, "minimum", 1, is_whole, where)
        maximum = self._bound(node, "maximum", -1, is_whole, where)
        if minimum is not None:
            out["minimum"] = minimum
        if maximum is not None:
            out["maximum"] = maximum
        if "multipleOf" in node:
            out["multipleOf"] = self._step(node["multipleOf"], (*where, "multipleOf"))

    def _bound(
        self, node: Schema, key: str, side: Literal[1, -1], is_whole: bool, where: Path
    ) -> int | float | None:
        """The tighter of a bound and its exclusive form, as an inclusive one. An upper bound
        (`side` -1) is a lower bound of the negated numbers.
        """
        exclusive_key = f"exclusive{key.capitalize()}"
        lower_bounds = []
        for name in (key, exclusive_key):
            if name in node:
                value = self._number(node[name], (*where, name))
                lower_bounds.append(_inwards(side * value, is_whole, name == exclusive_key))
        if not lower_bounds:
            return None
        lower = max(lower_bounds)
        if lower > SAFE:
            raise self._refused((*where, key), "leaves only numbers that are not exact in JSON")
        return side * max(lower, -SAFE)

    def _number(self, value: Any, where: Path) -> Decimal:
        if not _is_finite(value):
            raise self._refused(where, f"should be a number, found {value!r:.60}")
        return Decimal(repr(value))

    def _step(self, value: Any, where: Path) -> int | float:
        """A step for which floating-point division is exact. There are few of them, because the
        compiler multiplies the steps of joined schemas in 32 bits.
        """
        step = self._number(value, where)
        is_exact = 0 < step <= 10_000 and step * 8 == int(step * 8)
        if not is_exact:
            raise self._refused(
                where, "can be enforced for whole numbers up to 10000, halves, quarters and eighths"
            )
        if step == int(step):
            return int(step)
        return float(step)

    # -- arrays and objects

    def _rewrite_array(self, node: Schema, out: Schema, where: Path) -> None:
        self._copy_counts(node, out, where, "minItems", "maxItems")
        if "prefixItems" in node:
            out["prefixItems"] = self._options(node["prefixItems"], (*where, "prefixItems"))
        if "items" in node:
            if isinstance(node["items"], list):
                raise self._refused(
                    (*where, "items"), "is a list, as in old drafts: write `prefixItems`"
                )
            out["items"] = self._schema(node["items"], (*where, "items"))

    def _rewrite_object(self, node: Schema, out: Schema, where: Path) -> None:
        properties = self._schemas(node.get("properties", {}), (*where, "properties"))
        required = self._required(node, where)
        named = dict.fromkeys([*properties, *required])
        self._refuse_controls(named, "declares", where)
        others_at = (*where, "additionalProperties")
        others = self._schema(node.get("additionalProperties", True), others_at)
        patterns = self._pattern_properties(node, named, where)
        self._count_properties(node, out, required, where)
        has_optional = not named.keys() <= set(required)
        if has_optional and ("minProperties" in out or "maxProperties" in out):
            # the compiler counts keys that may be left out only where there are no others
            others = False
            if not patterns and out.get("maxProperties", 0) >= len(named):
                del out["maxProperties"]
        if named and not patterns and others is not False:
            # `properties` must say of every required key what the pattern says of the others
            for name in required:
                properties.setdefault(name, others)
            patterns = {_key_pattern(named, others): others}
        elif patterns and others not in (True, {}, False):
            raise self._refused(
                others_at, "is a schema next to `patternProperties`, which cannot be enforced"
            )
        if properties:
            out["properties"] = properties
        if required:
            out["required"] = required
        _put_other_keys(out, patterns, others)

    def _required(self, node: Schema, where: Path) -> list[str]:
        required = self._list(node.get("required", []), (*where, "required"), 0)
        if any(not isinstance(name, str) for name in required):
            raise self._refused((*where, "required"), "should be a list of strings")
        return required

    def _refuse_controls(self, names: Iterable[str], how: str, where: Path) -> None:
        for name in names:
            if _has_controls(name):
                raise self._refused(
                    where, f"{how} the key {name!r}; keys with control characters are not supported"
                )

    def _pattern_properties(
        self, node: Schema, named: Mapping[str, None], where: Path
    ) -> dict[str, Any]:
        here = (*where, "patternProperties")
        schemas = self._schemas(node.get("patternProperties", {}), here)
        patterns = {name: self._pattern(name, (*here, name)) for name in schemas}
        not_named = {"pattern": anything_but(named)}
        for name, pattern in patterns.items():
            # The compiler would write a comma and then find that no key may follow.
            _, error = compiled({"type": "string", "allOf": [{"pattern": pattern}, not_named]})
            if error:
                raise self._refused(
                    (*here, name), f"matches no keys but those in `properties`: {error}"
                )
        return {patterns[name]: schema for name, schema in schemas.items()}

    def _count_properties(
        self, node: Schema, out: dict[str, Any], required: list[str], where: Path
    ) -> None:
        """A key may be sampled twice if it is not declared, so two such keys cannot be required."""
        self._copy_counts(node, out, where, "minProperties", "maxProperties")
        missing = out.get("minProperties", 0) - len(set(required))
        if missing <= 0:
            out.pop("minProperties", None)
        elif missing > 1:
            raise self._refused(
                (*where, "minProperties"),
                "can be enforced up to one more than the number of keys in `required`",
            )

    # -- schemas of schemas

    def _rewrite_applicators(self, node: Schema, out: Schema, where: Path) -> None:
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
                options = self._options(node[key], (*where, key))
                already = out.get(key, [])  # `allOf` may hold a format
                out[key] = already + options

    def _value(self, value: Any, where: Path) -> Any:
        """A constant; its numbers must be numbers that the compiler writes as it read them."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int | float) and not abs(value) <= SAFE:
            raise self._refused(where, f"has the number {value!r}, which is not exact in JSON")
        if isinstance(value, dict):
            self._refuse_controls(value, "has", where)
            return {key: self._value(item, (*where, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._value(item, (*where, n)) for n, item in enumerate(value)]
        return value

    def _target(self, reference: Any, where: Path) -> Path:
        """The place that a `$ref` names. It is found by walking there: a pointer does not tell
        indices from names.
        """
        if not isinstance(reference, str) or reference[:2] not in ("#", "#/"):
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

    def _prove_one_of(self) -> None:
        """Where no value satisfies two options, `oneOf` is `anyOf`. The compiler proves that in
        fewer cases than we do.
        """
        for _, schema in self._made:
            options = schema.get("oneOf", ())
            if not options or not all(
                disjoint(a, b, self._definitions) for a, b in combinations(options, 2)
            ):
                continue
            del schema["oneOf"]
            if "anyOf" in schema:
                schema["allOf"] = [*schema.get("allOf", ()), {"anyOf": schema.pop("anyOf")}]
            schema["anyOf"] = options

    def _refuse_endless(self) -> None:
        """Every definition must have a value of finite size: the least fixed point."""
        ending: set[str] = set()
        while fresh := self._newly_ending(ending):
            ending |= fresh
        for where, name in self._names.items():
            if name not in ending:
                raise self._refused(
                    where, "contains itself without an end, so that it has no finite value"
                )

    def _newly_ending(self, ending: set[str]) -> set[str]:
        candidates = self._definitions.keys() - ending
        return {name for name in candidates if ends(self._definitions[name], ending)}


def _is_finite(value: Any) -> bool:
    """Whether it is a finite number. Booleans are ints to Python, but not to JSON."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _put_other_keys(out: Schema, patterns: Schema, others: Any) -> None:
    """What `out` says of the keys that are not in `properties`."""
    if patterns:
        out["patternProperties"] = patterns
        out["additionalProperties"] = False
    elif others is not True:
        out["additionalProperties"] = others


def _key_pattern(named: Iterable[str], others: Any) -> str:
    """A pattern of the keys that are not declared; if these may have any value, of all keys."""
    return "" if others in (True, {}) else anything_but(named)


def _has_controls(name: str) -> bool:
    return any(char < " " or char == "\x7f" for char in name)


def _inwards(lower: Decimal, whole: bool, exclusive: bool) -> int | float:
    """A lower bound as an inclusive one of at most 15 digits, never below the given.

    That many digits survive a double, so that a number which is at least the bound as text is so
    as a number too.
    """
    digits = max(1, lower.adjusted() + 1) if lower else 1
    unit = Decimal(1) if whole else Decimal(1).scaleb(min(0, digits - 15))
    bound = (lower / unit).to_integral_value(ROUND_CEILING) * unit
    if exclusive and bound == lower:
        bound += unit
    return int(bound) if bound == bound.to_integral_value() else float(bound)
