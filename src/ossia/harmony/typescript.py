"""JSON schema -> TypeScript-like text without loss, in the layout of the official format package.

Knows JSON schemas (as read from JSON) and nothing else. The models were trained on the official
text, so a plain schema (objects of described strings, numbers, booleans, arrays, string enums, with
defaults) gives exactly that text, and `integer` is written `number`; only what loses information
there is written differently.

- Types that the official text calls `any` are spelled out: anyOf, allOf, const, enums of any
  values, tuples, maps, types that only follow from other keywords. Parentheses are written where
  precedence needs them.
- Every definition that a `$ref` reaches is declared once, `type Name = ...`, and referred to by
  name: recursion and sharing cost nothing.
- A *note* is something that TypeScript has no words for: bounds, patterns, defaults. A property's
  notes come after it (`n: number, // default: 3, minimum: 1`), those of an array's items in
  `items (...)`, others in `/* ... */`.
- No text can leave its comment: every line of a description is a comment of its own, and everything
  else is JSON on one line.

*Indent* is the spaces at the beginning of a line. A property's type is written 4 spaces deeper than
the property, a variant on a line of its own 3 deeper.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from ossia.harmony.json_text import literal

WORDS = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
}
RESERVED = frozenset(
    (
        "any",
        "Array",
        "boolean",
        "false",
        "never",
        "null",
        "number",
        "object",
        "string",
        "true",
    )
)
NUMERIC = ("format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
OBJECT = ("properties", "required", "patternProperties", "additionalProperties")
ARRAY = ("prefixItems", "items")
COMBINED = ("allOf", "anyOf", "oneOf")
# Keywords that become notes, in this order. One of FLAGS that is false says nothing.
FLAGS = (
    "uniqueItems",
    "deprecated",
    "readOnly",
    "writeOnly",
    "unevaluatedItems",
    "unevaluatedProperties",
)
NOTED = (
    "format",
    "pattern",
    "minLength",
    "maxLength",
    *NUMERIC[1:],
    "minItems",
    "maxItems",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
    "not",
    "if",
    "then",
    "else",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$dynamicRef",
    "$recursiveRef",
)

# How loosely a type's text holds together, which decides where parentheses are needed.
ATOM = 0
INTERSECTION = 1
UNION = 2


@dataclass(frozen=True)
class TypeScript:
    """The type of a schema, and the declarations of the definitions it refers to, by name."""

    text: str
    declarations: Mapping[str, str]


@dataclass(frozen=True)
class _Type:
    text: str
    bond: int = ATOM
    notes: tuple[str, ...] = ()
    members: tuple[str, ...] = ()  # of a union
    described: bool = False  # the text begins with the schema's description


ANY = _Type("any")
NEVER = _Type("never")
NULL = _Type("null")


def faithful_type(schema: Any, taken: frozenset[str] = frozenset()) -> TypeScript:
    """The text of one JSON schema. Definitions get names that are not in `taken`."""
    writer = _Writer(schema, taken)
    # Officially there is no title either: it mostly repeats the tool's name.
    text = writer.inline(schema, "", title=False).text
    declarations: dict[str, str] = {}
    for path in writer.referred:  # grows, as a definition may refer to further ones
        name = writer.names[path]
        declarations[name] = writer.declaration(path, name)
    return TypeScript(writer.names.get((), text), declarations)


class _Writer:
    """Writes the parts of one schema. `referred` are the paths of the definitions it refers to."""

    def __init__(self, root: Any, taken: frozenset[str]) -> None:
        self._root = root
        self._taken = set(taken) | RESERVED
        self.names: dict[tuple[str, ...], str] = {}
        self.referred: list[tuple[str, ...]] = []

    # ---- types ----

    def type(self, schema: Any, indent: str, *, describe: bool = True) -> _Type:
        """The type and the notes of its constraints. `describe`: if it is only an object, its text
        begins with the description.
        """
        if schema is False:
            return NEVER
        if not isinstance(schema, dict):
            return ANY
        schema = _without_nulls(schema)
        parts = self._parts(schema, indent)
        whole = replace(_intersection(parts), described=False)
        is_only_object = _base_kinds(schema) == ["object"] and len(parts) == 1
        if is_only_object and describe and isinstance(schema.get("description"), str):
            text = _comments(schema["description"], indent) + whole.text
            whole = replace(whole, text=text, described=True)
        if schema.get("nullable") is True and not _allows_null(whole):
            whole = _union([whole, NULL])
        return replace(whole, notes=(*whole.notes, *_constraints(schema)))

    def _parts(self, schema: Mapping[str, Any], indent: str) -> list[_Type]:
        """The types that a value must have all at once."""
        parts = [self._reference(schema["$ref"])] if "$ref" in schema else []
        if "const" in schema:
            parts.append(_Type(literal(schema["const"])))
        elif isinstance(schema.get("enum"), list):
            parts.append(_union([_Type(literal(value)) for value in schema["enum"]]))
        kinds = _base_kinds(schema)
        if kinds is not None:
            types = [self._kind(kind, schema, indent, len(kinds) > 1) for kind in kinds]
            parts.append(_union(types, ANY))
        parts += [self._told(variant, indent) for variant in _variants(schema, "allOf")]
        for key in ("anyOf", "oneOf"):
            variants = _variants(schema, key)
            if variants:
                parts.append(_union([self._told(variant, indent) for variant in variants]))
        return parts

    def _kind(self, kind: str, schema: Mapping[str, Any], indent: str, one_of_many: bool) -> _Type:
        """The type that one word of `type` names."""
        if kind == "object":
            if one_of_many and not any(key in schema for key in OBJECT):
                return _Type("object")
            return self._object(schema, indent)
        if kind == "array":
            return self._array(schema, indent)
        if kind in WORDS:
            return _Type(WORDS[kind])
        if kind == "any":
            return ANY
        return _Type("any", notes=(f"type: {literal(kind)}",))

    def _told(self, schema: Any, indent: str, *, title: bool = True) -> _Type:
        """A type with a single note, which says everything about it."""
        type_ = self.type(schema, indent)
        said = self._said(schema, type_, title=title, description=not type_.described)
        return replace(type_, notes=(said,) if said else ())

    def inline(self, schema: Any, indent: str, *, title: bool = True) -> _Type:
        """A type, followed by a comment that says everything about it."""
        return _commented(self._told(schema, indent, title=title))

    def _array(self, schema: Mapping[str, Any], indent: str) -> _Type:
        items = schema.get("items", True)
        first = schema.get("prefixItems")
        if isinstance(items, list):  # how tuples were written before prefixItems
            first = items
            items = schema.get("additionalItems", True)
        if isinstance(first, list):
            return self._tuple(first, items, schema.get("maxItems"), indent)
        if "items" not in schema:
            return _Type("Array<any>")
        return self._array_of(items, indent)

    def _tuple(self, first: list[Any], rest: Any, most: Any, indent: str) -> _Type:
        """`first` items with schemas of their own, `rest` that of the others, `most` maxItems."""
        members = [self.inline(member, indent).text for member in first]
        is_full = isinstance(most, int) and most <= len(members)
        if rest is not False and not is_full:
            members.append("..." + _commented(self._array_of(rest, indent)).text)
        return _Type(f"[{', '.join(members)}]")

    def _array_of(self, items: Any, indent: str) -> _Type:
        type_ = self._told(items, indent)
        notes = tuple(f"items ({note})" for note in type_.notes)
        return _Type(f"{_closed(type_, ATOM)}[]", notes=notes)

    # ---- objects ----

    def _object(self, schema: Mapping[str, Any], indent: str) -> _Type:
        properties = _mapping(schema, "properties")
        required = {name: None for name in _listed(schema, "required") if isinstance(name, str)}
        lines = ["{\n"]
        for key, value in properties.items():
            mark = "" if key in required else "?"
            lines.append(self._property(_key(key) + mark, value, indent))
        lines += [f"{indent}{_key(name)}: any,\n" for name in required if name not in properties]
        for pattern, value in _mapping(schema, "patternProperties").items():
            note = f"keys matching {literal(pattern)}"
            lines.append(self._property("[key: string]", value, indent, note))
        others = schema.get("additionalProperties", False)
        if others is True or isinstance(others, dict):
            lines.append(self._property("[key: string]", others, indent))
        return _Type("".join(lines) + indent + "}")

    def _property(self, name: str, value: Any, indent: str, note: str | None = None) -> str:
        """The lines of one property: comments above, then name, type and notes."""
        schema = _without_nulls(value) if isinstance(value, dict) else {}
        extra = [note] if note else []
        key = _only_union(schema)
        if key is None:
            type_ = self.type(value, indent + "    ")
        else:
            variants = _variants(schema, key)
            types = [(variant, self.type(variant, indent + "   ")) for variant in variants]
            if key == "oneOf" or self._needs_lines(types):
                return self._union_property(name, schema, types, extra, indent)
            type_ = self._union_in_line(schema, types)
        notes = _note([*_default_note(schema), *type_.notes, *extra])
        return "".join(_above(schema, indent)) + f"{indent}{name}: {type_.text},{notes}\n"

    def _needs_lines(self, types: list[tuple[Any, _Type]]) -> bool:
        """Whether a union's variants need a line each: one has several lines, or more than one and
        there is something to say about them.
        """
        if any("\n" in type_.text for _, type_ in types):
            return True
        said = [self._said(variant, type_) for variant, type_ in types if type_ != NULL]
        return len(said) > 1 and any(said)

    def _union_in_line(self, schema: Mapping[str, Any], types: list[tuple[Any, _Type]]) -> _Type:
        told = []
        for variant, type_ in types:
            said = self._said(variant, type_)
            told.append(replace(type_, notes=(said,) if said else ()))
        if schema.get("nullable") is True:
            told.append(NULL)
        union = _union(told)
        return replace(union, notes=(*union.notes, *_constraints(schema)))

    def _union_property(
        self,
        name: str,
        schema: Mapping[str, Any],
        types: list[tuple[Any, _Type]],
        extra: list[str],
        indent: str,
    ) -> str:
        """One line per variant, each with its own notes; the property's own notes above."""
        title, described, examples = _above(schema, indent)
        notes = [*_default_note(schema), *_constraints(schema), *extra]
        lines = [title, examples, described]
        if notes:
            lines.append(f"{indent}// {', '.join(notes)}\n")
        lines.append(f"{indent}{name}:\n")
        description = schema.get("description")
        for variant, type_ in types:
            is_above = isinstance(variant, dict) and variant.get("description") == description
            said = self._said(variant, type_, description=not is_above)
            lines.append(f"{indent} | {type_.text}{_note([said] if said else [])}\n")
        if schema.get("nullable") is True and not any(_allows_null(type_) for _, type_ in types):
            lines.append(f"{indent} | null\n")
        return "".join(lines) + f"{indent},\n"

    # ---- notes ----

    def _said(
        self, schema: Any, type_: _Type, *, title: bool = True, description: bool = True
    ) -> str:
        """Everything about a type that is not in its text, on one line: title and description
        first, then the notes.
        """
        if not isinstance(schema, dict):
            return ", ".join(type_.notes)
        words = []
        if title and isinstance(schema.get("title"), str):
            words.append(_one_line(schema["title"]))
        if description and isinstance(schema.get("description"), str):
            words.append(_one_line(schema["description"]))
        notes = [*_default_note(schema), *type_.notes]
        if schema.get("examples"):
            notes.append(f"examples: {literal(schema['examples'])}")
        said = ": ".join(words)
        if said and notes:
            said += " " if "default" in schema else ", "
        return said + ", ".join(notes)

    # ---- definitions ----

    def _reference(self, ref: Any) -> _Type:
        path = _path(ref)
        if path is None or not isinstance(_at(self._root, path), dict | bool):
            return _Type("any", notes=(f"unresolved $ref: {literal(ref)}",))
        if path not in self.names:
            self.names[path] = self._free_name(_identifier(path[-1] if path else "Root"))
            self.referred.append(path)
        return _Type(self.names[path])

    def _free_name(self, wanted: str) -> str:
        name = wanted
        number = 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name

    def declaration(self, path: tuple[str, ...], name: str) -> str:
        schema = _at(self._root, path)
        type_ = self.type(schema, "", describe=False)
        schema = schema if isinstance(schema, dict) else {}
        key = path[-1] if path else name
        title, described, examples = _above(schema, "")
        lines = []
        if key != name:
            lines.append(f"// {literal(key)}\n")
        if schema.get("title") != key:
            lines.append(title)
        notes = _note([*_default_note(schema), *type_.notes])
        lines += [described, examples, f"type {name} = {type_.text};{notes}"]
        return "".join(lines)


