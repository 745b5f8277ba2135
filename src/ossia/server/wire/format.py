"""The format that an answer is held to: OpenAI's `response_format`, `text.format` of the Responses
API and Anthropic's `output_config.format` are one thing.

Knows their shapes and Harmony's formats; nothing of messages and tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ossia.errors import GrammarError
from ossia.harmony import ResponseFormat, body_format
from ossia.harmony.grammar.proofs import TYPES
from ossia.server.wire.errors import bad
from ossia.server.wire.fields import At


@dataclass(frozen=True)
class AnswerFormat:
    """`wanted`: for the grammar; None: free text. `declared`: what the model is told of it.
    `field`: where the request has it. `echo`: how a response shows it.
    """

    field: str
    wanted: Any = None
    declared: tuple[ResponseFormat, ...] = ()
    is_strict: bool = True

    @property
    def echo(self) -> dict[str, Any]:
        return {"type": "text"} if self.wanted is None else self.wanted


FREE_TEXT = AnswerFormat("response_format")


def answer_format(at: At, *, nested: bool = False, always_strict: bool = False) -> AnswerFormat:
    """`nested`: the schema is expected under "json_schema", as in Chat Completions; it is found in
    both places. Raises `ApiError`.
    """
    if at.value is None:
        return AnswerFormat(at.path)
    match at.object()["type"].value:
        case "text":
            return AnswerFormat(at.path)
        case "json_object" if "schema" in at:  # as llama.cpp and others have it
            return _of_schema(at, at, always_strict)
        case "json_object" | "regex" | "grammar":  # the last two are beyond OpenAI's
            try:
                body_format(at.value)
            except GrammarError as error:
                raise bad(f"{at.path}: {error}", at.path, error.code) from error
            return AnswerFormat(at.path, dict(at.value))
        case "json_schema":
            is_nested = "json_schema" in at or (nested and "schema" not in at)
            inner = at["json_schema"].object() if is_nested else at
            return _of_schema(at, inner, always_strict)
    at["type"].one_of("text", "json_object", "json_schema")
    raise AssertionError(at)


def _of_schema(at: At, inner: At, always_strict: bool) -> AnswerFormat:
    schema = inner["schema"].value
    if not isinstance(schema, Mapping | bool):
        raise inner["schema"].wrong("must be a JSON schema: an object", "invalid_schema")
    name = inner["name"].text("") or "response"
    about = inner["description"].text("") or None
    strict = inner["strict"].flag()
    wanted = {
        "type": "json_schema",
        "name": name,
        "schema": schema,
        "description": about,
        "strict": strict,
    }
    types = schema.get("type", "object") if isinstance(schema, Mapping) else "object"
    is_typed = all(word in TYPES for word in (types if isinstance(types, list) else [types]))
    return AnswerFormat(
        at.path,
        wanted,
        (ResponseFormat(name, schema, about),),
        is_strict=strict or always_strict or not is_typed,
    )
