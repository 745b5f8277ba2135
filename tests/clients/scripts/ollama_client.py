"""The ollama client: chats with a tool, streamed and not, a prompt, a schema, and what there is."""

from __future__ import annotations

import json
from typing import Any

from common import DESCRIPTION, MODEL, QUESTION, SCHEMA, URL, calculate, main
from ollama import Client

client = Client(host=URL.removesuffix("/v1"))
FUNCTION = {"name": "calculator", "description": DESCRIPTION, "parameters": SCHEMA}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]
TYPED: Any = {
    "type": "object",
    "properties": {"result": {"type": "integer", "minimum": 0, "maximum": 999}},
    "required": ["result"],
    "additionalProperties": False,
}


def told(ask: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    asked = ask(messages)
    calls = [[call.function.name, call.function.arguments] for call in asked["tool_calls"]]
    messages.append({"role": "assistant", **asked})
    for name, arguments in calls:
        result = calculate(dict(arguments))
        messages.append({"role": "tool", "tool_name": name, "content": result})
    ended = ask(messages)
    return {
        "calls": [[name, dict(arguments)] for name, arguments in calls],
        "text": ended["content"],
        "reasoning": [asked["thinking"], ended["thinking"]],
        "counted": ended["counted"],
    }


def summed(parts: list[Any]) -> dict[str, Any]:
    return {
        "content": "".join(part.message.content or "" for part in parts),
        "thinking": "".join(part.message.thinking or "" for part in parts),
        "tool_calls": [call for part in parts for call in part.message.tool_calls or ()],
        "counted": bool(parts[-1].done and parts[-1].eval_count and parts[-1].total_duration),
    }


def chat() -> Any:
    return told(lambda messages: summed([client.chat(MODEL, messages, tools=TOOLS)]))


def chat_streamed() -> Any:
    return told(lambda messages: summed([*client.chat(MODEL, messages, tools=TOOLS, stream=True)]))


def generate() -> Any:
    parts = [*client.generate(MODEL, QUESTION, stream=True, think=True)]
    whole = client.generate(MODEL, QUESTION, think="medium", options={"temperature": 0})
    assert whole.response == "".join(part.response or "" for part in parts)
    return {"reasoning": [whole.thinking], "text": whole.response}


def typed() -> Any:
    answer = client.chat(MODEL, [{"role": "user", "content": QUESTION}], format=TYPED)
    return {"result": json.loads(answer.message.content or "")["result"]}


def listed() -> Any:
    (model,) = client.list().models
    shown = client.show(str(model.model))
    return {"model": model.model, "can": shown.capabilities}


if __name__ == "__main__":
    main(chat, chat_streamed, generate, typed, listed)
