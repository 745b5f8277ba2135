"""What a client of the Responses API may send, and the statuses that its routes answer with, for
OpenAPI.

Lenient: fields that are not known are let through, those that are known have the right type or the
request is refused. Input items, tools and choices are checked where they are read. Knows no
Harmony.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import orjson
from annotated_types import Ge
from pydantic import (
    ConfigDict,
    ModelWrapValidatorHandler,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from ossia.engine.request import TopLogprobs
from ossia.server.wire.fields import (
    OBJECT,
    STRING,
    ApiRequest,
    EffortWord,
    ListOf,
    Metadata,
    Part,
    StringOrObject,
    wrong,
)
from ossia.server.wire.sampling import MaxTokens, SamplingFields, StopStrings

Input = Annotated[Any, WithJsonSchema({"anyOf": [STRING, {"type": "array", "items": OBJECT}]})]
LEVELS_AROUND = 8  # of a field of a request, in events and in what is kept, at most


class ReasoningWishes(Part):
    effort: EffortWord | None = None
    summary: Literal["auto", "concise", "detailed", "none"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None  # its old name

    @property
    def wants_summary(self) -> str | None:
        wish = self.summary or self.generate_summary
        return None if wish == "none" else wish


class TextWishes(Part):
    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ContextManagement(Part):
    type: Literal["compaction"]
    compact_threshold: Annotated[int, Ge(1)] | None = None  # tokens


class PromptRequest(ApiRequest):
    """The fields that the prompt depends on, for making a response and for counting tokens."""

    input: Input = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: StringOrObject = None
    tools: ListOf[dict[str, Any]] | None = None
    tool_choice: StringOrObject = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningWishes | None = None
    text: TextWishes | None = None
    truncation: Literal["auto", "disabled"] | None = None
    continue_final_message: bool | None = None  # beyond the API, as vLLM has it for chats

    @model_validator(mode="wrap")
    @classmethod
    def _can_be_echoed(cls, data: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        """Whole numbers of more than 64 bits cannot be written as JSON that all clients read, nor
        can what is nested hundreds of levels deep: as deep as it is in an event.
        """
        made = read(data)
        for field, value in data.items():
            try:
                orjson.dumps(_in_an_event(value))
            except TypeError as error:
                raise wrong(f"cannot be echoed: {field}: {error}") from error
        return made

    @property
    def conversation_id(self) -> str | None:
        found = self.conversation
        if isinstance(found, dict):
            found = found.get("id")
        return found if isinstance(found, str) else None

    @field_validator("conversation")
    @classmethod
    def _names_a_conversation(cls, value: Any) -> Any:
        named = value.get("id") if isinstance(value, dict) else value
        if value is not None and not (isinstance(named, str) and named):
            raise wrong("must be an id, or an object with one")
        return value


class ResponseRequest(PromptRequest, SamplingFields):
    """POST /v1/responses."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": "Say hello.", "max_output_tokens": 64}]}
    )

    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    include: ListOf[str] | None = None
    metadata: Metadata | None = None
    max_output_tokens: MaxTokens | None = None
    max_tool_calls: Annotated[int, Ge(0)] | None = None
    top_logprobs: TopLogprobs | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    context_management: ListOf[ContextManagement] | None = None
    stop: StopStrings = ()  # beyond the API, as other servers have it

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def includes(self) -> frozenset[str]:
        return frozenset(self.include or ())


# ---- OpenAPI ----

COMPACTION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", "object", "created_at", "output", "usage"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "response.compaction"},
        "created_at": {"type": "integer"},
        "output": {"type": "array", "items": {"type": "object", "required": ["type"]}},
        "usage": OBJECT,
    },
}

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


def _in_an_event(value: Any) -> Any:
    for _ in range(LEVELS_AROUND):
        value = [value]
    return value
