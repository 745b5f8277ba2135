"""What agents send, on every API that has it: schemas with an odd keyword, results without an id,
efforts in a system message, prompts that are too long, half a character, what another server
sealed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from ossia.server import Settings
from ossia.server.sealing import Sealer
from ossia.server.wire.fields import plain_json

JSON = {"Content-Type": "application/json"}
FINAL = "<|channel|>final<|message|>Fine.<|return|>"
CALL = "<|channel|>commentary to=functions.w <|constrain|>json<|message|>{}<|call|>"
LOOKAHEAD = r"^(?!x)\w+$"
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Rome", "Oslo"]},
        "note": {"type": "string", "pattern": LOOKAHEAD},
    },
    "required": ["city"],
}
BAD = '{"city":"Rome","note":"xyz"}'
GOOD = '{"city":"Rome","note":"abc"}'


@dataclass(frozen=True)
class Api:
    """How an API has the parts of these requests, and what its answers say."""

    path: str
    items: str  # the field of the conversation
    calls: Callable[[dict[str, Any]], list[str]]
    more: tuple[tuple[str, Any], ...] = ()

    def body(self, items: list[Any], **more: Any) -> dict[str, Any]:
        return {self.items: items, **dict(self.more), **more}

    def tool(self, **facts: Any) -> dict[str, Any]:
        inner = {"name": "w", "description": "", "parameters": SCHEMA, **facts}
        if self.items == "messages" and not self.more:
            return {"type": "function", "function": inner}
        if self.more:
            inner["input_schema"] = inner.pop("parameters")
            return inner
        return {"type": "function", **inner}


def chat_calls(body: dict[str, Any]) -> list[str]:
    calls = body["choices"][0]["message"].get("tool_calls") or []
    return [call["function"]["arguments"] for call in calls]


def responses_calls(body: dict[str, Any]) -> list[str]:
    return [item["arguments"] for item in body["output"] if item["type"] == "function_call"]


def messages_calls(body: dict[str, Any]) -> list[str]:
    blocks = [block for block in body["content"] if block["type"] == "tool_use"]
    return [json.dumps(block["input"], separators=(",", ":")) for block in blocks]


APIS = {
    "chat": Api("/v1/chat/completions", "messages", chat_calls),
    "responses": Api("/v1/responses", "input", responses_calls),
    "messages": Api("/v1/messages", "messages", messages_calls, (("max_tokens", 200),)),
}
USER = {"role": "user", "content": "Hello"}
every_api = pytest.mark.parametrize("api", APIS.values(), ids=list(APIS))
pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def asked(client: Any) -> str:
    """The last prompt."""
    return str(client.app.state.service.tokenizer.decode(client.engine.submitted[-1]))


async def post(client: Any, api: Api, body: dict[str, Any], status: int = 200) -> Any:
    answer = await client.post(api.path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json() if status == 200 else answer.json()["error"]


# ---- schemas with an odd keyword ----


@every_api
async def test_what_is_relaxed_is_said(
    client_for: Callable[..., Any], api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"w_{api.items}_{len(api.more)}"
    body = api.body([USER], tools=[api.tool(name=name)])
    note = {
        "schema": f"tool {name!r}: parameters",
        "keyword": "#/properties/note/pattern",
        "reason": f"cannot be enforced: the pattern {LOOKAHEAD!r} has a group (?!...), which is "
        "not supported",
    }
    with caplog.at_level(logging.DEBUG, "ossia.tools"):
        async with client_for(FINAL) as client:
            assert (await post(client, api, body))["x-ossia"] == {"relaxed": [note]}
            await post(client, api, body | {"tool_choice": None})
            stream = (await client.post(api.path, json=body | {"stream": True})).text
            assert json.dumps(note, separators=(",", ":"), ensure_ascii=False) in stream
            plain = await post(client, api, api.body([USER]))
            assert "x-ossia" not in plain
            strict = api.body([USER], tools=[api.tool(name=name, strict=True)])
            error = await post(client, api, strict, 400)
            assert "#/properties/note/pattern" in error["message"]
    said = [each for each in caplog.records if name in each.getMessage()]
    assert [each.levelname for each in said] == ["DEBUG"], "once, and not where others read it"
    assert sum(line.startswith("relaxed: 1 keyword") for line in caplog.messages) == 1


@every_api
async def test_a_call_that_fails_a_relaxed_keyword_goes_back(
    client_for: Callable[..., Any], api: Api
) -> None:
    body = api.body([USER], tools=[api.tool()])
    says = [CALL.replace("{}", BAD), CALL.replace("{}", GOOD)]
    async with client_for(*says) as client:
        assert api.calls(await post(client, api, body)) == [GOOD]
        told = asked(client)
        assert BAD in told and "functions.w to=assistant" in told
        assert "error: the arguments do not fit the tool's schema: $.note: 'xyz' does not" in told
    async with client_for(*[CALL.replace("{}", BAD)] * 3) as client:
        assert api.calls(await post(client, api, body)) == [BAD], "passed on as it is"
        assert len(client.engine.submitted) == 3, "after two retries"
    async with client_for(*says, settings=Settings(retries=0)) as client:
        assert api.calls(await post(client, api, body)) == [BAD]


@every_api
async def test_a_call_that_is_checked_streams_in_one_piece(
    client_for: Callable[..., Any], api: Api
) -> None:
    body = api.body([USER], tools=[api.tool()], stream=True)
    async with client_for(CALL.replace("{}", BAD), CALL.replace("{}", GOOD)) as client:
        client.engine.enforces_constraints = True
        text = (await client.post(api.path, json=body)).text
        assert "xyz" not in text and text.count("abc") >= 1


# ---- results without an id ----


def conversation(api: Api, id: str | None, calls: int = 1) -> list[Any]:
    """Calls of `w`, and one result. `id` None: the result does not say whose it is."""
    ids = [f"call_{n}" for n in range(calls)]
    if api.items == "input":
        made = [
            {"type": "function_call", "call_id": i, "name": "w", "arguments": "{}"} for i in ids
        ]
        result = {"type": "function_call_output", "output": "sunny"}
        return [USER, *made, result | ({"call_id": id} if id else {})]
    if api.more:
        blocks = [{"type": "tool_use", "id": i, "name": "w", "input": {}} for i in ids]
        result = {"type": "tool_result", "content": "sunny"}
        results = [result | ({"tool_use_id": id} if id else {})]
        return [
            USER,
            {"role": "assistant", "content": blocks},
            {"role": "user", "content": results},
        ]
    listed = [
        {"id": i, "type": "function", "function": {"name": "w", "arguments": "{}"}} for i in ids
    ]
    said = {"role": "assistant", "content": None, "tool_calls": listed}
    result = {"role": "tool", "content": "sunny"}
    return [USER, said, result | ({"tool_call_id": id} if id else {})]


@every_api
async def test_a_result_without_an_id_is_the_open_call_s(
    client_for: Callable[..., Any], api: Api
) -> None:
    told = "<|start|>functions.w to=assistant<|channel|>commentary<|message|>sunny<|end|>"
    async with client_for(FINAL) as client:
        await post(client, api, api.body(conversation(api, None)))
        assert told in asked(client)
        await post(client, api, api.body(conversation(api, "call_0")))
        assert told in asked(client)
        await post(client, api, api.body(conversation(api, None, calls=2)), 400)
        await post(client, api, api.body(conversation(api, "call_9")), 400)
        both = conversation(api, "call_0", calls=2)
        await post(client, api, api.body([*both, conversation(api, None)[-1]]))
        assert asked(client).count(told) == 2


# ---- efforts, identities ----


def with_system(api: Api, text: str) -> dict[str, Any]:
    if api.more:
        return api.body([USER], system=text)
    return api.body([{"role": "system", "content": text}, USER])


@every_api
async def test_an_effort_in_a_system_message(client_for: Callable[..., Any], api: Api) -> None:
    explicit = {
        "messages": {"reasoning_effort": "low"},
        "input": {"reasoning": {"effort": "low"}},
    }[api.items]
    if api.more:
        explicit = {"output_config": {"effort": "low"}}
    async with client_for(FINAL) as client:
        for text, level in (
            ("Reasoning: high", "high"),
            ("You help.\nreasoning: Low\nBe brief.", "low"),
            ("Write about Reasoning: high hopes.", "medium"),
            ("Reasoning: highest", "medium"),
        ):
            answer = await post(client, api, with_system(api, text))
            assert f"\n\nReasoning: {level}\n\n# Valid channels" in asked(client), text
            if api.items == "input":
                assert answer["reasoning"]["effort"] == level
        await post(client, api, with_system(api, "Reasoning: high") | explicit)
        assert "\n\nReasoning: low\n\n" in asked(client), "the field counts more"
    async with client_for(FINAL, settings=Settings(effort_in_system=False)) as client:
        await post(client, api, with_system(api, "Reasoning: high"))
        assert "\n\nReasoning: medium\n\n# Valid channels" in asked(client)


async def test_an_identity_in_the_variables_of_a_template(client_for: Callable[..., Any]) -> None:
    wish = {"chat_template_kwargs": {"model_identity": "You are Bob."}}
    async with client_for(FINAL) as client:
        await post(client, APIS["chat"], APIS["chat"].body([USER]) | wish)
        assert asked(client).startswith("<|start|>system<|message|>You are Bob.\nKnowledge")
        wish["chat_template_kwargs"]["model_identity"] = 5  # type: ignore[assignment]
        await post(client, APIS["chat"], APIS["chat"].body([USER]) | wish, 400)


# ---- what does not fit ----


async def test_overflow_is_said_in_the_words_that_clients_know(
    client_for: Callable[..., Any],
) -> None:
    long = [{"role": "user", "content": "x " * 150_000}]
    async with client_for(FINAL) as client:
        bodies: dict[str, tuple[str, dict[str, Any]]] = {
            name: (api.path, api.body(long)) for name, api in APIS.items()
        }
        bodies["completions"] = ("/v1/completions", {"prompt": long[0]["content"]})
        for name, (path, body) in bodies.items():
            answer = await client.post(path, json=body)
            assert answer.status_code == 400
            error = answer.json()["error"]
            if name == "messages":
                found = error["message"].split()
                assert error["message"].startswith("prompt is too long: ")
                assert found[5:] == ["tokens", ">", "131072", "maximum"] and int(found[4]) > 131072
            else:
                assert "maximum context length is 131072 tokens" in error["message"]
                assert error["code"] == "context_length_exceeded"


async def test_a_limit_is_no_reservation(client_for: Callable[..., Any]) -> None:
    async with client_for(FINAL) as client:
        for name, api in APIS.items():
            limit = "max_output_tokens" if name == "responses" else "max_tokens"
            for most in (65535, 10**8, -1):
                answer = await post(client, api, api.body([USER]) | {limit: most})
        assert answer["stop_reason"] == "end_turn"
        body = {"prompt": "x", "max_tokens": -1}
        answer = (await client.post("/v1/completions", json=body)).json()
        assert answer["choices"][0]["finish_reason"] == "stop"
        response = await post(client, APIS["responses"], {"input": "x", "max_output_tokens": -1})
        assert response["max_output_tokens"] is None


async def test_a_least_length_reserves_nothing_either(client_for: Callable[..., Any]) -> None:
    """What there is room for may be less than both limits."""
    async with client_for(FINAL) as client:
        client.engine.config = replace(client.engine.config, max_context_length=400)
        for name, api in APIS.items():
            limit = "max_output_tokens" if name == "responses" else "max_tokens"
            await post(client, api, api.body([USER]) | {limit: 5000, "min_tokens": 5000})
        body = {"prompt": "x", "max_tokens": 5000, "min_tokens": 5000}
        assert (await client.post("/v1/completions", json=body)).status_code == 200


async def test_an_answer_cut_before_its_text_began_is_content(
    client_for: Callable[..., Any],
) -> None:
    """The header of the answer has no <|message|>, and the tokens run out."""
    cut = (
        "<|channel|>analysis<|message|>Why.<|end|><|start|>assistant<|channel|>final The answer is"
    )
    async with client_for(cut) as client:
        answer = await post(client, APIS["chat"], APIS["chat"].body([USER]))
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "length"
        assert choice["message"]["content"] == "The answer is"
        assert choice["message"]["reasoning"] == "Why."
        answer = await post(client, APIS["responses"], APIS["responses"].body([USER]))
        assert answer["output"][-1]["content"][0]["text"] == "The answer is"
        answer = await post(client, APIS["messages"], APIS["messages"].body([USER]))
        assert answer["content"] == [{"type": "text", "text": "The answer is"}]


# ---- half a character, foreign seals ----


def test_halves_of_characters_in_bodies() -> None:
    assert plain_json(
        rb'{"\ud83d": ["\ude00 x", "\ud83d\ude00", "\\ud83d", {"a": "\ud83d\u2026"}]}'
    ) == {"\ufffd": ["\ufffd x", "\U0001f600", "\\ud83d", {"a": "\ufffd\u2026"}]}
    assert plain_json(b'"\xed\xa0\xbd"') == "\ufffd", "written as bytes by careless clients"
    assert plain_json('"\U0001f600"'.encode("utf-16")) == "\U0001f600"
    for bad in (b'"\xff"', b'"\\ud83', b"NaN", b"1e999"):
        with pytest.raises(json.JSONDecodeError):
            plain_json(bad)


async def test_text_to_tokens_replaces_halves_too(client_for: Callable[..., Any]) -> None:
    async with client_for(FINAL) as client:
        answer = await client.post("/tokenize", content=r'{"prompt": "cut \ud83d"}', headers=JSON)
        whole = await client.post("/tokenize", json={"prompt": "cut \ufffd"})
        assert answer.status_code == 200 and answer.json() == whole.json()


async def test_what_another_server_sealed_is_left_out(
    client_for: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    sealed = Sealer(b"another").seal("a thought")
    blocks = [
        {"type": "thinking", "thinking": "", "signature": sealed},
        {"type": "redacted_thinking", "data": "nonsense"},
        {"type": "text", "text": "An answer."},
    ]
    said = [USER, {"role": "assistant", "content": blocks}, USER]
    items = [
        USER,
        {"type": "reasoning", "summary": [], "encrypted_content": sealed},
        {"type": "reasoning", "summary": [], "encrypted_content": "nonsense"},
        {"role": "assistant", "content": "An answer."},
        USER,
    ]
    async with client_for(FINAL) as client:
        for name, given in (("messages", said), ("responses", items)):
            caplog.clear()
            await post(client, APIS[name], APIS[name].body(given))
            assert "An answer." in asked(client) and "thought" not in asked(client)
            lines = [line for line in caplog.messages if line.startswith("sealed reasoning")]
            assert len(lines) == 1 and "2 of the request's" in lines[0]


async def test_what_is_sealed_is_opened_once_however_much_is_left_out(
    client_for: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    opened: list[str] = []
    unseal = Sealer.open

    def counted(self: Sealer, sealed: str) -> str:
        opened.append(sealed)
        return unseal(self, sealed)

    monkeypatch.setattr(Sealer, "open", counted)
    items: list[dict[str, Any]] = []
    for n in range(20):
        thought = {"type": "reasoning", "summary": [], "encrypted_content": f"nonsense {n}"}
        items += [{"role": "user", "content": "word " * 20}, thought]
        items += [{"role": "assistant", "content": "So."}]
    async with client_for(FINAL) as client:
        client.engine.config = replace(client.engine.config, max_context_length=400)
        body = {"input": [*items, USER], "truncation": "auto"}
        await post(client, APIS["responses"], body)
        assert len(client.engine.submitted[0]) < 400
    assert len(opened) == 20
    (line,) = [line for line in caplog.messages if line.startswith("sealed reasoning")]
    assert "20 of the request's" in line


ELSEWHERE = {
    "/v1/messages": [
        {"role": "user", "content": "Look it up."},
        {
            "role": "assistant",
            "content": [
                {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
                {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
                {"type": "text", "text": "It is five."},
            ],
        },
        {"role": "user", "content": "And now?"},
    ],
    "/v1/responses": [
        {"role": "user", "content": "Look it up."},
        {"type": "mcp_list_tools", "server_label": "x", "tools": []},
        {"type": "mcp_call", "id": "mcp_1", "name": "x", "arguments": "{}", "server_label": "x"},
        {"type": "file_search_call", "id": "fs_1", "queries": [], "status": "completed"},
        {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "x"},
        {"role": "assistant", "content": "It is five."},
        {"role": "user", "content": "And now?"},
    ],
}


@pytest.mark.anyio
@pytest.mark.parametrize("path", ELSEWHERE)
async def test_what_another_servers_tools_did_ends_no_session(
    path: str, client_for: Callable[..., Any], tokenizer: Any
) -> None:
    async with client_for(FINAL) as client:
        field = "messages" if path == "/v1/messages" else "input"
        body = {field: ELSEWHERE[path], "max_tokens": 9, "max_output_tokens": 9}
        response = await client.post(path, json=body)
        assert response.status_code == 200, response.text
        prompt = tokenizer.decode(client.engine.submitted[-1])
    assert "<|channel|>final<|message|>It is five.<|end|><|start|>user" in prompt
    assert "And now?" in prompt
