"""Requests that no careful client sends: valid bodies of every API, mutated, and bytes that are
none.

`hostile(rng)` is one of them. All they have in common is that the server has to answer them with
something below 500, soon, and go on.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

TOOL = {
    "name": "look_up",
    "description": "Looks something up.",
    "parameters": {
        "type": "object",
        "properties": {
            "query": {"type": "string", "minLength": 1, "format": "uri"},
            "limit": {"type": "integer", "minimum": 1, "maximum": 50},
            "kind": {"enum": ["a", "b", None]},
        },
        "required": ["query"],
        "additionalProperties": False,
    },
}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "What is 2 + 3?"},
]
CALLED = [
    {"role": "user", "content": "Look it up."},
    {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "look_up", "arguments": '{"query": "x"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "five"},
]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": TOOL["parameters"]}}
VALID: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 4, "n": 2, "temperature": 0.5}),
    (
        "/v1/chat/completions",
        {
            "messages": CALLED,
            "max_tokens": 4,
            "stream": True,
            "stream_options": {"include_usage": True},
            "tools": [{"type": "function", "function": TOOL}],
            "tool_choice": "auto",
        },
    ),
    ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 4, "response_format": SCHEMA}),
    (
        "/v1/chat/completions",
        {"messages": MESSAGES, "max_tokens": 4, "guided_grammar": 'start: "a" | "b" start'},
    ),
    (
        "/v1/responses",
        {
            "input": "2 + 3?",
            "max_output_tokens": 4,
            "reasoning": {"effort": "low"},
            "tools": [{"type": "function", **TOOL, "strict": False}],
            "text": {"format": {"type": "text"}},
        },
    ),
    (
        "/v1/responses",
        {
            "input": [{"type": "message", "role": "user", "content": "Hi"}],
            "max_output_tokens": 4,
            "stream": True,
            "metadata": {"a": "b"},
            "store": True,
        },
    ),
    (
        "/v1/messages",
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "max_tokens": 4,
            "system": "Be short.",
            "tools": [{"name": "look_up", "input_schema": TOOL["parameters"]}],
            "thinking": {"type": "enabled", "budget_tokens": 1024},
        },
    ),
    ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "Hi"}]}),
    (
        "/v1/completions",
        {"prompt": ["One", "Two"], "max_tokens": 3, "logprobs": 2, "stop": ["x"], "echo": True},
    ),
    ("/v1/conversations", {"items": [{"type": "message", "role": "user", "content": "Hi"}]}),
    ("/tokenize", {"prompt": "Hello"}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
    ("/api/chat", {"model": "nano", "messages": MESSAGES, "options": {"num_predict": 4}}),
    ("/api/generate", {"model": "nano", "prompt": "Hi", "options": {"num_predict": 4}}),
]
MANY = 200  # items of a list that is made longer still: the client, too, has to be quick
PATHS = [path for path, _ in VALID]
OTHERS = (
    "/",
    "/health",
    "/v1/models",
    "/v1/models/x",
    "/metrics",
    "/v1/responses/resp_x",
    "/api/tags",
)


def deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def references(count: int) -> dict[str, Any]:
    definitions = {f"d{n}": {"items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(count)}
    return {"$defs": {**definitions, f"d{count}": {}}, "$ref": "#/$defs/d0"}


def odd_values(rng: random.Random) -> Any:
    """A value that somebody may put anywhere."""
    return rng.choice(
        (
            None, True, -1, 0, 1, 2**31, 2**63, -(2**70), 1e308, 0.1, "", " ", "a" * 3000,
            "\ud800", "<|start|>", "<|call|>",
            "\x00", "é" * 200, [], {}, [None], [[]], {"": {}}, ["a"] * 300, deep(60), deep(150),
            {"type": []}, {"$ref": "#"},
            references(20), references(400), {"type": "string", "pattern": "^(a+)+$"},
            {"type": "string", "pattern": "x{1000000}"}, {"type": "string", "maxLength": 10**9},
            {"enum": list(range(5000))},
            {"type": "object", "properties": {str(n): {"type": "string"} for n in range(300)}},
            {"not": {}}, {"type": "array", "minItems": 10**6},
            {"anyOf": [{"const": n} for n in range(500)]},
            'start: ("a"~1000)~1000', "start: A0\nA0: A1\nA1: /(a|aa)+/", '"' + '\\"' * 3000,
            "auto", "required", "none",
        )
    )  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything in a value."""
    children: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def mutate(body: dict[str, Any], rng: random.Random) -> None:
    path = rng.choice(list(places(body)))
    parent: Any = body
    for key in path[:-1]:
        parent = parent[key]
    way = rng.randrange(4)
    if way == 0:
        del parent[path[-1]]
    elif way == 1 and isinstance(parent, dict):
        parent[rng.choice(("temperature", "n", "tools", "stop", "logit_bias", "x", "type"))] = (
            odd_values(rng)
        )
    elif way == 2 and isinstance(parent, list) and len(parent) < MANY:
        parent.extend(copy.deepcopy(parent) * rng.choice((1, 40)))
    else:
        parent[path[-1]] = odd_values(rng)


@dataclass(frozen=True)
class Hostile:
    method: str
    path: str
    body: bytes

    @property
    def streams(self) -> bool:
        return b'"stream": true' in self.body


def hostile(rng: random.Random) -> Hostile:
    way = rng.random()
    path, valid = rng.choice(VALID)
    if way < 0.1:
        return Hostile(
            rng.choice(("GET", "PUT", "DELETE", "POST")), rng.choice((*OTHERS, *PATHS)), b""
        )
    body = copy.deepcopy(valid)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if any(True for _ in places(body)):
            mutate(body, rng)
    sent = json.dumps(body).encode()
    if way < 0.2:
        at = rng.randrange(len(sent) + 1)
        sent = sent[:at] + rng.choice((b"", b"\xff", b"}", b"[" * 5000, b"\x00")) + sent[at + 1 :]
    return Hostile("POST", path, sent)
