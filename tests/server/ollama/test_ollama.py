"""Ollama's API as its clients speak it, without the client."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ossia.harmony import Message
from ossia.server import Settings
from ossia.server.ollama.input import of_chat
from ossia.server.ollama.types import ChatRequest
from ossia.tokenizer import Tokenizer

pytestmark = pytest.mark.anyio
USER = [{"role": "user", "content": "What is 2 + 3?"}]
FINAL = "<|channel|>final<|message|>{}<|return|>"
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
CALL = "<|channel|>commentary to=functions.add <|constrain|>json<|message|>{}<|call|>"
SAID = THOUGHT + FINAL.format("It is five.")
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
ADD = {"type": "function", "function": {"name": "add", "description": "", "parameters": PARAMETERS}}
COUNTS = {"prompt_eval_count", "eval_count"}
DURATIONS = {"total_duration", "load_duration", "prompt_eval_duration", "eval_duration"}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def lines(response: Any) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


async def test_a_chat_is_streamed_unless_told_otherwise(client_for: Callable[..., Any]) -> None:
    async with client_for(SAID) as client:
        said = lines(await client.post("/api/chat", json={"model": "nano", "messages": USER}))
        body = {"model": "nano", "messages": USER, "stream": False}
        whole = (await client.post("/api/chat", json=body)).json()
    assert [line["done"] for line in said] == [False] * (len(said) - 1) + [True]
    for field, text in (("content", "It is five."), ("thinking", "Hm.")):
        assert "".join(line["message"].get(field, "") for line in said) == text
        assert whole["message"][field] == text
    for last in (said[-1], whole):
        assert last["done"] is True and last["done_reason"] == "stop"
        assert set(last) >= COUNTS | DURATIONS and last["model"] == "nano"
        assert all(type(last[key]) is int and last[key] >= 0 for key in COUNTS | DURATIONS)
        assert last["total_duration"] >= last["prompt_eval_duration"] + last["eval_duration"] - 2
    assert all(line["created_at"].endswith("Z") for line in said)


async def test_generate(client_for: Callable[..., Any], tokenizer: Tokenizer) -> None:
    body = {"model": "nano:latest", "prompt": "What is 2 + 3?", "system": "Be brief."}
    async with client_for(SAID) as client:
        said = lines(await client.post("/api/generate", json=body))
        whole = (await client.post("/api/generate", json={**body, "stream": False})).json()
        prompt = tokenizer.decode(client.engine.submitted[0])  # type: ignore[attr-defined]
    assert "# Instructions\n\nBe brief." in prompt and "<|message|>What is 2 + 3?" in prompt
    assert "".join(line["response"] for line in said) == whole["response"] == "It is five."
    assert whole["thinking"] == "Hm." and "message" not in whole and whole["model"] == "nano"


async def test_tools(client_for: Callable[..., Any], tokenizer: Tokenizer) -> None:
    """A call comes in one piece, with its arguments as an object, and goes back so."""
    told = THOUGHT + CALL.format('{"a": 5}')
    async with client_for(told, told, SAID) as client:
        body: dict[str, Any] = {"messages": USER, "tools": [ADD], "stream": False}
        called = (await client.post("/api/chat", json=body)).json()["message"]
        said = lines(await client.post("/api/chat", json={**body, "stream": True}))
        (call,) = called["tool_calls"]
        assert call["function"] == {"name": "add", "arguments": {"a": 5}}
        streamed = [
            line["message"]["tool_calls"] for line in said if "tool_calls" in line["message"]
        ]
        assert [[each["function"] for each in one] for one in streamed] == [[call["function"]]]
        assert said[-1]["done_reason"] == "stop"
        result = {"role": "tool", "content": "8", "tool_name": "add"}
        for back in (called, {key: called[key] for key in ("role", "tool_calls")}):
            for answer in (result, {"role": "tool", "content": "8"}):
                body["messages"] = [*USER, back, answer]
                await client.post("/api/chat", json=body)
        prompts = [tokenizer.decode(ids) for ids in client.engine.submitted[2:]]  # type: ignore[attr-defined]
    assert len(prompts) == 4 and set(prompts) == {prompts[0]}
    assert "<|channel|>analysis<|message|>Hm.<|end|>" in prompts[0]
    assert 'to=functions.add <|constrain|>json<|message|>{"a": 5}<|call|>' in prompts[0]
    assert (
        "<|start|>functions.add to=assistant<|channel|>commentary<|message|>8<|end|>" in prompts[0]
    )


@pytest.mark.parametrize(
    ("think", "effort"),
    [
        (None, "medium"),
        (True, "medium"),
        (False, "low"),
        ("low", "low"),
        ("medium", "medium"),
        ("high", "high"),
    ],
)
async def test_thinking(
    client_for: Callable[..., Any], tokenizer: Tokenizer, think: Any, effort: str
) -> None:
    async with client_for(SAID) as client:
        await client.post("/api/chat", json={"messages": USER, "think": think})
        prompt = tokenizer.decode(client.engine.submitted[0])  # type: ignore[attr-defined]
    assert f"Reasoning: {effort}" in prompt


@pytest.mark.parametrize(("think", "effort"), [(None, "high"), (True, "high"), ("low", "low")])
async def test_an_effort_in_a_system_message(
    client_for: Callable[..., Any], tokenizer: Tokenizer, think: Any, effort: str
) -> None:
    """As on the other doors: what the field says counts more."""
    line = "Be brief.\nReasoning: high"
    chat = {"messages": [{"role": "system", "content": line}, *USER], "think": think}
    async with client_for(SAID) as client:
        await client.post("/api/chat", json=chat)
        await client.post("/api/generate", json={"prompt": "a", "system": line, "think": think})
        for prompt in client.engine.submitted:
            assert f"\n\nReasoning: {effort}\n\n# Valid channels" in tokenizer.decode(prompt)


def test_code_of_a_tool_of_our_own_is_no_thought() -> None:
    known = (
        Message("assistant", "Hm.", channel="analysis"),
        Message("assistant", "1 + 1", None, "analysis", "python", "code"),
        Message("tool", "2", "python", "analysis", "assistant"),
        Message("assistant", "Two.", channel="analysis"),
    )
    call = {"id": "c", "function": {"name": "add", "arguments": {}}}
    said = [*USER, {"role": "assistant", "tool_calls": [call]}]
    _, messages = of_chat(ChatRequest.model_validate({"messages": said}), lambda id: known)
    assert [message.text for message in messages[1:]] == ["Hm.\n\nTwo.", "{}"]


async def test_options_and_formats(
    client_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_for(FINAL.format('{"a": 1}, and more')) as client:
        seen: list[Any] = []
        submit = client.engine.submit  # type: ignore[attr-defined]

        def noted(prompt: Any, params: Any, constraint: Any = None, **more: Any) -> int:
            seen.append((params, constraint))
            return int(submit(prompt, params, constraint, **more))

        monkeypatch.setattr(client.engine, "submit", noted)  # type: ignore[attr-defined]
        options = {
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 7,
            "min_p": 0.1,
            "seed": 3,
            "num_predict": 50,
            "repeat_penalty": 1.5,
            "presence_penalty": 0.5,
            "num_ctx": 4096,
            "mirostat": 0,
            "stop": [", and"],
            "num_thread": 8,
        }
        body = {"messages": USER, "options": options, "keep_alive": "5m", "stream": False}
        whole = (await client.post("/api/chat", json=body)).json()
        assert whole["message"]["content"] == '{"a": 1}' and whole["done_reason"] == "stop"
        params = seen[0][0]
        assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 7, 0.1)
        assert (params.seed, params.max_tokens) == (3, 50)
        assert (params.repetition_penalty, params.presence_penalty) == (1.5, 0.5)
        for format in ("json", PARAMETERS):
            whole = (await client.post("/api/chat", json={**body, "format": format})).json()
            assert whole["message"]["content"] == '{"a": 1}'
        assert len({id(constraint) for _, constraint in seen}) == 3
        for limit in (-1, -2):
            body["options"] = {"num_predict": limit}
            assert (await client.post("/api/chat", json=body)).status_code == 200
            assert seen[-1][0].max_tokens is None


async def test_a_preamble_is_no_part_of_a_format(client_for: Callable[..., Any]) -> None:
    preamble = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
    async with client_for(preamble + FINAL.format('{"a": 1}')) as client:
        body = {"messages": USER, "stream": False}
        free = (await client.post("/api/chat", json=body)).json()["message"]
        held = (await client.post("/api/chat", json={**body, "format": "json"})).json()["message"]
    assert free["content"] == 'I look.\n\n{"a": 1}'
    assert held["content"] == '{"a": 1}' and held["thinking"] == "I look."


async def test_log_probabilities(client_for: Callable[..., Any]) -> None:
    async with client_for(FINAL.format("Hi")) as client:
        body = {"messages": USER, "stream": False, "logprobs": True, "top_logprobs": 2}
        whole = (await client.post("/api/chat", json=body)).json()
    assert "".join(each["token"] for each in whole["logprobs"]) == "Hi"
    assert all(len(each["top_logprobs"]) == 2 for each in whole["logprobs"])


async def test_what_the_model_is(client_for: Callable[..., Any]) -> None:
    async with client_for(SAID) as client:
        (listed,) = (await client.get("/api/tags")).json()["models"]
        (loaded,) = (await client.get("/api/ps")).json()["models"]
        shown = (await client.post("/api/show", json={"model": "nano"})).json()
        version = (await client.get("/api/version")).json()["version"]
        named = (await client.post("/api/show", json={"name": "nano:latest"})).json()
    assert listed["name"] == listed["model"] == "nano" and len(listed["digest"]) == 64
    assert listed["size"] > 1e10 and listed["details"]["parameter_size"] == "20.9B"
    assert {name: loaded[name] for name in ("name", "size", "digest", "details")} == {
        name: listed[name] for name in ("name", "size", "digest", "details")
    }
    assert loaded["context_length"] == 131072 and loaded["expires_at"] > listed["modified_at"]
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    assert shown["model_info"]["gptoss.context_length"] == 131072
    assert shown == named and tuple(map(int, version.split("."))) >= (0, 9, 0)


async def test_an_empty_request_only_loads(client_for: Callable[..., Any]) -> None:
    async with client_for(SAID) as client:
        for path, body in (("/api/chat", {"messages": []}), ("/api/generate", {"prompt": ""})):
            answer = await client.post(path, json=body)
            assert answer.status_code == 200 and answer.json()["done_reason"] == "load"
        assert client.engine.submitted == []  # type: ignore[attr-defined]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("chat", {"messages": [{**USER[0], "images": ["aGk="]}]}, "messages[0].images"),
    ("generate", {"prompt": "a", "images": ["aGk="]}, "images"),
    ("generate", {"prompt": "a", "raw": True}, "raw"),
    ("generate", {"prompt": "a", "template": "{{ .Prompt }}"}, "template"),
    ("generate", {"prompt": "a", "context": [1]}, "context"),
    ("generate", {"prompt": "a", "suffix": "b"}, "suffix"),
    ("chat", {"messages": USER, "think": "sometimes"}, "think"),
    ("chat", {"messages": USER, "format": "xml"}, "format"),
    ("chat", {"messages": USER, "format": {"type": "nonsense"}}, "format"),
    ("chat", {"messages": USER, "options": {"temperature": -1}}, "options.temperature"),
    ("chat", {"messages": USER, "options": {"num_predict": 0}}, "options.num_predict"),
    ("chat", {"messages": USER, "options": {"mirostat": 2}}, "options.mirostat"),
    ("chat", {"messages": USER, "options": {"stop": [""]}}, "options.stop"),
    ("chat", {"messages": [{"role": "wizard", "content": "a"}]}, "messages[0].role"),
    ("chat", {"messages": [*USER, {"role": "tool", "content": "8"}]}, "messages[1]"),
    ("chat", {"messages": USER, "tools": [{"type": "function", "function": {}}]}, "name"),
    ("chat", {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "tool_calls[0].function"),
]


@pytest.mark.parametrize(("path", "body", "named"), REFUSED)
async def test_refusals_have_ollamas_form(
    client_for: Callable[..., Any], path: str, body: dict[str, Any], named: str
) -> None:
    async with client_for(SAID) as client:
        answer = await client.post(f"/api/{path}", json=body)
    assert answer.status_code == 400, answer.text
    told = answer.json()
    assert set(told) == {"error"} and named in told["error"]


async def test_strict_names_and_unknown_paths(client_for: Callable[..., Any]) -> None:
    settings = Settings(model_name="nano", strict_model_names=True)
    async with client_for(SAID, settings=settings) as client:
        for path in ("/api/chat", "/api/show"):
            answer = await client.post(path, json={"model": "llama3", "messages": USER})
            assert answer.status_code == 404 and "llama3" in answer.json()["error"]
        tagged = {"model": "nano:latest", "messages": USER}
        assert (await client.post("/api/chat", json=tagged)).status_code == 200
        assert set((await client.post("/api/pull", json={})).json()) == {"error"}


async def test_an_error_in_the_middle_is_a_line(client_for: Callable[..., Any]) -> None:
    async with client_for([]) as client:
        answer = await client.post("/api/chat", json={"messages": USER})
    assert answer.status_code >= 400 and set(answer.json()) == {"error"}


async def test_hosted_tools_that_are_not_here_are_named(client_for: Callable[..., Any]) -> None:
    async with client_for(SAID) as client:
        tools = [ADD, {"type": "web_search"}]
        said = lines(await client.post("/api/chat", json={"messages": USER, "tools": tools}))
    assert said[-1]["x-ossia"] == {"unavailable_tools": ["web_search"]}
