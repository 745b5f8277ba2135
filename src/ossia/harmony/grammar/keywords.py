"""Keywords of JSON schema: those that no grammar can hold, and the older spellings of the others.

Knows JSON schema (drafts 4 to 2020-12) and what a refusal says; nothing of the compiler. schema.py
rewrites what is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from typing import Any

from ossia.errors import GrammarError

Schema = dict[str, Any]
# Keywords of JSON schema, of this or an older draft, that restrict values but are not enforced.
REFUSED = {
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
HINTS = {
    "additionalItems": ": write `prefixItems` and `items`",
    "uniqueItems": ": say so in the description and check the call",
    "oneOf": ": its options may overlap; use `anyOf`, "
    "or give each a required property with another `const`",
}
# What is taken out of a rewritten schema that the compiler refuses, one after the other, until it
# compiles. Keys that only make sense together go together.
WEAKER: tuple[tuple[str, ...], ...] = (
    ("pattern",),
    ("allOf",),
    ("minLength", "maxLength"),
    ("minimum", "maximum", "multipleOf"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
    ("patternProperties", "additionalProperties"),
    ("anyOf",),
    ("type",),
    ("enum",),
    ("const",),
    ("$ref",),
    ("required",),
    ("properties", "required", "patternProperties", "additionalProperties"),
)
# Patterns that every key matches, and every key of one line: how TypeBox and others write a map.
ANY_TEXT = ("", ".*")
ANY_LINE = ("^.*$", "^(.*)$")
HARMLESS: dict[str, list[Any]] = {  # values with which a refused keyword restricts nothing
    "uniqueItems": [False],
    "propertyNames": [True, {}, {"type": "string"}],
}
NOTES = 20  # of one schema, on what was relaxed
LONGEST = 400  # characters of a place or a reason
FREE_FORMATS = ("password", "path", "file-path", "directory-path")  # any text has them


@dataclass(frozen=True)
class Relaxed:
    """A keyword that sampling is not held to. `schema`: whose it is, as errors call it; `keyword`:
    its place in it, a JSON pointer. `is_annotation`: a value cannot fail it, as by JSON schema's
    default formats only describe.
    """

    schema: str
    keyword: str
    reason: str
    is_annotation: bool = False

    def __str__(self) -> str:
        return f"{self.schema}: {self.keyword} {self.reason}"


def shortened(notes: Iterable[Relaxed]) -> list[Relaxed]:
    """The first NOTES of different ones, long texts cut, and one that counts the others."""
    different = list(dict.fromkeys(notes))
    told = []
    for note in different[:NOTES]:
        told.append(replace(note, keyword=_cut(note.keyword), reason=_cut(note.reason)))
    others = different[NOTES:]
    if others:
        only_describe = all(note.is_annotation for note in others)
        reason = f"and {len(others):,} more keywords cannot be enforced"
        told.append(Relaxed(others[0].schema, "#", reason, only_describe))
    return told


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text:.{LONGEST}}..."


class Refusal(GrammarError):
    def __init__(self, found: Relaxed) -> None:
        super().__init__(str(found))
        self.found = found


def respelt(node: Schema) -> Schema:
    """One schema, without those in it, in the keywords of today."""
    out: Schema = {}
    for key, value in node.items():
        if value is not None or key == "const":
            out[key] = value
    for key in ("minimum", "maximum"):
        exclusive = f"exclusive{key.capitalize()}"
        if out.get(exclusive) is False:
            del out[exclusive]
        elif out.get(exclusive) is True and key in out:
            out[exclusive] = out.pop(key)
    return out


def without_tuples(node: Schema) -> Schema:
    """One schema, its tuple in the keywords of today."""
    out = dict(node)
    rest = out.pop("additionalItems", True)  # it says nothing without a list
    if isinstance(out.get("items"), list):
        first = out["items"]
        out["items"] = rest
        if first:
            out["prefixItems"] = first
    return out


def is_finite(value: Any) -> bool:
    """Whether it is a finite number. Booleans are ints to Python, but not to JSON."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def inwards(lower: Decimal, whole: bool, exclusive: bool) -> int | float:
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
