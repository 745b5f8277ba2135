"""What a client of the Responses API may send, and the statuses that its routes answer with, for
OpenAPI.

Lenient: fields that are not known are let through, those that are known have the right type or the
request is refused. Input items, tools and choices are checked where they are read. Knows no
Harmony.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ossia.engine.request import MAX_TOP_LOGPROBS
from ossia.server.stops import MAX_STOPS

PAIRS, KEY, VALUE = 16, 64, 512  # of metadata: how many, and characters
OBJECT = {"type": "object"}
Input = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": OBJECT}]})
]
WordOrObject = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, OBJECT]})]
Stop = Annotated[
    Any,
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


def small_metadata(value: dict[str, str]) -> dict[str, str]:
    """What clients keep beside a response or a conversation. Raises a validation error if it is too
    much.
    """
    if len(value) > PAIRS:
        raise _wrong(f"at most {PAIRS} pairs, found {len(value)}")
    for key, text in value.items():
        if len(key) > KEY or len(text) > VALUE:
            raise _wrong(f"keys have at most {KEY} characters and values {VALUE}: {key[:KEY]!r}")
    return value


def _wrong(why: str) -> PydanticCustomError:
    return PydanticCustomError("wrong", "{why}", {"why": why})


class Wire(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class ReasoningWishes(Wire):
    effort: str | None = None
    summary: Literal["auto", "concise", "detailed", "none"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None  # its old name

    @property
    def wants_summary(self) -> str | None:
        wish = self.summary or self.generate_summary
        return None if wish == "none" else wish


class TextWishes(Wire):
    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class PromptRequest(Wire):
    """What decides about the prompt: the fields that creating a response and counting its tokens
    share.
    """

    model: str | None = None
    input: Input = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: WordOrObject = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: WordOrObject = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningWishes | None = None
    text: TextWishes | None = None
    truncation: Literal["auto", "disabled"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_plain_json(cls, data: Any) -> Any:
        """What cannot be written as JSON again (half a surrogate pair, endless numbers) cannot be
        echoed or read.
        """
        try:
            orjson.dumps(data)
        except TypeError as error:
            raise _wrong(f"this is no JSON that other programs could read: {error}") from error
        return data

    @property
    def conversation_id(self) -> str | None:
        found = (
            self.conversation.get("id")
            if isinstance(self.conversation, dict)
            else self.conversation
        )
        return found if isinstance(found, str) else None

    @field_validator("conversation")
    @classmethod
    def _names_a_conversation(cls, value: Any) -> Any:
        named = value.get("id") if isinstance(value, dict) else value
        if value is not None and not (isinstance(named, str) and named):
            raise _wrong("a conversation is an id, or an object with one")
        return value


class ResponseRequest(PromptRequest):
    """POST /v1/responses."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": "Say hello.", "max_output_tokens": 64}]}
    )

    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tool_calls: Annotated[int, Field(ge=0)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None
    # Beyond the API, as other servers have them:
    seed: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: Stop = None

    @field_validator("metadata")
    @classmethod
    def _is_small(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        return None if value is None else small_metadata(value)

    @field_validator("stop")
    @classmethod
    def _is_stop(cls, value: Any) -> tuple[str, ...]:
        texts = [value] if isinstance(value, str) else value or []
        if len(texts) > MAX_STOPS:
            raise _wrong(f"at most {MAX_STOPS} strings are looked for, found {len(texts)}")
        if not isinstance(texts, list | tuple) or not all(
            isinstance(text, str) and text for text in texts
        ):
            raise _wrong("a string, or a list of strings, none of them empty")
        return tuple(texts)

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def includes(self) -> frozenset[str]:
        return frozenset(self.include or ())


# ---- OpenAPI ----

MEANINGS = {
    400: "A field of the request is wrong; `param` names it",
    401: "No API key, or an unknown one",
    403: "Not allowed with this key",
    404: "There is no such thing, or it is somebody else's",
    409: "The state of things does not allow it",
    413: "The body is too large",
    429: "Too many requests, or tokens; `Retry-After` says when to come back",
    500: "The server failed; its log says more",
    503: "The engine does not run, or the server is going down",
}
_NULLABLE = {"anyOf": [{"type": "string"}, {"type": "null"}]}
ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _NULLABLE,
                "code": _NULLABLE,
            },
        }
    },
}


def documented(
    schema: dict[str, Any], *statuses: int, streams: bool = False
) -> dict[int | str, dict[str, Any]]:
    """A route's `responses=`: a 200 of the schema, as events too if it `streams`, and errors in
    OpenAI's form.
    """
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if streams:
        content["text/event-stream"] = {}
    errors: dict[int | str, dict[str, Any]] = {
        status: {
            "description": MEANINGS[status],
            "content": {"application/json": {"schema": ERROR_SCHEMA}},
        }
        for status in statuses
    }
    return {200: {"description": "The answer", "content": content}, **errors}


ALWAYS = (400, 401, 404, 413, 429, 500, 503)  # what any route that asks the model can answer
RESPONSE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", "object", "created_at", "status", "model", "output", "tools", "tool_choice"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "response"},
        "created_at": {"type": "integer"},
        "status": {
            "enum": ["completed", "failed", "in_progress", "cancelled", "queued", "incomplete"]
        },
        "model": {"type": "string"},
        "output": {"type": "array", "items": {"type": "object", "required": ["type"]}},
        "tools": {"type": "array", "items": OBJECT},
    },
}
COUNT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["object", "input_tokens"],
    "properties": {
        "object": {"const": "response.input_tokens"},
        "input_tokens": {"type": "integer"},
    },
}
