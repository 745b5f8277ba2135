"""What a client of Chat Completions sends: the request's fields and their types.

request.py says what the fields mean; messages and tools are plain objects here, checked where they
are read, so that an error can name the place in them. Knows no Harmony and no HTTP.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import Field

from ossia.engine.request import TopLogprobs
from ossia.server.wire.fields import (
    ApiRequest,
    EffortWord,
    ListOf,
    Metadata,
    Part,
    StreamFields,
    StringOrObject,
    StringOrObjects,
)
from ossia.server.wire.sampling import MaxTokens, SamplingFields, StopStrings

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
Object = dict[str, Any]
# Field(deprecated=True) would warn where it is read
OLD = Field(json_schema_extra={"deprecated": True})


# tokens of reasoning; -1: no limit
Budget = Annotated[int, Ge(-1)] | None


class ChatMessage(Part):
    """`content`: a string, or a list of parts {"type": "text", "text"}; null for an assistant that
    only calls tools.
    """

    role: Role
    content: StringOrObjects = None


class Reasoning(Part):
    """`max_tokens`: of reasoning; the answer follows then. `exclude`: do not send it."""

    effort: EffortWord | None = None
    max_tokens: Annotated[int, Ge(0)] | None = None
    exclude: bool | None = None
    enabled: bool | None = None


class TemplateWishes(Part):
    """What clients of other servers send as variables of a chat template. `model_identity`: the
    first line of the system message.
    """

    model_identity: str | None = None
    reasoning_effort: EffortWord | None = None
    enable_thinking: bool | None = None


class ChatRequest(ApiRequest, StreamFields, SamplingFields):
    messages: Annotated[ListOf[ChatMessage], MinLen(1)]

    # Tools
    tools: ListOf[Object] | None = None
    tool_choice: StringOrObject = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[ListOf[Object] | None, OLD] = None
    function_call: Annotated[StringOrObject, OLD] = None
    web_search_options: Object | None = None

    # The answer
    response_format: Object | None = None
    n: Annotated[int, Ge(1), Le(128)] | None = None
    max_completion_tokens: MaxTokens | None = None
    max_tokens: MaxTokens | None = None
    stop: StopStrings = ()
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None

    # Reasoning
    reasoning_effort: EffortWord | None = None
    reasoning: Reasoning | None = None
    include_reasoning: bool | None = None
    thinking_token_budget: Budget = None
    reasoning_budget: Budget = None  # the same in other servers' words
    thinking_budget_tokens: Budget = None
    chat_template_kwargs: TemplateWishes | None = None

    # What benchmarks ask for, in vLLM's words
    prompt_logprobs: TopLogprobs | None = None
    return_token_ids: bool | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    # Formats under the names that vLLM has for them
    guided_json: StringOrObject = None
    guided_regex: str | None = None
    guided_choice: Annotated[ListOf[str], MinLen(1)] | None = None
    guided_grammar: str | None = None
    structured_outputs: Object | None = None

    # Accepted; they change nothing in the answer
    cache_salt: str | None = None  # whose prefix cache it is
    metadata: Metadata | None = None  # given back
    store: bool | None = None  # chat completions are not stored
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prediction: Object | None = None  # it would only make the same answer quicker
    verbosity: str | None = None  # gpt-oss has no such switch
