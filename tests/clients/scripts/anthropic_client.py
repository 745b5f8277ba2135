"""The anthropic client: messages with a tool and thinking, streamed and not, and counting."""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic
from common import DESCRIPTION, MODEL, QUESTION, SCHEMA, URL, calculate, main

client = Anthropic(
    base_url=URL.removesuffix("/v1"),
    api_key="none",
    max_retries=0,
    _strict_response_validation=True,
)
COMMON: Any = {
    "model": MODEL,
    "max_tokens": 2000,
    "tools": [{"name": "calculator", "description": DESCRIPTION, "input_schema": SCHEMA}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
}


def told(ask: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    asked = ask(messages)
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": calculate(block.input)}
        for block in asked.content
        if block.type == "tool_use"
    ]
    messages += [
        {"role": "assistant", "content": asked.content},
        {"role": "user", "content": results},
    ]
    ended = ask(messages)
    blocks = [*asked.content, *ended.content]
    return {
        "calls": [[block.name, block.input] for block in blocks if block.type == "tool_use"],
        "text": "".join(block.text for block in ended.content if block.type == "text"),
        "reasoning": [block.thinking for block in blocks if block.type == "thinking"],
        "stop": [asked.stop_reason, ended.stop_reason],
        "counted": ended.usage.output_tokens > 0,
    }


def create() -> Any:
    return told(lambda messages: client.messages.create(messages=messages, **COMMON))


def stream() -> Any:
    def ask(messages: list[Any]) -> Any:
        text = ""
        with client.messages.stream(messages=messages, **COMMON) as events:
            for event in events:
                if event.type == "text":
                    text += event.text
            ended = events.get_final_message()
        assert text == "".join(block.text for block in ended.content if block.type == "text")
        return ended

    return told(ask)


def count() -> Any:
    messages: Any = [{"role": "user", "content": QUESTION}]
    counted = client.messages.count_tokens(model=MODEL, messages=messages, tools=COMMON["tools"])
    used = client.messages.create(
        messages=messages, model=MODEL, max_tokens=2000, tools=COMMON["tools"]
    ).usage
    # tokens that are read from the cache are not counted as input
    return {
        "same": counted.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0) > 0
    }


if __name__ == "__main__":
    main(create, stream, count)
