"""JSON schema -> TypeScript-like text without loss, in the layout of the official format package.

Knows JSON schemas (as read from JSON) and nothing else. The models were trained on the official
text, so a plain schema (objects of described strings, numbers, booleans, arrays, string enums, with
defaults) gives exactly that text, and `integer` is written `number`; only what loses information
there is written differently.

- Types that the official text calls `any` are spelled out: anyOf, allOf, const, enums of any values, tuples,
  maps, types that only follow from other keywords. Parentheses stand where precedence needs them.
- Every definition that a `$ref` reaches is declared once, `type Name = ...`, and referred to by name: recursion
  and sharing cost nothing.
- A *note* is what TypeScript has no words for: bounds, patterns, defaults. A property's notes stand behind it
  (`n: number, // default: 3, minimum: 1`), those of an array's items in `items (...)`, others in `/* ... */`.
- No text can leave its comment: every line of a description is a comment of its own, and everything else is
  JSON on one line.

*Indent* is the spaces a line starts with. A property's type is written 4 spaces deeper than the
property, a variant on a line of its own 3 deeper.
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
    ("any", "Array", "false", "never", "null", "number", "object", "string", "boolean", "true")
)
NUMERIC = ("format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
OBJECT = ("properties", "required", "patternProperties", "additionalProperties")
ARRAY = ("prefixItems", "items")
COMBINED = ("allOf", "anyOf", "oneOf")
# Keywords that become notes, in this order; a false one of FLAGS says nothing.
FLAGS = (
    "uniqueItems",
    "deprecated",
    "readOnly",
    "writeOnly",
    "unevaluatedItems",
    "unevaluatedProperties",
)
NOTED = (
    *(
        "format",
        "pattern",
        "minLength",
        "maxLength",
        *NUMERIC[1:],
        "minItems",
        "maxItems",
        "uniqueItems",
    ),
    *("contains", "minContains", "maxContains", "minProperties", "maxProperties", "propertyNames"),
    *(
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "unevaluatedItems",
        "unevaluatedProperties",
    ),
    *("not", "if", "then", "else", "contentEncoding", "contentMediaType", "contentSchema"),
    *("deprecated", "readOnly", "writeOnly", "$dynamicRef", "$recursiveRef"),
)

ATOM, INTERSECTION, UNION = 0, 1, 2  # how loosely a type's text holds together


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


ANY, NEVER, NULL = _Type("any"), _Type("never"), _Type("null")


def faithful_type(schema: Any, taken: frozenset[str] = frozenset()) -> TypeScript:
    """The text of one JSON schema. Definitions get names that are not in `taken`."""
    writer = _Writer(schema, taken)
    text = writer.inline(
        schema, "", title=False
    ).text  # nor is it officially: it mostly repeats the tool's name
    declarations: dict[str, str] = {}
    for path in writer.referred:  # grows, as writing a definition may refer to further ones
        name = writer.names[path]
        declarations[name] = writer.declaration(path, name)
    return TypeScript(writer.names.get((), text), declarations)


class _Writer:
    """Writes the parts of one schema. `referred` are the paths of the definitions referred to so
    far.
    """

    def __init__(self, root: Any, taken: frozenset[str]) -> None:
        self._root = root
        self._taken = set(taken) | RESERVED
        self.names: dict[tuple[str, ...], str] = {}
        self.referred: list[tuple[str, ...]] = []

    # ---- types ----

    def type(self, schema: Any, indent: str, *, describe: bool = True) -> _Type:
        """The type and the notes of its constraints. `describe`: a lone object says its description
        itself.
        """
        if schema is False:
            return NEVER
        if not isinstance(schema, dict):
            return ANY
        alone = _base_kinds(schema) == ["object"]
        parts = self._parts(schema, indent)
        whole = replace(_intersection(parts), described=False)
        if alone and len(parts) == 1 and describe and isinstance(schema.get("description"), str):
            whole = replace(
                whole, text=_comments(schema["description"], indent) + whole.text, described=True
            )
        if schema.get("nullable") is True and "null" not in (*whole.members, whole.text):
            whole = _union([whole, NULL])
        return replace(whole, notes=(*whole.notes, *_constraints(schema)))

    def _parts(self, schema: Mapping[str, Any], indent: str) -> list[_Type]:
        """What all has to hold of a value at once."""
        parts = [self._reference(schema["$ref"])] if "$ref" in schema else []
        if "const" in schema:
            parts.append(_Type(literal(schema["const"])))
        elif isinstance(schema.get("enum"), list):
            parts.append(_union([_Type(literal(value)) for value in schema["enum"]]))
        if (kinds := _base_kinds(schema)) is not None:
            parts.append(
                _union([self._kind(kind, schema, indent, len(kinds) > 1) for kind in kinds], ANY)
            )
        parts += [self._told(variant, indent) for variant in _variants(schema, "allOf")]
        for key in ("anyOf", "oneOf"):
            if variants := _variants(schema, key):
                parts.append(_union([self._told(variant, indent) for variant in variants]))
        return parts

    def _kind(self, kind: str, schema: Mapping[str, Any], indent: str, one_of_many: bool) -> _Type:
        """The type that one word of `type` names."""
        if kind == "object":
            bare = one_of_many and not any(key in schema for key in OBJECT)
            return _Type("object") if bare else self._object(schema, indent)
        if kind == "array":
            return self._array(schema, indent)
        if kind in WORDS:
            return _Type(WORDS[kind])
        return ANY if kind == "any" else _Type("any", notes=(f"type: {literal(kind)}",))

    def _told(self, schema: Any, indent: str, *, title: bool = True) -> _Type:
        """A type whose one note is all there is to say about it."""
        type_ = self.type(schema, indent)
        said = self._said(schema, type_, title=title, description=not type_.described)
        return replace(type_, notes=(said,) if said else ())

    def inline(self, schema: Any, indent: str, *, title: bool = True) -> _Type:
        """A type with all there is to say about it in a comment behind it."""
        return _commented(self._told(schema, indent, title=title))

    def _array(self, schema: Mapping[str, Any], indent: str) -> _Type:
        items, first = schema.get("items", True), schema.get("prefixItems")
        if isinstance(items, list):  # how tuples were written before prefixItems
            first, items = items, schema.get("additionalItems", True)
        if isinstance(first, list):
            members = [self.inline(member, indent).text for member in first]
            most = schema.get("maxItems")
            full = items is False or (isinstance(most, int) and most <= len(members))
            rest = [] if full else ["..." + _commented(self._array_of(items, indent)).text]
            return _Type(f"[{', '.join([*members, *rest])}]")
        return self._array_of(items, indent) if "items" in schema else _Type("Array<any>")

    def _array_of(self, items: Any, indent: str) -> _Type:
        type_ = self._told(items, indent)
        return _Type(
            f"{_closed(type_, ATOM)}[]", notes=tuple(f"items ({note})" for note in type_.notes)
        )

    # ---- objects ----

    def _object(self, schema: Mapping[str, Any], indent: str) -> _Type:
        properties, required = schema.get("properties"), schema.get("required")
        properties = properties if isinstance(properties, dict) else {}
        names = (
            dict.fromkeys(name for name in required if isinstance(name, str))
            if isinstance(required, list)
            else {}
        )
        lines = ["{\n"]
        for key, value in properties.items():
            lines.append(self._property(_key(key) + ("" if key in names else "?"), value, indent))
        lines += [f"{indent}{_key(name)}: any,\n" for name in names if name not in properties]
        patterns, others = (
            schema.get("patternProperties"),
            schema.get("additionalProperties", False),
        )
        for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
            lines.append(
                self._property(
                    "[key: string]", value, indent, note=f"keys matching {literal(pattern)}"
                )
            )
        if others is True or isinstance(others, dict):
            lines.append(self._property("[key: string]", others, indent))
        return _Type("".join(lines) + indent + "}")

    def _property(self, name: str, value: Any, indent: str, note: str | None = None) -> str:
        """The lines of one property: comments above, then name, type and notes."""
        schema = value if isinstance(value, dict) else {}
        extra = [note] if note else []
        key = _only_union(schema)
        if key is None:
            type_ = self.type(value, indent + "    ")
        else:
            types = [
                (variant, self.type(variant, indent + "   ")) for variant in _variants(schema, key)
            ]
            said = [self._said(*pair) for pair in types if pair[1] != NULL]
            if (
                key == "oneOf"
                or any("\n" in t.text for _, t in types)
                or (len(said) > 1 and any(said))
            ):
                return self._union_property(name, schema, types, extra, indent)
            told = [replace(t, notes=tuple(filter(None, [self._said(v, t)]))) for v, t in types]
            type_ = _union([*told, *[NULL] * (schema.get("nullable") is True)])
            type_ = replace(type_, notes=(*type_.notes, *_constraints(schema)))
        notes = [*_default_note(schema), *type_.notes, *extra]
        behind = f" // {', '.join(notes)}" if notes else ""
        return "".join(_above(schema, indent)) + f"{indent}{name}: {type_.text},{behind}\n"

    def _union_property(
        self,
        name: str,
        schema: Mapping[str, Any],
        types: list[tuple[Any, _Type]],
        notes: list[str],
        indent: str,
    ) -> str:
        """One line per variant, each with its own notes; the property's own notes above."""
        title, described, examples = _above(schema, indent)
        notes = [*_default_note(schema), *_constraints(schema), *notes]
        lines = [
            title,
            examples,
            described,
            f"{indent}// {', '.join(notes)}\n" if notes else "",
            f"{indent}{name}:\n",
        ]
        for variant, type_ in types:
            repeated = isinstance(variant, dict) and variant.get("description") == schema.get(
                "description"
            )
            said = self._said(variant, type_, description=not repeated)
            lines.append(f"{indent} | {type_.text}{f' // {said}' if said else ''}\n")
        if schema.get("nullable") is True and all(
            "null" not in (*t.members, t.text) for _, t in types
        ):
            lines.append(f"{indent} | null\n")
        return "".join(lines) + f"{indent},\n"

    # ---- notes ----

    def _said(
        self, schema: Any, type_: _Type, *, title: bool = True, description: bool = True
    ) -> str:
        """Everything about a type that is not in its text, on one line: the words first, then the
        notes.
        """
        if not isinstance(schema, dict):
            return ", ".join(type_.notes)
        keys = ["title"] * title + ["description"] * description
        words = ": ".join(
            _one_line(schema[key]) for key in keys if isinstance(schema.get(key), str)
        )
        examples = [f"examples: {literal(schema['examples'])}"] if schema.get("examples") else []
        notes = ", ".join([*_default_note(schema), *type_.notes, *examples])
        between = "" if not (words and notes) else " " if "default" in schema else ", "
        return words + between + notes

    # ---- definitions ----

    def _reference(self, ref: Any) -> _Type:
        path = _path(ref)
        if path is None or not isinstance(_at(self._root, path), dict | bool):
            return _Type("any", notes=(f"unresolved $ref: {literal(ref)}",))
        if path not in self.names:
            name = base = _identifier(path[-1] if path else "Root")
            number = 1
            while name in self._taken:
                number += 1
                name = f"{base}_{number}"
            self._taken.add(name)
            self.names[path] = name
            self.referred.append(path)
        return _Type(self.names[path])

    def declaration(self, path: tuple[str, ...], name: str) -> str:
        schema = _at(self._root, path)
        own = path[-1] if path else name
        above = "" if own == name else f"// {literal(own)}\n"
        type_ = self.type(schema, "", describe=False)
        schema = schema if isinstance(schema, dict) else {}
        title, described, examples = _above(schema, "")
        notes = [*_default_note(schema), *type_.notes]
        behind = f" // {', '.join(notes)}" if notes else ""
        title = "" if schema.get("title") == own else title
        return f"{above}{title}{described}{examples}type {name} = {type_.text};{behind}"


