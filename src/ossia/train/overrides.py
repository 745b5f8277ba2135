"""`key=value`: single fields of a recipe's configuration replaced from the command line, by their
annotations.

Works on frozen dataclasses, nested ones included (`hyper.peak_lr=1e-3`). Knows types and text; no
tensors, no recipes.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import io
import tokenize
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ossia.config import ModelConfig
from ossia.errors import ConfigError

Config = TypeVar("Config")
TRUE, FALSE, NONE = ("true", "yes", "on", "1"), ("false", "no", "off", "0"), ("none", "null")


@dataclass(frozen=True)
class Key:
    """A field that can be set: its dotted name, its type in words, its value as it would be typed,
    its comment.
    """

    name: str
    type: str
    value: str
    comment: str


def apply(config: Config, overrides: Sequence[str]) -> Config:
    """`config` with every `key=value` of `overrides` put in; what is set twice has the last value.

    Raises `ConfigError` naming the key: if there is no such key (with those of similar names), if
    the value is not of the field's type, or if the configuration refuses the whole.
    """
    tree: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is no key=value, such as hyper.peak_lr=1e-3")
        _insert(config, tree, name.strip(), value)
    made: Config = _replaced(config, tree, "")
    return made


def keys(config: Any) -> list[Key]:
    """Everything that can be set, in the order in which it is declared."""
    return list(_keys(config, ""))


def flat(config: Any) -> dict[str, Any]:
    """A configuration as JSON values by dotted name: what decides what a run makes."""
    return dict(_flat(config, ""))


# ---- names ---------------------------------------------------------------------------------------


def _insert(config: Any, tree: dict[str, Any], name: str, value: str) -> None:
    """Put `value` where `name` says, after seeing that there is such a field."""
    *path, last = name.split(".")
    level, kind = tree, type(config)
    for part in path:
        inner = (
            _dataclass_of(_annotations(kind).get(part)) if dataclasses.is_dataclass(kind) else None
        )
        if inner is None:
            raise _unknown(config, name)
        level, kind = level.setdefault(part, {}), inner
        if not isinstance(level, dict):
            raise ConfigError(f"{name}: {part} is set as a whole already")
    if last not in _annotations(kind):
        raise _unknown(config, name)
    annotation = _annotations(kind)[last]
    none = value.strip().lower() in NONE and type(None) in _alternatives(annotation)
    if _dataclass_of(annotation) is not None and not none:
        inside = ", ".join(_annotations(_dataclass_of(annotation)))
        raise ConfigError(f"{name} is a group: set one of its fields, {name}.{{{inside}}}")
    level[last] = value


def _unknown(config: Any, name: str) -> ConfigError:
    known = [key.name for key in keys(config)]
    last = name.rpartition(".")[2]
    near = difflib.get_close_matches(name, known, 3, 0.6)
    near += [key for key in known if key.rpartition(".")[2] == last and key not in near]
    meant = f"; did you mean {' or '.join(near[:3])}?" if near else "."
    return ConfigError(f"there is no key {name!r}{meant} Keys: {', '.join(known)}")


def _annotations(kind: Any) -> dict[str, Any]:
    """Types of the fields that a constructor takes, by name."""
    try:
        hints = get_type_hints(kind)
    except NameError as error:
        raise ConfigError(
            f"{kind.__name__}: an annotation cannot be resolved ({error}): import it at the top"
        ) from error
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def _dataclass_of(annotation: Any) -> Any:
    """The dataclass that a field holds, also if it may be None."""
    found = [
        kind
        for kind in _alternatives(annotation)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    ]
    return found[0] if found else None


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return (
        get_args(annotation)
        if get_origin(annotation) in (Union, types.UnionType)
        else (annotation,)
    )


def _replaced(config: Any, tree: Mapping[str, Any], prefix: str) -> Any:
    hints, changes = _annotations(type(config)), {}
    for name, value in tree.items():
        if isinstance(value, dict):
            inner = getattr(config, name)
            if inner is None:
                inner = _default_of(_dataclass_of(hints[name]), prefix + name)
            changes[name] = _replaced(inner, value, f"{prefix}{name}.")
        else:
            changes[name] = parse(value, hints[name], prefix + name)
    if (
        isinstance(config, ModelConfig)
        and "num_hidden_layers" in changes
        and "layer_types" not in changes
    ):
        changes["layer_types"] = ()  # of as many layers as there are now
    try:
        return dataclasses.replace(config, **changes)
    except ConfigError as error:
        raise ConfigError(f"{prefix.rstrip('.')}: {error}" if prefix else str(error)) from error
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{prefix}{name}" for name in changes)
        raise ConfigError(f"{given}: not a possible configuration: {error}") from error


def _default_of(kind: Any, name: str) -> Any:
    try:
        return kind()
    except TypeError as error:
        raise ConfigError(
            f"{name} is none, and has fields without defaults: it cannot be set field by field"
        ) from error


# ---- values --------------------------------------------------------------------------------------


def parse(text: str, annotation: Any, name: str = "value") -> Any:
    """`text` as a value of this annotation: int, float, bool, str, Path, None, Literal, Enum,
    tuple, or one of several.

    Whole numbers may be written 1_000_000 or 1e6. Raises `ConfigError` with what was expected.
    """
    # None first and text last, in whatever order they are declared: any word would be text, and
    # "none" a path
    for kind in sorted(
        _alternatives(annotation), key=lambda kind: (kind is not type(None), kind is str)
    ):
        value = _one(text.strip(), kind, name)
        if value is not _NOTHING:
            return value
    raise ConfigError(f"{name} must be {type_name(annotation)}, found {text!r}")


_NOTHING = object()


def _one(text: str, kind: Any, name: str) -> Any:
    """The value, or `_NOTHING` if the text is none of this kind."""
    if kind is type(None) or kind is None:
        return None if text.lower() in NONE else _NOTHING
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == text), _NOTHING)
    if get_origin(kind) is tuple:
        return _tuple(text, get_args(kind), name)
    if kind is bool:
        return True if text.lower() in TRUE else False if text.lower() in FALSE else _NOTHING
    if kind in (int, float):
        return _number(text, kind)
    if kind is str:
        return text
    if kind is Path:
        return Path(text).expanduser() if text else _NOTHING
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next((one for one in kind if text in (one.name, str(one.value))), _NOTHING)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _NOTHING
    raise ConfigError(
        f"{name} is of type {type_name(kind)}, which cannot be set from the command line"
    )


def _number(text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        pass
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        return _NOTHING
    return int(value) if value.is_integer() else _NOTHING


def _tuple(text: str, kinds: tuple[Any, ...], name: str) -> Any:
    inside = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
    pieces = [piece for piece in inside.split(",") if piece.strip()]
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(pieces)
    if len(pieces) != len(kinds):
        return _NOTHING
    return tuple(parse(piece, kind, name) for piece, kind in zip(pieces, kinds, strict=True))


def type_name(annotation: Any) -> str:
    """In words: `int`, `one of aux, bias`, `float or none`, `float,float`, `str,...`."""
    kinds = _alternatives(annotation)
    if len(kinds) > 1:
        return " or ".join(type_name(kind) for kind in kinds)
    if annotation in (None, type(None)):
        return "none"
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    if get_origin(annotation) is tuple:
        return ",".join(
            "..." if kind is Ellipsis else type_name(kind) for kind in get_args(annotation)
        )
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "one of " + ", ".join(str(one.value) for one in annotation)
    return {Path: "path", bool: "true or false"}.get(
        annotation, getattr(annotation, "__name__", str(annotation))
    )


# ---- listing -------------------------------------------------------------------------------------


def _keys(config: Any, prefix: str) -> Iterator[Key]:
    comments, hints = _comments(type(config)), _annotations(type(config))
    for name, annotation in hints.items():
        value, inner = getattr(config, name), _dataclass_of(annotation)
        if inner is None:
            yield Key(prefix + name, type_name(annotation), _typed(value), comments.get(name, ""))
            continue
        if value is None:
            yield Key(prefix + name, "none, or a group", "none", comments.get(name, ""))
        nested = value
        if nested is None and not _required(inner):
            nested = inner()
        if nested is not None:
            yield from _keys(nested, f"{prefix}{name}.")


def _required(kind: Any) -> bool:
    """Whether a dataclass has fields without defaults."""
    missing = dataclasses.MISSING
    return any(
        f.init and f.default is missing and f.default_factory is missing
        for f in dataclasses.fields(kind)
    )


def _typed(value: Any) -> str:
    """A value as it would be typed."""
    if isinstance(value, tuple | list):
        return ",".join(map(_typed, value))
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _comments(kind: Any) -> dict[str, str]:
    """What stands behind a field in the source, on its line; nothing if there is no source."""
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        return {}
    names = {field.name for field in dataclasses.fields(kind)}
    found: dict[str, str] = {}
    words: dict[int, str] = {}  # line -> its first word
    for token in tokenize.generate_tokens(io.StringIO(inspect.cleandoc(source)).readline):
        line = token.start[0]
        if token.type == tokenize.NAME:
            words.setdefault(line, token.string)
        elif (
            token.type == tokenize.COMMENT
            and words.get(line) in names
            and "noqa" not in token.string
        ):
            found[words[line]] = token.string.lstrip("# ")
    return found


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _flat(
                getattr(value, field.name), f"{name}.{field.name}" if name else field.name
            )
    elif isinstance(value, tuple | list):
        yield (
            name,
            [
                dict(_flat(one, "")) if dataclasses.is_dataclass(one) else _json(one)
                for one in value
            ],
        )
    else:
        yield name, _json(value)


def _json(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, str | int | float | bool | None) else str(value)
