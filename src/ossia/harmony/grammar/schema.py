"""A JSON schema, rewritten so that the grammar compiler enforces it exactly; anything else is
refused by name.

Knows JSON schema (2020-12) and what llguidance 1.9 makes of it: the keywords it lacks, those it
accepts but does not enforce to the letter, and plain mistakes. Every value sampled under the
rewritten schema validates under the original by the `jsonschema` package, formats included. Nothing
here knows tokens or messages. compiling.py calls the compiler, proofs.py has the two proofs.

Where a schema must hold whole, what cannot be enforced is refused, and the rewriting only narrows:
every sampled value validates. Where it need not, the keyword that cannot be enforced is *relaxed*:
it alone is left out, and noted. Then the rewriting only widens, but for formats and patterns, which
keep the common core of their readings: what validates can be sampled.

Old spellings are read in their sense: a keyword that is null is absent, `nullable: true` also
allows null, `exclusiveMinimum: true` goes with `minimum`. A list of `items` is refused, or read as
`prefixItems`.

The rewriting
- replaces formats by exact patterns, and translates patterns (see patterns.py);
- makes exclusive bounds inclusive and rounds bounds inwards, as numbers are compared after
  rounding;
- closes objects: keys that are not declared become a pattern for all other keys, because the
  compiler lets an undeclared key be spelled `"\\u0061"`, which is the declared key "a" once more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from functools import reduce
from itertools import combinations, starmap
from operator import getitem
from typing import Any, Literal, ParamSpec, TypeVar
from urllib.parse import unquote

from ossia.errors import GrammarError
from ossia.harmony.grammar.compiling import Complaint, compiled
from ossia.harmony.grammar.keywords import (
    ANY_LINE,
    ANY_TEXT,
    FREE_FORMATS,
    HARMLESS,
    HINTS,
    REFUSED,
    WEAKER,
    Refusal,
    Relaxed,
    Schema,
    inwards,
    is_finite,
    plain,
    respelt,
    shortened,
    without_tuples,
)
from ossia.harmony.grammar.patterns import anything_but, format_pattern, translate
from ossia.harmony.grammar.proofs import DEFINITIONS, TYPES, Disjointness, Ending

SEARCHED = 1 << 23  # characters that are compiled again to find the part that is wrong
SAFE = 2**53 - 1  # larger numbers are not exact in the compiler, nor in most JSON readers

Path = tuple[str | int, ...]
P = ParamSpec("P")
T = TypeVar("T")


def json_grammar(schema: Any, what: str, relaxed: list[Relaxed] | None = None) -> str:
    """A grammar for llguidance, of the JSON texts whose values validate.

    `what` names the schema in errors, such as "tool 'f': parameters". `relaxed` None: the schema
    must hold whole; a list: keywords that cannot be enforced are left out and added to it, as far
    as `shortened` tells them. Raises GrammarError with the keyword and place that cannot be
    enforced, or relaxed.
    """
    notes: list[Relaxed] | None = None if relaxed is None else []
    try:
        grammar = _Rewriting(plain(schema), what, notes).run()
    except RecursionError:
        raise GrammarError(f"{what}: the schema is nested too deeply") from None
    except (TypeError, UnicodeEncodeError) as error:
        raise GrammarError(f"{what}: the schema is not JSON: {error}") from None
    if relaxed is not None:
        relaxed += shortened(notes or ())
    return grammar


class _Rewriting:
    """One document. The target of every `$ref` becomes a fresh definition, wherever it was."""

    def __init__(self, root: Any, what: str, relaxed: list[Relaxed] | None) -> None:
        self._root = root
        self._what = what
        self._relaxed = relaxed
        self._names: dict[Path, str] = {}  # of the fresh definitions
        self._definitions: Schema = {}
        # Every rewritten schema, inner ones first.
        self._made: list[tuple[Path, Schema]] = []
        self._searched = 0  # characters

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
        while True:
            grammar, error = self._compile(root)
            if error is None:
                return grammar
            where, schema, error = next(self._culprits(error), ((), root, error))
            hint = HINTS["oneOf"] if error.kind == "overlap" else f": {error}"
            refusal = self._refused(where, f"cannot be enforced{hint}")
            if self._relaxed is None or not schema:
                raise refusal
            self._weaken(schema, where, refusal)

    def _weaken(self, schema: Schema, where: Path, refusal: Refusal) -> None:
        """Takes out of a rewritten schema what keeps it from compiling; at worst, everything."""
        for keys in WEAKER:
            weaker = {key: value for key, value in schema.items() if key not in keys}
            if len(weaker) == len(schema):
                continue
            _, error = self._compile(weaker)
            if error is not None:
                continue
            taken = next(key for key in keys if key in schema)
            self._note(self._refused((*where, taken), refusal.found.reason))
            break
        else:
            weaker = {}
            self._note(refusal)
        schema.clear()
        schema.update(weaker)

    def _note(self, refusal: Refusal) -> None:
        """Relaxes what was refused, or raises."""
        if self._relaxed is None:
            raise refusal
        self._relaxed.append(refusal.found)

    def _try(self, instead: T, make: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """What `make` makes. If that is refused, and may be relaxed: `instead`, and a note."""
        try:
            return make(*args, **more)
        except Refusal as refusal:
            self._note(refusal)
            return instead

    def _places_to_define(self) -> list[Path]:
        return [place for place, name in self._names.items() if name not in self._definitions]

    def _compile(self, schema: Schema) -> tuple[str, Complaint | None]:
        return compiled({**schema, "$defs": self._definitions})

    def _culprits(self, error: Complaint) -> Iterator[tuple[Path, Schema, Complaint]]:
        """The innermost schemas that do not compile by themselves. A part without any value is to
        blame only if the whole has none. In a large document only a few are tried, each with all
        definitions.
        """
        size = len(json.dumps(self._definitions))
        left = max(0, SEARCHED - self._searched)
        for where, schema in self._made[: left // size]:
            self._searched += size
            _, its_error = self._compile(schema)
            if its_error is not None and (its_error.kind != "empty" or error.kind == "empty"):
                yield where, schema, its_error

    def _at(self, where: Path) -> Any:
        return reduce(getitem, where, self._root)

    def _refused(self, where: Path, why: str, *, is_annotation: bool = False) -> Refusal:
        parts = [str(part).replace("~", "~0").replace("/", "~1") for part in where]
        pointer = "".join(f"/{part}" for part in parts)
        return Refusal(Relaxed(self._what, f"#{pointer}", why, is_annotation))

    # -- one schema

    def _schema(self, node: Any, where: Path) -> Any:
        return self._try({}, self._rewritten, node, where)

    def _rewritten(self, node: Any, where: Path) -> Any:
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            raise self._refused(where, f"should be a schema, found {node!r:.60}")
        node = respelt(node)
        if self._relaxed is not None:
            node = without_tuples(node)
        out: dict[str, Any] = {}
        for key in node:
            self._try(None, self._refuse_keyword, key, node[key], (*where, key))
        self._copy_types(node, out, where)
        self._rewrite_string(node, out, where)
        self._rewrite_numbers(node, out, where)
        self._rewrite_array(node, out, where)
        self._try(None, self._rewrite_object, node, out, where)
        self._rewrite_applicators(node, out, where)
        self._made.append((where, out))
        if node.get("nullable") is True and "null" not in out.get("type", ()):
            return {"anyOf": [out, {"type": ["null"]}]}
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
        if key in REFUSED and value not in HARMLESS.get(key, []):
            raise self._refused(where, f"cannot be enforced{HINTS.get(key, '')}")
        if key == "$id" and len(where) > 1:
            raise self._refused(
                where, "starts a document within the document, which is not supported"
            )

    def _copy_types(self, node: Schema, out: Schema, where: Path) -> None:
        if "type" in node:
            kept = self._try([], self._types, node, where)
            if kept:
                out["type"] = kept

    def _types(self, node: Schema, where: Path) -> list[str]:
        types = node["type"] if isinstance(node["type"], list) else [node["type"]]
        if not types or any(name not in TYPES for name in types):
            known = ", ".join(TYPES)
            raise self._refused((*where, "type"), f"should be one of {known}, or a list of them")
        kept = list(dict.fromkeys(types))
        if "number" in kept and "integer" in kept:
            # a number may be whole, and the compiler fails over unions that name a type twice
            kept.remove("integer")
        return kept

    def _count(self, node: Schema, key: str, where: Path) -> int | None:
        if key not in node:
            return None
        value = node[key]
        if not is_finite(value) or value != int(value) or value < 0:
            raise self._refused(
                (*where, key), f"should be a whole number, 0 or more, found {value!r:.60}"
            )
        return int(value)

    def _copy_counts(self, node: Schema, out: Schema, where: Path, *keys: str) -> None:
        for key in keys:
            count = self._try(None, self._count, node, key, where)
            if count is not None:
                out[key] = count

    def _rewrite_string(self, node: Schema, out: Schema, where: Path) -> None:
        self._copy_counts(node, out, where, "minLength", "maxLength")
        found = []
        if "pattern" in node:
            at = (*where, "pattern")
            found.append(self._try("", self._pattern, node["pattern"], at))
        may_be_string = "string" in out.get("type", TYPES)
        if "format" in node and may_be_string and node["format"] not in FREE_FORMATS:
            at = (*where, "format")
            found.append(self._try("", self._format, node["format"], at))
        patterns = [pattern for pattern in found if pattern]
        if patterns:
            out["pattern"] = patterns[0]
        if len(patterns) > 1:
            out["allOf"] = [{"pattern": patterns[1]}]

    def _format(self, name: Any, where: Path) -> str:
        pattern = format_pattern(name) if isinstance(name, str) else None
        if pattern is None:
            why = f"{name!r:.60} is a format that cannot be enforced"
            raise self._refused(where, why, is_annotation=True)
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
        minimum = self._try(None, self._bound, node, "minimum", 1, is_whole, where)
        maximum = self._try(None, self._bound, node, "maximum", -1, is_whole, where)
        if minimum is not None:
            out["minimum"] = minimum
        if maximum is not None:
            out["maximum"] = maximum
        if "multipleOf" in node:
            at = (*where, "multipleOf")
            step = self._try(0, self._step, node["multipleOf"], at)
            if step:
                out["multipleOf"] = step

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
                lower_bounds.append(inwards(side * value, is_whole, name == exclusive_key))
        if not lower_bounds:
            return None
        lower = max(lower_bounds)
        if lower > SAFE:
            raise self._refused((*where, key), "leaves only numbers that are not exact in JSON")
        if lower < -SAFE and self._relaxed is not None:
            raise self._refused((*where, key), "is beyond the numbers that are exact in JSON")
        return side * max(lower, -SAFE)

    def _number(self, value: Any, where: Path) -> Decimal:
        if not is_finite(value):
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
            place = (*where, "prefixItems")
            items = self._try([], self._options, node["prefixItems"], place)
            if items:
                out["prefixItems"] = items
        if "items" in node:
            if isinstance(node["items"], list):
                raise self._refused(
                    (*where, "items"), "is a list, as in old drafts: write `prefixItems`"
                )
            out["items"] = self._schema(node["items"], (*where, "items"))

    def _rewrite_object(self, node: Schema, out: Schema, where: Path) -> None:
        properties = self._try(
            {}, self._schemas, node.get("properties", {}), (*where, "properties")
        )
        required = self._try([], self._required, node, where)
        named = dict.fromkeys([*properties, *required])
        self._refuse_controls(named, "declares", where)
        patterns, others = self._other_keys(node, named, where)
        self._try(None, self._count_properties, node, out, required, where)
        has_optional = not named.keys() <= set(required)
        if has_optional and ("minProperties" in out or "maxProperties" in out):
            # the compiler counts keys that may be left out only where there are no others
            if others is not False and self._relaxed is not None:
                self._drop_counts(out, where)
            else:
                others = False
                if not patterns and out.get("maxProperties", 0) >= len(named):
                    del out["maxProperties"]
        if named and not patterns and others is not False:
            # `properties` must say of every required key what the pattern says of the others
            for name in required:
                properties.setdefault(name, others)
            patterns = {_key_pattern(named, others): others}
        if properties:
            out["properties"] = properties
        if required:
            out["required"] = required
        _put_other_keys(out, patterns, others)

    def _drop_counts(self, out: Schema, where: Path) -> None:
        for key in ("minProperties", "maxProperties"):
            if out.pop(key, None) is not None:
                why = "cannot be enforced where keys may be left out and others added"
                self._note(self._refused((*where, key), why))

    def _other_keys(
        self, node: Schema, named: Mapping[str, None], where: Path
    ) -> tuple[Schema, Any]:
        """The rewritten `patternProperties`, and what holds of the keys that match none of them."""
        at = (*where, "additionalProperties")
        others = self._schema(node.get("additionalProperties", True), at)
        given = node.get("patternProperties", {})
        if isinstance(given, dict) and len(given) == 1:
            (key,) = given
            is_map = self._relaxed is not None and others is not False and key in ANY_LINE
            if key in ANY_TEXT or is_map:
                return {}, self._schema(given[key], (*where, "patternProperties", key))
        nothing: Schema | None = None
        patterns = self._try(nothing, self._pattern_properties, node, named, where)
        if patterns is None:
            return {}, True
        if not patterns or others is False:
            return patterns, others
        if self._relaxed is not None:
            why = "cannot be enforced where other keys are allowed"
            self._note(self._refused((*where, "patternProperties"), why))
            return {}, True
        if others not in (True, {}):
            why = "is a schema next to `patternProperties`, which cannot be enforced"
            raise self._refused(at, why)
        return patterns, others

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
    ) -> Schema | None:
        here = (*where, "patternProperties")
        schemas = self._schemas(node.get("patternProperties", {}), here)
        patterns = {name: self._pattern(name, (*here, name)) for name in schemas}
        longer = {"minLength": 1 + max(map(len, named), default=-1)}
        not_named = {"pattern": anything_but(named)}
        for name, pattern in patterns.items():
            # The compiler would write a comma and then find that no key may follow. That one longer
            # than all declared keys may follow is shown sooner, and most patterns have one.
            key: Schema = {"type": "string", "allOf": [{"pattern": pattern}]}
            if compiled({**key, **longer})[1] is None:
                continue
            key["allOf"].append(not_named)
            _, error = compiled(key)
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
            del out["minProperties"]
            raise self._refused(
                (*where, "minProperties"),
                "can be enforced up to one more than the number of keys in `required`",
            )

    # -- schemas of schemas

    def _rewrite_applicators(self, node: Schema, out: Schema, where: Path) -> None:
        if "const" in node:
            self._try(None, self._copy_constant, node, out, where)
        if "enum" in node:
            self._try(None, self._copy_enum, node, out, where)
        if "$ref" in node:
            at = (*where, "$ref")
            target = self._try(None, self._target, node["$ref"], at)
            if target is not None:
                name = self._names.setdefault(target, str(len(self._names)))
                out["$ref"] = DEFINITIONS + name
        for key in ("allOf", "anyOf", "oneOf"):
            if key in node:
                at = (*where, key)
                options = self._try([], self._options, node[key], at)
                already = out.get(key, [])  # `allOf` may hold a format
                if options:
                    out[key] = already + options

    def _copy_constant(self, node: Schema, out: Schema, where: Path) -> None:
        out["const"] = self._value(node["const"], (*where, "const"))

    def _copy_enum(self, node: Schema, out: Schema, where: Path) -> None:
        at = (*where, "enum")
        kept = []
        for n, value in enumerate(self._list(node["enum"], at)):
            kept.append(self._value(value, (*at, n)))
        out["enum"] = kept

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

    def _target(self, reference: Any, where: Path) -> Path | None:
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
        fewer cases than we do. Where it is not proved, `anyOf` is the weaker one.
        """
        disjoint = Disjointness(self._definitions)
        for where, schema in self._made:
            options = schema.get("oneOf", ())
            is_proved = all(starmap(disjoint, combinations(options, 2)))
            if not options or not (is_proved or self._relaxed is not None):
                continue
            if not is_proved:
                why = f"cannot be enforced{HINTS['oneOf']}"
                self._note(self._refused((*where, "oneOf"), why))
            del schema["oneOf"]
            if "anyOf" in schema:
                schema["allOf"] = [*schema.get("allOf", ()), {"anyOf": schema.pop("anyOf")}]
            schema["anyOf"] = options

    def _refuse_endless(self) -> None:
        """Every definition must have a value of finite size."""
        ending = Ending(self._definitions)
        for where, name in self._names.items():
            if name not in ending:
                why = "contains itself without an end, so that it has no finite value"
                self._note(self._refused(where, why))
                self._definitions[name].clear()
                ending.add(name)


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