# ---- keywords ----


def _base_kinds(schema: Mapping[str, Any]) -> list[str] | None:
    """The words of `type`, or those that other keywords imply; None where the rest says it all."""
    structured = any(key in schema for key in (*OBJECT, *ARRAY))
    if not structured and (_stated(schema) or any(_listed(schema, key) for key in COMBINED)):
        return None
    kind = schema.get("type")
    kinds = [kind] if isinstance(kind, str) else kind if isinstance(kind, list) else []
    implied = ["object"] * any(key in schema for key in OBJECT) + ["array"] * any(
        key in schema for key in ARRAY
    )
    return [word for word in kinds if isinstance(word, str)] or implied


def _stated(schema: Mapping[str, Any]) -> bool:
    """Whether a definition or a list of values says what the type is."""
    return "$ref" in schema or "const" in schema or isinstance(schema.get("enum"), list)


def _listed(schema: Mapping[str, Any], key: str) -> list[Any]:
    return schema[key] if isinstance(schema.get(key), list) else []


def _variants(schema: Mapping[str, Any], key: str) -> list[Any]:
    """The schemas of a list; those without a type of their own share that of the whole."""
    variants = _listed(schema, key)
    if "type" not in schema:
        return variants
    own = ("type", "$ref", "const", "enum", *COMBINED)
    shared = {"type": schema["type"]}
    return [
        v if not isinstance(v, dict) or any(key in v for key in own) else shared | v
        for v in variants
    ]


