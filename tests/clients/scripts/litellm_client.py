"""LiteLLM: completion and responses, with its provider "openai"."""

from __future__ import annotations

import warnings
from typing import Any

import litellm
from common import DESCRIPTION, MODEL, QUESTION, SCHEMA, URL, calculate, main
from pydantic import BaseModel

FUNCTION = {"name": "calculator", "description": DESCRIPTION, "parameters": SCHEMA}
COMMON: Any = {
    "model": f"openai/{MODEL}",
    "api_base": URL,
    "api_key": "none",
    "temperature": 0,
    "num_retries": 0,
}


class Answer(BaseModel):
    result: int


def completion() -> Any:
    return chat(lambda messages: litellm.completion(messages=messages, tools=TOOLS, **COMMON))


def streamed() -> Any:
    def ask(messages: list[Any]) -> Any:
        chunks = list(litellm.completion(messages=messages, tools=TOOLS, stream=True, **COMMON))
        return litellm.stream_chunk_builder(chunks, messages=messages)

    return chat(ask)


TOOLS = [{"type": "function", "function": FUNCTION}]


def chat(ask: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    asked = ask(messages)
    message = asked.choices[0].message
    call = message.tool_calls[0]
    result = calculate(call.function.arguments)
    messages += [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": result}]
    ended = ask(messages)
    return {
        "calls": [[call.function.name, call.function.arguments]],
        "text": ended.choices[0].message.content,
        "reasoning": [message.reasoning_content, ended.choices[0].message.reasoning_content],
        "finish": [asked.choices[0].finish_reason, ended.choices[0].finish_reason],
    }


def structured() -> Any:
    messages = [{"role": "user", "content": QUESTION}]
    ended = litellm.completion(messages=messages, response_format=Answer, **COMMON)
    return {"result": Answer.model_validate_json(ended.choices[0].message.content).result}


def responses() -> Any:
    wishes = {**COMMON, "tools": [{"type": "function", **FUNCTION}]}
    asked = litellm.responses(input=QUESTION, **wishes)
    call = next(item for item in asked.output if item.type == "function_call")
    output = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": calculate(call.arguments),
    }
    ended = litellm.responses(input=[output], previous_response_id=asked.id, **wishes)
    said = [part.text for item in ended.output if item.type == "message" for part in item.content]
    return {"calls": [[call.name, call.arguments]], "text": "".join(said)}


def responses_streamed() -> Any:
    text, last = "", None
    for event in litellm.responses(input=QUESTION, stream=True, **COMMON):
        if event.type == "response.output_text.delta":
            text += event.delta
        last = event
    assert last.response.status == "completed"
    return {"text": text, "last": last.type}


if __name__ == "__main__":
    # What it does to itself: a type of its own that pydantic has doubts about, and for its log it
    # puts a dictionary where the answer had its usage. And it would print that it knows no prices
    # of the model.
    warnings.filterwarnings(
        "ignore", message="Item 'summary' on TypedDict class 'ChatCompletionReasoningItem'"
    )
    warnings.filterwarnings(
        "ignore", message="Pydantic serializer warnings:\n.*Expected `ResponseAPIUsage`"
    )
    litellm.suppress_debug_info = True
    main(completion, streamed, structured, responses, responses_streamed)
