"""What of a Chat Completions request reaches the model, and what is refused, naming the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ossia.engine.request import SamplingParams
from ossia.harmony import Message, Role, body_format
from ossia.server import Settings
from ossia.server.access import Caller
from ossia.server.chat.messages import harmony_messages
from ossia.server.chat.request import asks_of, wanted_format
from ossia.server.chat.types import ChatRequest
from ossia.server.scripted import ScriptedEngine
from ossia.server.service import Service

pytestmark = pytest.mark.anyio
PATH = "/v1/chat/completions"
USER = {"role": "user", "content": "Hello"}
FINAL = "<|channel|>final<|message|>Fine.<|return|>"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": SCHEMA},
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def service(tokenizer: Any) -> Service:
    return Service(ScriptedEngine([[0]]), tokenizer, Settings(model_name="nano"))


def request_of(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [USER]} | fields)


def read(*messages: dict[str, Any]) -> tuple[Message, ...]:
    return harmony_messages(messages, lambda call: ())[1]


async def prompt_of(client: Any, tokenizer: Any, **body: Any) -> str:
    response = await client.post(PATH, json={"messages": [USER]} | body)
    assert response.status_code == 200, response.text
    return str(tokenizer.decode(client.engine.submitted[-1]))


# Messages


async def test_the_conversation_as_the_model_sees_it(
    client_for: Callable[..., Any], tokenizer: Any
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be "},
            {"type": "text", "text": "kind."}]},
        USER,
        {"role": "assistant", "reasoning_content": "Rome?", "content": "A moment.", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather",
                "arguments": '{"city":"Rome"}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sunny"}]},
    ]  # fmt: skip
    async with client_for(FINAL) as client:
        prompt = await prompt_of(
            client, tokenizer, messages=messages, tools=[WEATHER], reasoning_effort="high"
        )
    begin, _, rest = prompt.partition("<|start|>user")
    assert (
        "Reasoning: high" in begin
        and "Be brief.\n\nBe kind." in begin
        and "type weather = (_: {" in begin
    )
    assert rest == (
        "<|message|>Hello<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Rome?<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>A moment.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
        '{"city":"Rome"}<|call|>'
        "<|start|>functions.weather to=assistant<|channel|>commentary<|message|>sunny<|end|>"
        "<|start|>assistant"
    )


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_is_taken_back_under_every_name(name: str) -> None:
    thought, said = read({"role": "assistant", name: "Hm.", "content": "Yes."})
    assert (thought.channel, thought.text, said.channel, said.text) == (
        "analysis",
        "Hm.",
        "final",
        "Yes.",
    )


def test_reasoning_in_parts() -> None:
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Yes."}]
    thought, said = read({"role": "assistant", "content": parts})
    assert (thought.text, said.text) == ("Hm.", "Yes.")


def test_a_custom_call_and_its_result() -> None:
    calls = [
        {"id": "c1", "type": "custom", "custom": {"name": "note", "input": "milk"}},
        {"id": "c2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
    ]
    note, clock, one, two = read(
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "noted"},
        {"role": "tool", "tool_call_id": "c2", "content": None},
    )
    assert (note.recipient, note.text, note.content_type) == ("functions.note", "milk", "code")
    assert (clock.recipient, clock.content_type) == ("functions.clock", "<|constrain|>json")
    assert (one.name, one.text, two.name, two.text) == (
        "functions.note",
        "noted",
        "functions.clock",
        "",
    )


def test_the_deprecated_function_call_and_its_result() -> None:
    call, result = read(
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "clock", "arguments": "{}"},
        },
        {"role": "function", "name": "clock", "content": "noon"},
    )
    assert (call.recipient, call.text) == ("functions.clock", "{}")
    assert (result.role, result.name, result.text) == (Role.TOOL, "functions.clock", "noon")


def test_a_refusal_is_what_the_assistant_said() -> None:
    assert [
        m.text
        for m in read({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]})
    ] == ["No."]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}],
            },
            "messages[1].content[1]",
        ),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
            "messages[1].content[0]",
        ),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "poem"}]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0].text"),
        ({"role": "user", "content": ["text"]}, "messages[1].content[0]"),
        ({"role": "user", "content": 3}, "messages[1].content"),
        ({"role": "user", "content": None}, "messages[1]"),
        ({"role": "user"}, "messages[1]"),
        ({"role": "tool", "tool_call_id": "nobody", "content": "x"}, "messages[1]"),
        ({"role": "function", "content": "x"}, "messages[1].name"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages[1].audio"),
        ({"role": "assistant", "tool_calls": "x"}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": ["x"]}, "messages[1].tool_calls[0]"),
        (
            {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]},
            "messages[1].tool_calls[0].custom",
        ),
        (
            {
                "role": "assistant",
                "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "n"}}],
            },
            "messages[1].tool_calls[0].custom.input",
        ),
        ({"role": "assistant", "tool_calls": [{"id": "c", "type": "function"}]}, "messages[1]"),
        ({"role": "assistant", "content": "x", "reasoning": 4}, "messages[1]"),
    ],
)
async def test_messages_that_do_not_fit(
    client_for: Callable[..., Any], message: dict[str, Any], param: str
) -> None:
    async with client_for(FINAL) as client:
        response = await client.post(PATH, json={"messages": [USER, message]})
    error = response.json()["error"]
    assert (
        response.status_code == 400
        and error["param"] == param
        and "messages[1]" in error["message"]
    )


# The form of the answer


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, "json_object"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
                }
            },
            {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
        ),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        ),
        (
            {"guided_json": json.dumps(SCHEMA)},
            {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        ),
        ({"guided_json": SCHEMA}, {"type": "json_schema", "json_schema": {"schema": SCHEMA}}),
        ({"guided_regex": "[ab]"}, {"type": "regex", "pattern": "[ab]"}),
        ({"guided_choice": ["a.b", "c|d"]}, {"type": "regex", "pattern": r"a\.b|c\|d"}),
        (
            {"guided_grammar": 'start: "a"'},
            {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'},
        ),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, {"type": "regex", "pattern": "yes|no"}),
    ],
)
def test_formats(fields: dict[str, Any], wanted: Any) -> None:
    assert body_format(wanted_format(request_of(**fields)).wanted) == body_format(wanted)


async def test_the_model_is_told_of_a_schema(
    client_for: Callable[..., Any], tokenizer: Any
) -> None:
    wish = {
        "type": "json_schema",
        "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
    }
    async with client_for(FINAL) as client:
        prompt = await prompt_of(client, tokenizer, response_format=wish)
    assert "## place" in prompt and json.dumps(SCHEMA, separators=(",", ":")) in prompt


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": 1, "schema": {}}}},
            "response_format.json_schema.name",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "nonsense"}},
                }
            },
            "response_format",
        ),
        ({"response_format": {"type": "regex", "pattern": "("}}, "response_format"),
        ({"response_format": {"type": "regex"}}, "response_format"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"choice": "yes"}}, "structured_outputs.choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"stop": 4}, "stop"),
        ({"stop": ["a", 1]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"presence_penalty": 1e9}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 129}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 1e9}}, "logit_bias"),
        ({"seed": 1 << 70}, "seed"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"moderation": {"model": "x"}}, "moderation"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "Hello"}, "messages"),
    ],
)
async def test_wishes_that_cannot_be_met(
    client_for: Callable[..., Any], fields: dict[str, Any], param: str
) -> None:
    async with client_for(FINAL) as client:
        response = await client.post(PATH, json={"messages": [USER]} | fields)
    assert response.status_code == 400 and response.json()["error"]["param"] == param, response.text


async def test_wishes_that_change_nothing_are_taken(client_for: Callable[..., Any]) -> None:
    fields = {
        "store": True, "metadata": {"a": "b"}, "user": "me", "service_tier": "auto",
        "safety_identifier": "x",
        "prompt_cache_key": "k", "prediction": {"type": "content", "content": "x"},
        "verbosity": "low",
        "modalities": ["text"], "nobody_knows_this": {"deep": []}, "stop": None, "tools": [],
        "tool_choice": "auto",
        "logit_bias": {}, "response_format": None, "n": None, "best_of": 1, "min_tokens": 0,
        "seed": -5, "top_k": -1,
    }  # fmt: skip
    async with client_for(FINAL) as client:
        response = await client.post(PATH, json={"messages": [USER]} | fields)
    assert response.status_code == 200
    assert response.json()["service_tier"] == "default" and response.json()["metadata"] == {
        "a": "b"
    }


@pytest.mark.parametrize("depth", [70, 300, 5000])
async def test_what_is_nested_too_deeply(client_for: Callable[..., Any], depth: int) -> None:
    schema = '{"type":"object","properties":{"a":' * depth + "{}" + "}}" * depth
    wish = '{"type":"json_schema","json_schema":{"name":"n","schema":' + schema + "}}"
    body = '{"messages":[{"role":"user","content":"x"}],"response_format":' + wish + "}"
    async with client_for(FINAL) as client:
        response = await client.post(
            PATH, content=body, headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 400


async def test_half_a_character_is_replaced(client_for: Callable[..., Any]) -> None:
    bodies = [
        {"model": "\ud800"},
        {"tools": [{"type": "function", "function": {"name": "f", "description": "\udfff"}}]},
    ]
    async with client_for(FINAL) as client:
        for body in bodies:
            content = json.dumps({"messages": [USER]} | body)
            response = await client.post(
                PATH, content=content, headers={"Content-Type": "application/json"}
            )
            assert response.status_code == 200, response.text
        whole = json.dumps({"messages": [{"role": "user", "content": "🌍"}]})
        assert "\\ud83c" in whole
        response = await client.post(
            PATH, content=whole, headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 200


async def test_the_models_name(client_for: Callable[..., Any]) -> None:
    async with client_for(FINAL) as client:
        echoed = await client.post(PATH, json={"messages": [USER], "model": "gpt-4o"})
    async with client_for(
        FINAL, settings=Settings(model_name="nano", strict_model_names=True)
    ) as client:
        refused = await client.post(PATH, json={"messages": [USER], "model": "gpt-4o"})
    assert echoed.json()["model"] == "gpt-4o"
    assert refused.status_code == 404 and refused.json()["error"]["code"] == "model_not_found"


# Sampling and reasoning


async def test_sampling_params(service: Service) -> None:
    fields = {
        "temperature": 0, "top_p": 0.5, "top_k": 4, "min_p": 0.1, "seed": 7, "max_tokens": 5,
        "presence_penalty": 1,
        "frequency_penalty": -1, "repetition_penalty": 1.1, "logit_bias": {"3": -100},
        "logprobs": True,
        "top_logprobs": 2, "stop": ["a", "b"], "n": 2, "cache_salt": "mine",
    }  # fmt: skip
    asks, form = await asks_of(request_of(**fields), service, Caller())
    assert asks[0].params == SamplingParams(
        temperature=0, top_p=0.5, top_k=4, min_p=0.1, seed=7, max_tokens=5, presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.1, logit_bias={3: -100}, top_logprobs=2,
    )  # fmt: skip
    assert [ask.stream for ask in asks] == [0, 1] and asks[0].samples is asks[1].samples
    assert (
        asks[0].stop == ("a", "b")
        and asks[0].logprobs
        and form.logprobs
        and asks[0].cache_salt == "mine"
    )


async def test_what_a_request_does_not_say_is_the_servers_to_say(tokenizer: Any) -> None:
    settings = Settings(sampling=SamplingParams(temperature=0.3, max_tokens=9), effort="high")
    service = Service(ScriptedEngine([[0]]), tokenizer, settings)
    (ask,), _ = await asks_of(request_of(top_p=0.9), service, Caller())
    assert ask.params == SamplingParams(temperature=0.3, max_tokens=9, top_p=0.9)
    assert ask.conversation.messages[0].content.effort == "high"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "level", "budget"),
    [
        ({}, "medium", None),
        ({"reasoning_effort": "low"}, "low", None),
        ({"reasoning": {"effort": "xhigh"}}, "high", None),
        ({"chat_template_kwargs": {"reasoning_effort": "high"}}, "high", None),
        ({"reasoning_effort": "none"}, "low", 0),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "low", 0),
        ({"reasoning": {"enabled": False}}, "low", 0),
        ({"reasoning": {"max_tokens": 50}}, "medium", 50),
        ({"thinking_token_budget": 7, "reasoning_effort": "high"}, "high", 7),
    ],
)
async def test_reasoning_effort(
    service: Service, fields: dict[str, Any], level: str, budget: int | None
) -> None:
    (ask,), _ = await asks_of(request_of(**fields), service, Caller())
    assert ask.conversation.messages[0].content.effort == level  # type: ignore[union-attr]
    assert ask.grammar is not None and ask.grammar.first is not None
    assert ask.grammar.first.reasoning_budget == budget


async def test_the_route_is_documented(client_for: Callable[..., Any]) -> None:
    async with client_for(FINAL) as client:
        route = (await client.get("/openapi.json")).json()["paths"][PATH]["post"]
    assert {"200", "400", "401", "404", "413", "429", "500", "503"} <= set(route["responses"])
    assert route["requestBody"]["content"]["application/json"]["schema"]