def _only_union(schema: Mapping[str, Any]) -> str | None:
    """Which of oneOf and anyOf the schema is, if it is that and nothing else."""
    keys = [key for key in COMBINED if _listed(schema, key)]
    alone = (
        len(keys) == 1 and keys != ["allOf"] and not _stated(schema) and _base_kinds(schema) is None
    )
    return keys[0] if alone else None


def _constraints(schema: Mapping[str, Any]) -> tuple[str, ...]:
    notes = [
        f"{key}: {literal(schema[key])}"
        for key in NOTED
        if key in schema and (schema[key] or key not in FLAGS)
    ]
    kinds = _base_kinds(schema) or ()
    if "integer" in kinds and any(key in schema for key in NUMERIC):
        notes.insert(0, "integer")  # once numbers are limited at all, this limit is told too
    return tuple(notes)


def _default_note(schema: Mapping[str, Any]) -> list[str]:
    """A string stands bare beside an enum of strings, as long as it reads the same."""
    if "default" not in schema:
        return []
    value, words = schema["default"], _listed(schema, "enum")
    text = literal(value)
    bare = text == f'"{value}"' and value and words and all(isinstance(word, str) for word in words)
    return [f"default: {value if bare else text}"]


def _above(schema: Mapping[str, Any], indent: str) -> tuple[str, str, str]:
    """Comment lines for title, description and examples."""
    title, description, examples = (schema.get(key) for key in ("title", "description", "examples"))
    shown = [
        f"{indent}// - {literal(example)}\n"
        for example in (examples if isinstance(examples, list) else ())
    ]
    return (
        _comments(title, indent) + f"{indent}//\n" if isinstance(title, str) else "",
        _comments(description, indent) if isinstance(description, str) else "",
        "".join([f"{indent}// Examples:\n", *shown] if shown else []),
    )


