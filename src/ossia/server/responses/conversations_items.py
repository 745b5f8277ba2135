"""Items that a client puts into a conversation: checked, and in the form in which they are listed.

A conversation may be read long after it was written, so that what no model could read is refused
when it comes. Knows wire items only. Fields that are not known are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ossia.server.wire.content import TEXT_PARTS
from ossia.server.wire.errors import bad
from ossia.tools.kinds import ITEMS

Item = dict[str, Any]
TEXT = (str,)
TEXT_OR_PARTS = (str, list)
# the fields that an item of each type must have
FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "message": {
        "role": TEXT,
        "content": TEXT_OR_PARTS,
    },
    "reasoning": {"summary": (list,)},
    "function_call": {
        "call_id": TEXT,
        "name": TEXT,
        "arguments": TEXT,
    },
    "function_call_output": {
        "call_id": TEXT,
        "output": TEXT_OR_PARTS,
    },
    "custom_tool_call": {
        "call_id": TEXT,
        "name": TEXT,
        "input": TEXT,
    },
    "custom_tool_call_output": {
        "call_id": TEXT,
        "output": TEXT_OR_PARTS,
    },
    "web_search_call": {"action": (dict,)},
    "code_interpreter_call": {
        "code": TEXT,
        "container_id": TEXT,
    },
}
OPTIONAL: dict[str, tuple[type, ...]] = {  # of any item, if they are there
    "id": TEXT,
    "encrypted_content": TEXT,
    "namespace": TEXT,
    "content": TEXT_OR_PARTS,
    "outputs": (list,),
}
ROLES = ("user", "assistant", "system", "developer")
STATUSES = ("in_progress", "completed", "incomplete")
CALL_STATUSES = (*STATUSES, "searching", "interpreting", "failed")  # of the server's own tools
PHASES = ("commentary", "final_answer")
NAMES: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}
JSON_TYPES: dict[type, str] = {str: "string", list: "array", dict: "object"}


def items_schema(most: int) -> dict[str, Any]:
    """Of what `checked_items` takes, for OpenAPI."""
    return {
        "type": "array",
        "maxItems": most,
        "items": {"anyOf": [_schema(kind) for kind in FIELDS]},
    }


def _schema(kind: str) -> dict[str, Any]:
    statuses = CALL_STATUSES if kind in ITEMS else STATUSES
    properties: dict[str, Any] = {"type": {"const": kind}, "status": {"enum": list(statuses)}}
    for key, types in (OPTIONAL | FIELDS[kind]).items():
        allowed = [{"type": JSON_TYPES[each]} for each in types]
        properties[key] = {"anyOf": allowed}
    if kind == "message":
        properties |= {"role": {"enum": list(ROLES)}, "phase": {"enum": list(PHASES)}}
        properties["content"] = {"anyOf": [{"type": "string"}, _parts_schema(*TEXT_PARTS)]}
    if kind == "reasoning":
        properties |= {
            "summary": _parts_schema("summary_text"),
            "content": _parts_schema("reasoning_text"),
        }
    return {"type": "object", "required": ["type", *FIELDS[kind]], "properties": properties}


def _parts_schema(*kinds: str) -> dict[str, Any]:
    parts = [
        {
            "type": "object",
            "required": ["type", TEXT_PARTS[kind]],
            "properties": {"type": {"const": kind}, TEXT_PARTS[kind]: {"type": "string"}}
            | (
                {"annotations": {"type": "array"}, "logprobs": {"type": "array"}}
                if kind == "output_text"
                else {}
            ),
        }
        for kind in kinds
    ]
    return {"type": "array", "items": {"anyOf": parts}}


def checked_items(items: Sequence[Any], param: str = "items") -> list[Item]:
    """The items in the form in which they are kept. Raises `ApiError` naming the first that is
    wrong.
    """
    return [_checked(item, f"{param}[{n}]") for n, item in enumerate(items)]


def _checked(given: Any, where: str) -> Item:
    if not isinstance(given, Mapping):
        raise bad(f"{where} must be an object", where)
    try:
        orjson.dumps(given)
    except TypeError as error:  # half a surrogate pair, endless numbers
        raise bad(f"{where} is not JSON that other programs can read: {error}", where) from error
    item = {key: value for key, value in given.items() if value is not None}
    kind = item.setdefault("type", "message")
    if not (isinstance(kind, str) and kind in FIELDS):
        place = f"{where}.type"
        raise bad(f"{place}: {kind!r} is not one of {', '.join(FIELDS)}", place)
    if kind == "reasoning":
        item.setdefault("summary", [])
    for key, types in (
        FIELDS[kind] | {key: OPTIONAL[key] for key in OPTIONAL if key in item}
    ).items():
        _check(item.get(key), types, f"{where}.{key}")
    if kind == "message":
        _message(item, where)
    if kind == "reasoning":
        item["summary"] = _parts(item["summary"], ("summary_text",), f"{where}.summary")
        if "content" in item:
            item["content"] = _parts(item["content"], ("reasoning_text",), f"{where}.content")
    if kind != "reasoning" or "status" in item:
        statuses = CALL_STATUSES if kind in ITEMS else STATUSES
        _one_of(item.setdefault("status", "completed"), statuses, f"{where}.status")
    if kind == "code_interpreter_call":
        item.setdefault("outputs", None)
    return item


def _message(item: Item, where: str) -> None:
    _one_of(item["role"], ROLES, f"{where}.role")
    if "phase" in item:
        _one_of(item["phase"], PHASES, f"{where}.phase")
    default = "input_text"
    if item["role"] == "assistant":
        default = "output_text"
    item["content"] = _parts(item["content"], (default, *TEXT_PARTS), f"{where}.content")


def _parts(content: Any, kinds: tuple[str, ...], where: str) -> list[Item]:
    """A string is one part, of the first kind."""
    if isinstance(content, str):
        content = [{"type": kinds[0], "text": content}]
    return [_part(part, kinds, f"{where}[{n}]") for n, part in enumerate(content)]


def _part(part: Any, kinds: tuple[str, ...], where: str) -> Item:
    if not isinstance(part, Mapping):
        raise bad(f"{where} must be an object", where)
    kind = part.get("type")
    if kind not in kinds:
        place = f"{where}.type"
        raise bad(f"{place}: the model reads text only, not {kind!r}", place, "unsupported_content")
    _check(part.get(TEXT_PARTS[kind]), TEXT, f"{where}.{TEXT_PARTS[kind]}")
    if kind != "output_text":
        return dict(part)
    given = {key: value for key, value in part.items() if value is not None}
    for key in ("annotations", "logprobs"):
        _check(given.setdefault(key, []), (list,), f"{where}.{key}")
    return given


def _check(value: Any, types: tuple[type, ...], where: str) -> None:
    if not isinstance(value, types):
        raise bad(f"{where} must be {' or '.join(NAMES[kind] for kind in types)}", where)


def _one_of(value: Any, words: Sequence[str], where: str) -> None:
    if value not in words:
        raise bad(f"{where}: {value!r} is not one of {', '.join(words)}", where)
