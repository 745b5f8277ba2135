"""`key=value`: fields of a recipe's configuration replaced from the command line.

Works on frozen dataclasses, nested ones included (`hyper.peak_lr=1e-3`). Finds the field and cuts
the text up; what a text means as a number, a truth value or a path is pydantic's to say. Knows
types and text; no tensors, no recipes.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import re
import textwrap
import types
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ossia.config import ModelConfig
from ossia.errors import ConfigError

Config = TypeVar("Config")
NONE = ("none", "null")
SIMPLE = (int, float, bool, str, Path)
BETWEEN = r",(?![^\[\]]*\])"  # a comma that is not inside [ ]
FINITE = ConfigDict(allow_inf_nan=False)
IN_WORDS = {Path: "path", bool: "true or false", type(None): "none", Ellipsis: "..."}


@dataclass(frozen=True)
class Key:
    """A field that can be set. `value` is written as it would be typed."""

    name: str  # with dots
    type: str  # in words
    value: str
    comment: str


def apply(config: Config, overrides: Sequence[str]) -> Config:
    """`config` with every `key=value` applied. If a key is given twice, the last value counts.

    Raises `ConfigError` naming the key: if there is no such key (with similar names), if the value
    is not of the field's type, or if the configuration as a whole is refused.
    """
    tree: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is not key=value, such as hyper.peak_lr=1e-3")
        _insert(config, tree, name.strip(), value)
    made: Config = _replaced(config, tree, "")
    return made


def keys(config: Any, prefix: str = "") -> list[Key]:
    """Everything that can be set, in the order of declaration."""
    found: list[Key] = []
    comments = _comments(type(config))
    settable = _parameters(type(config))
    for field in dataclasses.fields(config):
        if field.name not in settable:
            continue
        name = prefix + field.name
        value = getattr(config, field.name)
        comment = comments.get(field.name, "")
        group = _group(settable[field.name])
        if group is None:
            kind = type_name(settable[field.name])
            found.append(Key(name, kind, _typed(value), comment))
            continue
        if value is None:
            found.append(Key(name, "none, or a group", "none", comment))
            value = _from_defaults(group)
        if value is not None:
            found += keys(value, f"{name}.")
    return found


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """A configuration as JSON values by dotted name: these decide what a run makes."""
    if not dataclasses.is_dataclass(value):
        return {name: _json(value)}
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        inner = f"{name}.{field.name}" if name else field.name
        found |= flat(getattr(value, field.name), inner)
    return found


def _json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return flat(value)
    if isinstance(value, tuple | list):
        return [_json(one) for one in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str | int | float | bool | None):
        return value
    return str(value)


# ---- fields --------------------------------------------------------------------------------------


def _insert(config: Any, tree: dict[str, Any], name: str, value: str) -> None:
    """Put `value` into `tree` under its dotted name, if there is such a field."""
    *path, last = name.split(".")
    level = tree
    kind: Any = type(config)
    for part in path:
        kind = _group(_parameters(kind).get(part))
        if kind is None:
            raise _unknown(config, name)
        level = level.setdefault(part, {})
        if not isinstance(level, dict):
            raise ConfigError(f"{name}: {part} is set as a whole already")
    annotation = _parameters(kind).get(last)
    if annotation is None:
        raise _unknown(config, name)
    group = _group(annotation)
    if group is not None and not _is_none(value, annotation):
        inside = ", ".join(_parameters(group))
        raise ConfigError(f"{name} is a group: set one of its fields, {name}.{{{inside}}}")
    level[last] = value


def _unknown(config: Any, name: str) -> ConfigError:
    known = [key.name for key in keys(config)]
    last = name.rpartition(".")[2]
    near = difflib.get_close_matches(name, known, 3, 0.6)
    for key in known:
        if key.rpartition(".")[2] == last and key not in near:
            near.append(key)
    meant = f"; did you mean {' or '.join(near[:3])}?" if near else "."
    return ConfigError(f"there is no key {name!r}{meant} Keys: {', '.join(known)}")


def _parameters(kind: Any) -> Mapping[str, Any]:
    """Types of what a dataclass's constructor takes, by name; old spellings (`InitVar`) too."""
    try:
        hints = get_type_hints(kind)
    except NameError as error:
        raise ConfigError(
            f"{kind.__name__}: an annotation cannot be resolved ({error}): import it at the top"
        ) from error
    taken: dict[str, Any] = {}
    for name in inspect.signature(kind).parameters:
        hint = hints[name]
        taken[name] = hint.type if isinstance(hint, InitVar) else hint
    return taken


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _group(annotation: Any) -> Any:
    """The dataclass that a field holds, also if it may be None; None if it holds something else."""
    groups = filter(dataclasses.is_dataclass, _alternatives(annotation))
    return next(groups, None)


def _from_defaults(group: Any) -> Any:
    """One made of its defaults; None if there are fields without."""
    try:
        return group()
    except TypeError:
        return None