def _path(ref: Any) -> tuple[str, ...] | None:
    """The keys of a JSON pointer into the schema itself (`#/$defs/Node`), or None for any other
    reference.
    """
    if not isinstance(ref, str) or ref[:1] != "#" or ref[1:2] not in ("", "/"):
        return None
    return tuple(unquote(key).replace("~1", "/").replace("~0", "~") for key in ref.split("/")[1:])


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
    """One of `types`. A note stays a note if it can only be about one of them, else it becomes a
    comment.
    """
    types = list(dict.fromkeys(types))
    solid = [type_ for type_ in types if type_ != NULL]
    notes = solid[0].notes if len(solid) == 1 else ()
    if len(types) < 2:
        return types[0] if types else empty
    if notes:
        types = [replace(type_, notes=()) for type_ in types]
    types = list(map(_commented, types))
    members = tuple(
        dict.fromkeys(member for type_ in types for member in (type_.members or (type_.text,)))
    )
    return (
        replace(types[0], notes=notes)
        if len(members) == 1
        else _Type(" | ".join(members), UNION, notes, members)
    )


def _intersection(types: list[_Type]) -> _Type:
    """All of `types` at once; `any` adds nothing but its notes."""
    kept = list(dict.fromkeys(type_ for type_ in types if type_.text != "any"))
    notes = tuple(note for type_ in types if type_.text == "any" for note in type_.notes)
    if len(kept) < 2:
        whole = kept[0] if kept else ANY
        return replace(whole, notes=(*whole.notes, *notes))
    return _Type(
        " & ".join(_closed(_commented(type_), INTERSECTION) for type_ in kept), INTERSECTION, notes
    )


def _commented(type_: _Type) -> _Type:
    """The type with its notes in a comment behind it."""
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