# ---- keywords ----


def _without_nulls(schema: dict[str, Any]) -> dict[str, Any]:
    """A keyword that is null is absent. A value may be null."""
    if None not in schema.values():
        return schema
    return {
        key: value
        for key, value in schema.items()
        if value is not None or key in ("const", "default")
    }


def _base_kinds(schema: Mapping[str, Any]) -> list[str] | None:
    """The words of `type`, or the types that other keywords imply; None if references, values or
    combined schemas say it all.
    """
    implied = []
    if any(key in schema for key in OBJECT):
        implied.append("object")
    if any(key in schema for key in ARRAY):
        implied.append("array")
    if not implied and (_stated(schema) or any(_listed(schema, key) for key in COMBINED)):
        return None
    kind = schema.get("type")
    if isinstance(kind, str):
        return [kind]
    return [word for word in _listed(schema, "type") if isinstance(word, str)] or implied


def _stated(schema: Mapping[str, Any]) -> bool:
    """Whether a definition or a list of values determines the type."""
    return "$ref" in schema or "const" in schema or isinstance(schema.get("enum"), list)


def _listed(schema: Mapping[str, Any], key: str) -> list[Any]:
    return schema[key] if isinstance(schema.get(key), list) else []


def _mapping(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    return schema[key] if isinstance(schema.get(key), dict) else {}


def _variants(schema: Mapping[str, Any], key: str) -> list[Any]:
    """The schemas of a list. A schema without a type of its own has that of the whole."""
    variants = _listed(schema, key)
    if "type" not in schema:
        return variants
    return [_with_type(variant, schema["type"]) for variant in variants]


def _with_type(variant: Any, type_: Any) -> Any:
    typing = ("type", "$ref", "const", "enum", *COMBINED)
    if not isinstance(variant, dict) or any(key in variant for key in typing):
        return variant
    return {"type": type_, **variant}


def _only_union(schema: Mapping[str, Any]) -> str | None:
    """oneOf or anyOf, if the schema consists of that and nothing else."""
    keys = [key for key in COMBINED if _listed(schema, key)]
    if len(keys) != 1 or keys == ["allOf"]:
        return None
    if _stated(schema) or _base_kinds(schema) is not None:
        return None
    return keys[0]


def _constraints(schema: Mapping[str, Any]) -> tuple[str, ...]:
    notes = [
        f"{key}: {literal(schema[key])}"
        for key in NOTED
        if key in schema and (schema[key] or key not in FLAGS)
    ]
    kinds = _base_kinds(schema) or ()
    if "integer" in kinds and any(key in schema for key in NUMERIC):
        notes.insert(0, "integer")  # if a number has limits, this one is noted too
    return tuple(notes)


def _default_note(schema: Mapping[str, Any]) -> list[str]:
    """A string is written bare next to an enum of strings, if it needs no escapes."""
    if "default" not in schema:
        return []
    value = schema["default"]
    words = _listed(schema, "enum")
    text = literal(value)
    if value and text == f'"{value}"' and words and all(isinstance(word, str) for word in words):
        text = value
    return [f"default: {text}"]


def _note(notes: list[str]) -> str:
    """A comment of notes, after a type."""
    return f" // {', '.join(notes)}" if notes else ""


def _above(schema: Mapping[str, Any], indent: str) -> tuple[str, str, str]:
    """Comment lines for title, description and examples."""
    title = ""
    description = ""
    examples = ""
    if isinstance(schema.get("title"), str):
        title = _comments(schema["title"], indent) + f"{indent}//\n"
    if isinstance(schema.get("description"), str):
        description = _comments(schema["description"], indent)
    listed = _listed(schema, "examples")
    if listed:
        shown = [f"{indent}// - {literal(example)}\n" for example in listed]
        examples = "".join([f"{indent}// Examples:\n", *shown])
    return title, description, examples


def _path(ref: Any) -> tuple[str, ...] | None:
    """The keys of a JSON pointer into the schema itself (`#/$defs/Node`), or None for any other
    reference.
    """
    if not isinstance(ref, str) or ref[:1] != "#" or ref[1:2] not in ("", "/"):
        return None
    keys = [unquote(key) for key in ref.split("/")[1:]]
    return tuple(key.replace("~1", "/").replace("~0", "~") for key in keys)


def _at(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


# ---- text ----


def _union(types: Iterable[_Type], empty: _Type = NEVER) -> _Type:
    """One of `types`. A note remains a note if it can only be about one of them, else it becomes a
    comment.
    """
    types = list(dict.fromkeys(types))
    if not types:
        return empty
    if len(types) == 1:
        return types[0]
    notes: tuple[str, ...] = ()
    not_null = [type_ for type_ in types if type_ != NULL]
    if len(not_null) == 1:
        notes = not_null[0].notes
        types = [replace(type_, notes=()) for type_ in types]
    types = [_commented(type_) for type_ in types]
    members: dict[str, None] = {}
    for type_ in types:
        members |= dict.fromkeys(type_.members or (type_.text,))
    if len(members) == 1:
        return replace(types[0], notes=notes)
    return _Type(" | ".join(members), UNION, notes, tuple(members))


def _allows_null(type_: _Type) -> bool:
    return "null" in (*type_.members, type_.text)


def _intersection(types: list[_Type]) -> _Type:
    """All of `types` at once; `any` adds only its notes."""
    kept = list(dict.fromkeys(type_ for type_ in types if type_.text != "any"))
    notes = tuple(note for type_ in types if type_.text == "any" for note in type_.notes)
    if len(kept) < 2:
        whole = kept[0] if kept else ANY
        return replace(whole, notes=(*whole.notes, *notes))
    texts = [_closed(_commented(type_), INTERSECTION) for type_ in kept]
    return _Type(" & ".join(texts), INTERSECTION, notes)


def _commented(type_: _Type) -> _Type:
    """The type, followed by a comment with its notes."""
    if not type_.notes:
        return type_
    said = ", ".join(type_.notes).replace("*/", "*\\/")
    return _Type(f"{_closed(type_, ATOM)} /* {said} */", described=type_.described)


def _closed(type_: _Type, bond: int) -> str:
    """The text, in parentheses if it holds together more loosely than `bond`."""
    return f"({type_.text})" if type_.bond > bond else type_.text


def _comments(text: str, indent: str) -> str:
    return "".join(f"{indent}// {line}\n" for line in text.splitlines() or [""])


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _key(name: str) -> str:
    """A property's name, quoted unless it is an identifier."""
    return name if name.replace("$", "_").isidentifier() else literal(name)


def _identifier(name: str) -> str:
    word = re.sub(r"\W", "_", name)
    return word if word.isidentifier() else f"_{word}"
