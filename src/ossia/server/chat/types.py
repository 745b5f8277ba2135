"""What a client of Chat Completions sends: the request's fields and their types.

Fields that are not named here are accepted and ignored. Those that are must have their type:
nothing is converted. What fields mean is input.py's and format.py's; messages and tools are plain
objects here, checked where they are read, so that an error can name the place in them. Knows no
Harmony and no HTTP.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    WithJsonSchema,
)

from ossia.server.stops import MAX_STOPS

EffortWord = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
Count = Annotated[StrictInt, Field(ge=1)]
Object = dict[str, Any]
OLD = Field(
    json_schema_extra={"deprecated": True}
)  # Field(deprecated=True) would warn where it is read


def _either(*schemas: Object) -> WithJsonSchema:
    """Of values that are checked where they are read: pydantic's errors about a choice of types
    name no field.
    """
    return WithJsonSchema({"anyOf": [*schemas, {"type": "null"}]})


STRING: Object = {"type": "string"}
OBJECT: Object = {"type": "object"}
StringOrObject = Annotated[Any, _either(STRING, OBJECT)]
StringOrObjects = Annotated[Any, _either(STRING, {"type": "array", "items": OBJECT})]
StringOrStrings = Annotated[
    Any, _either(STRING, {"type": "array", "items": STRING, "maxItems": MAX_STOPS})
]


class Lenient(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class ChatMessage(Lenient):
    """`content`: a string, or a list of parts {"type": "text", "text"}; null for an assistant that
    only calls tools.
    """

    role: Role
    content: StringOrObjects = None


class StreamOptions(Lenient):
    """`continuous_usage_stats`: the usage so far on every chunk."""

    include_usage: StrictBool | None = None
    continuous_usage_stats: StrictBool | None = None
    include_obfuscation: StrictBool | None = None


class Reasoning(Lenient):
    """`max_tokens`: of reasoning; the answer follows then. `exclude`: do not send it."""

    effort: EffortWord | None = None
    max_tokens: Annotated[StrictInt, Field(ge=0)] | None = None
    exclude: StrictBool | None = None
    enabled: StrictBool | None = None


class TemplateWishes(Lenient):
    """What users of other servers know as variables of a chat template."""

    reasoning_effort: EffortWord | None = None
    enable_thinking: StrictBool | None = None


class ChatRequest(Lenient):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: str | None = None

    # Tools
    tools: list[Object] | None = None
    tool_choice: StringOrObject = None
    parallel_tool_calls: StrictBool | None = None
    functions: Annotated[list[Object] | None, OLD] = None
    function_call: Annotated[StringOrObject, OLD] = None
    web_search_options: Object | None = None

    # The answer
    response_format: Object | None = None
    n: Annotated[StrictInt, Field(ge=1, le=128)] | None = None
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    stop: StringOrStrings = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None

    # Sampling
    temperature: Annotated[StrictFloat, Field(ge=0)] | None = None
    top_p: Annotated[StrictFloat, Field(gt=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=-1)] | None = None  # -1, as 0: off
    min_p: Annotated[StrictFloat, Field(ge=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    presence_penalty: StrictFloat | None = None
    frequency_penalty: StrictFloat | None = None
    repetition_penalty: StrictFloat | None = None
    logit_bias: dict[str, StrictFloat] | None = None

    # Reasoning
    reasoning_effort: EffortWord | None = None
    reasoning: Reasoning | None = None
    include_reasoning: StrictBool | None = None
    thinking_token_budget: Annotated[StrictInt, Field(ge=0)] | None = None
    chat_template_kwargs: TemplateWishes | None = None

    # Formats under the names that vLLM has for them
    guided_json: StringOrObject = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Field(min_length=1)] | None = None
    guided_grammar: str | None = None
    structured_outputs: Object | None = None

    # Accepted; they change nothing in the answer
    cache_salt: str | None = None  # whose prefix cache it is
    metadata: dict[str, str] | None = None  # given back
    service_tier: str | None = None  # there is one: "default"
    store: StrictBool | None = None  # chat completions are not stored
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prediction: Object | None = None  # it would only make the same answer quicker
    verbosity: str | None = None  # gpt-oss has no such switch

    # Refused unless they say what happens anyway
    modalities: list[str] | None = None
    audio: Object | None = None