def _replaced(config: Any, tree: Mapping[str, Any], prefix: str) -> Any:
    changes: dict[str, Any] = {}
    for name, value in tree.items():
        annotation = _parameters(type(config))[name]
        if isinstance(value, dict):
            inner = getattr(config, name) or _from_defaults(_group(annotation))
            if inner is None:
                raise ConfigError(
                    f"{prefix}{name} is none and has fields without defaults: it cannot be set"
                    " field by field"
                )
            changes[name] = _replaced(inner, value, f"{prefix}{name}.")
        else:
            changes[name] = parse(value, annotation, prefix + name)
    if isinstance(config, ModelConfig) and "num_hidden_layers" in changes:
        changes.setdefault("layer_types", ())  # made anew, for the new number of layers
    try:
        return dataclasses.replace(config, **changes)
    except ConfigError as error:
        raise ConfigError(f"{prefix.rstrip('.')}: {error}" if prefix else str(error)) from error
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{prefix}{name}" for name in changes)
        raise ConfigError(f"{given}: not a possible configuration: {error}") from error


# ---- values --------------------------------------------------------------------------------------


def parse(text: str, annotation: Any, name: str = "value") -> Any:
    """`text` as a value of this annotation: int, float, bool, str, Path, None, Literal, Enum,
    tuple, or one of several.

    Whole numbers may be written 1_000_000 or 1e6; what is no number, or infinite, is refused.
    Raises `ConfigError` with what was expected.
    """
    text = text.strip()
    if _is_none(text, annotation):
        return None
    kinds = [kind for kind in _alternatives(annotation) if kind is not type(None)]
    words = _words(kinds)
    if text in words:
        return words[text]
    tuples = [get_args(kind) for kind in kinds if get_origin(kind) is tuple]
    for inner in tuples:
        found = _tuple(text, inner, name)
        if found is not None:
            return found
    simple = [kind for kind in kinds if kind in SIMPLE]
    if not (words or tuples or simple):
        raise ConfigError(
            f"{name} is of type {type_name(annotation)}, which cannot be set from the command line"
        )
    value = _simple(text, simple) if simple else None
    if value is not None:
        return value
    raise ConfigError(f"{name} must be {type_name(annotation)}, found {text!r}")


def _simple(text: str, kinds: Sequence[Any]) -> Any:
    """None if the text is not of any of these kinds."""
    annotation: Any = Union[tuple(kinds)]  # noqa: UP007
    for spelling in (text, _whole(text)):
        try:
            value = TypeAdapter(annotation, config=FINITE).validate_python(spelling)
        except ValidationError:
            continue
        if not isinstance(value, Path):
            return value
        if text:  # an empty path would be the current folder
            return value.expanduser()
    return None


def _is_none(text: str, annotation: Any) -> bool:
    optional = type(None) in _alternatives(annotation)
    return optional and text.strip().lower() in NONE


def _words(kinds: Sequence[Any]) -> dict[str, Any]:
    """Values that have a word of their own: choices of a Literal, members of an Enum."""
    words: dict[str, Any] = {}
    for kind in kinds:
        if get_origin(kind) is Literal:
            words |= {str(choice): choice for choice in get_args(kind)}
        elif isinstance(kind, type) and issubclass(kind, Enum):
            words |= {str(member.value): member for member in kind}
            words |= {member.name: member for member in kind}
    return words


def _tuple(text: str, kinds: tuple[Any, ...], name: str) -> tuple[Any, ...] | None:
    """`a,b`, with or without brackets around it; None if it has another number of pieces. Commas
    within a piece's own brackets are the piece's.
    """
    if text[:1] + text[-1:] in ("()", "[]"):
        text = text[1:-1]
    pieces = [piece for piece in re.split(BETWEEN, text) if piece.strip()]
    if kinds[1:] == (Ellipsis,):
        kinds = kinds[:1] * len(pieces)
    if len(pieces) != len(kinds):
        return None
    pairs = zip(pieces, kinds, strict=True)
    return tuple(parse(piece, kind, name) for piece, kind in pairs)


def _whole(text: str) -> str:
    """1000000 for 1e6; other texts as they are."""
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


# ---- words for people ----------------------------------------------------------------------------


def type_name(annotation: Any) -> str:
    """In words: `int`, `one of aux, bias`, `float or none`, `float,float`, `str,...`."""
    kinds = _alternatives(annotation)
    if len(kinds) > 1:
        return " or ".join(type_name(kind) for kind in kinds)
    if get_origin(annotation) is tuple:
        return ",".join(type_name(kind) for kind in get_args(annotation))
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "one of " + ", ".join(str(one.value) for one in annotation)
    if annotation in IN_WORDS:
        return IN_WORDS[annotation]
    return getattr(annotation, "__name__", str(annotation))


def _typed(value: Any) -> str:
    """A value as it would be typed."""
    if isinstance(value, tuple | list):
        return ",".join(map(_typed, value))
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool | None):
        return str(value).lower()
    return str(value)


def _comments(kind: Any) -> Mapping[str, str]:
    """The comment on a field's line or on the lines above it; none where there is no source."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):
        return {}
    lines = source.splitlines()
    found: dict[str, str] = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign):
            continue
        first = node.lineno - 1
        comments: list[str] = []
        for line in lines[first : node.end_lineno]:
            comments.append(line.partition("  # ")[2])
        while lines[first - 1].lstrip().startswith("# "):
            first -= 1
            comments.insert(0, lines[first].strip("# "))
        comments = [text for text in comments if text and not text.startswith("noqa")]
        found[ast.unparse(node.target)] = " ".join(comments)
    return found
