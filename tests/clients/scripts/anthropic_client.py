"""The anthropic client: messages with a tool and thinking, streamed and not, and counting."""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic, beta_tool
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


# ---- tool runners: they ask for a thread first, and go on without one ----


def runner() -> Any:
    called: list[str] = []
    run = client.beta.messages.tool_runner(**_running(called))
    last = run.until_done()
    return {"called": called, "text": "".join(b.text for b in last.content if b.type == "text")}


def runner_streamed() -> Any:
    called: list[str] = []
    text = ""
    for stream in client.beta.messages.tool_runner(**_running(called), stream=True):
        text = "".join(event.text for event in stream if event.type == "text")
    return {"called": called, "text": text}


def _running(called: list[str]) -> Any:
    @beta_tool
    def calculator(expression: str) -> str:
        """Evaluates an arithmetic expression.

        Args:
            expression: for example 12*7
        """
        called.append(expression)
        return calculate({"expression": expression})

    messages = [{"role": "user", "content": QUESTION}]
    return {"model": MODEL, "max_tokens": 2000, "tools": [calculator], "messages": messages}


if __name__ == "__main__":
    main(create, stream, count, runner, runner_streamed)
