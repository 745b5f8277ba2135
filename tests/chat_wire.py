"""What tests of Chat Completions share: what a model says, and their own reading of what the server
sends.
"""

from __future__ import annotations

import json
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk

PATH = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
THOUGHT = "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant"
PREAMBLE = "<|channel|>commentary<|message|>I look it up.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>It is sunny.<|return|>"
CALL = (
    '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city":"Rome"}<|call|>'
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
NOTE = {"type": "custom", "custom": {"name": "note", "description": "Takes a note."}}


def chunks_of(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream that ends as it should."""
    lines = [line for line in text.split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    assert (
        len(
            {
                (chunk["id"], chunk["created"], chunk["model"], chunk["system_fingerprint"])
                for chunk in chunks
            }
        )
        == 1
    )
    return chunks


def folded(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What a client adds up, written without the server's own `Body`: choices by their index."""
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            sums = found.setdefault(
                choice["index"], {"content": "", "reasoning": "", "calls": {}, "logprobs": []}
            )
            delta = choice["delta"]
            sums["content"] += delta.get("content") or ""
            sums["reasoning"] += delta.get("reasoning") or ""
            assert delta.get("reasoning") == delta.get("reasoning_content")
            for part in delta.get("tool_calls", []):
                call = sums["calls"].setdefault(
                    part["index"], {"id": part.get("id"), "name": "", "text": ""}
                )
                body = part.get("function") or part.get("custom")
                call["name"] += body.get("name", "")
                call["text"] += body.get("arguments", "") + body.get("input", "")
            sums["logprobs"] += (choice["logprobs"] or {"content": []})["content"]
            sums["finish"] = choice["finish_reason"] or sums.get("finish")
    return found


def told(body: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """A body's choices in the form of `folded`, its ids of calls left out."""
    found = {}
    for choice in body["choices"]:
        message, calls = choice["message"], {}
        for n, call in enumerate(message.get("tool_calls", [])):
            inner = call[call["type"]]
            calls[n] = {
                "id": call["id"],
                "name": inner["name"],
                "text": inner.get("arguments", inner.get("input")),
            }
        found[choice["index"]] = {
            "content": message["content"] or "",
            "reasoning": message["reasoning"] or "",
            "calls": calls,
            "logprobs": (choice["logprobs"] or {"content": []})["content"],
            "finish": choice["finish_reason"],
        }
    return found


def without_ids(choices: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    for choice in choices.values():
        for call in choice["calls"].values():
            assert call.pop("id").startswith("call_")
    return choices


async def both(client: Any, **wishes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A request answered whole and as a stream."""
    whole = await client.post(PATH, json=HELLO | wishes)
    assert whole.status_code == 200, whole.text
    ChatCompletion.model_validate(whole.json())
    options = {"include_usage": True}
    streamed = await client.post(
        PATH, json=HELLO | wishes | {"stream": True, "stream_options": options}
    )
    assert streamed.status_code == 200
    return whole.json(), chunks_of(streamed.text)
