"""What a Chat Completions request wants of the answer's form: the response format, and wishes that
cannot be met.

Knows OpenAI's `response_format` and the names under which vLLM's clients ask for the same. Raises
errors that name the field; knows nothing of messages and tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ossia.errors import GrammarError
from ossia.harmony import ResponseFormat, body_format
from ossia.server.chat.types import ChatRequest
from ossia.server.wire.errors import bad

# Fields of OpenAI's and of other servers that would change the answer, and the values with which
# they do not.
REFUSED: dict[str, tuple[Any, ...]] = {
    "modalities": (["text"], []),
    "audio": (),
    "moderation": (),
    "add_generation_prompt": (True,),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "grammar": ("",),
    "ignore_eos": (False,),
    "json_schema": (),
    "min_tokens": (0,),
    "mm_processor_kwargs": ({},),
    "prompt_logprobs": (0,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "stop_token_ids": ([],),
    "use_beam_search": (False,),
}


def check_refused(request: ChatRequest) -> None:
    """Raises `ApiError` for a wish that would change the answer and cannot be met."""
    given = dict(request.__dict__) | (request.model_extra or {})
    for name, harmless in REFUSED.items():
        value = given.get(name)
        if value is not None and value not in harmless:
            raise bad(f"{name} is not supported here", name, "unsupported_parameter")


def wanted_format(request: ChatRequest) -> tuple[Any, str]:
    """What the answer is held to, as `harmony.body_format` takes it, or None; and the field that
    says so.
    """
    found = dict(_formats(request))
    if len(found) > 1:
        raise bad(f"one format can be asked for, not {' and '.join(found)}", list(found)[1])
    for field, wanted in found.items():
        return wanted, field
    return None, "response_format"


def declared_format(wanted: Any) -> tuple[ResponseFormat, ...]:
    """What the model is told of it."""
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        return ()
    inner = wanted["json_schema"]
    return (
        ResponseFormat(inner.get("name") or "response", inner["schema"], inner.get("description")),
    )


def _formats(request: ChatRequest) -> list[tuple[str, Any]]:
    """Fields that ask for a format, each with what it asks for."""
    found = []
    if (
        request.response_format is not None
        and (wanted := _openai(request.response_format)) is not None
    ):
        found.append(("response_format", wanted))
    if request.structured_outputs is not None:
        for name in ("json", "json_object", "regex", "choice", "grammar"):
            if request.structured_outputs.get(name) not in (None, False):
                field = f"structured_outputs.{name}"
                found.append((field, _other(name, request.structured_outputs[name], field)))
    for name in ("json", "regex", "choice", "grammar"):
        if (value := getattr(request, f"guided_{name}")) is not None:
            found.append((f"guided_{name}", _other(name, value, f"guided_{name}")))
    return found


def _openai(wanted: Mapping[str, Any]) -> Any:
    """OpenAI's form, checked."""
    kind = wanted.get("type")
    match kind:
        case "text":
            return None
        case "json_object" if "schema" in wanted:  # as llama.cpp and others have it
            return _schema({"schema": wanted["schema"]}, "response_format")
        case "json_object":
            return "json_object"
        case "json_schema" if isinstance(wanted.get("json_schema"), dict):
            return _schema(wanted["json_schema"], "response_format.json_schema")
        case "json_schema":
            raise bad(
                "response_format.json_schema must be an object", "response_format.json_schema"
            )
        case "regex" | "grammar":
            return _beside(wanted)
    raise bad(
        f"response_format.type must be text, json_object or json_schema, not {kind!r:.80}",
        "response_format.type",
    )


def _beside(wanted: Mapping[str, Any]) -> Any:
    """A format that harmony knows beside OpenAI's."""
    try:
        return body_format(wanted)
    except GrammarError as error:
        raise bad(f"response_format: {error}", "response_format", "invalid_schema") from error


def _schema(inner: Mapping[str, Any], place: str) -> dict[str, Any]:
    if not isinstance(inner.get("schema"), dict | bool):
        raise bad(
            f"{place}.schema must be a JSON schema: an object", f"{place}.schema", "invalid_schema"
        )
    for key in ("name", "description"):
        if not isinstance(inner.get(key), str | None):
            raise bad(f"{place}.{key} must be a string", f"{place}.{key}")
    return {"type": "json_schema", "json_schema": dict(inner)}


def _other(name: str, value: Any, field: str) -> Any:
    """vLLM's forms."""
    match name, value:
        case "json", str():
            try:
                return _schema({"schema": json.loads(value)}, field)
            except ValueError as error:
                raise bad(f"{field} is no JSON: {error}", field, "invalid_schema") from error
        case "json", _:
            return _schema({"schema": value}, field)
        case "json_object", True:
            return "json_object"
        case "regex", str():
            return {"type": "regex", "pattern": value}
        case "choice", [*choices] if choices and all(isinstance(choice, str) for choice in choices):
            return {"type": "regex", "pattern": "|".join(map(_escaped, choices))}
        case "grammar", str():
            return {"type": "grammar", "syntax": "lark", "definition": value}
    raise bad(f"{field} does not have the form of a {name}", field)


def _escaped(text: str) -> str:
    """As a pattern, in the syntax that Python and ECMAScript share."""
    return re.sub(r"[\\^$.*+?()[\]{}|/]", r"\\\g<0>", text)
