"""/health, /ready, /v1/models, /tokenize, /detokenize, and what /openapi.json says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from ossia import __version__
from ossia.engine import Engine
from ossia.llm import LLM
from ossia.server import Settings, create_app
from ossia.server.access import secret_digest
from ossia.server.service import Service
from ossia.server.settings import ApiKey
from ossia.tokenizer import Tokenizer

SAYS = "<|channel|>final<|message|>Hi<|return|>"
JSON = {"content-type": "application/json"}
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_states(client_for: Any) -> None:
    async with client_for(SAYS) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        assert (await client.get("/ready")).json() == {"status": "ready"}
        assert (await client.get("/version")).json() == {"version": __version__}


async def test_an_engine_that_failed(client_for: Any, caplog: Any) -> None:
    async with client_for(SAYS) as client:

        def step() -> None:
            raise RuntimeError("no memory")

        client.engine.step = step
        chat = {"messages": [{"role": "user", "content": "Hi"}]}
        for _ in range(2):
            assert (await client.post("/v1/chat/completions", json=chat)).status_code == 503
        health = await client.get("/health")
        assert health.status_code == 503 and "no memory" in health.json()["error"]
        assert (await client.get("/ready")).status_code == 503
    assert "the engine failed" in caplog.text


async def test_models(client_for: Any) -> None:
    async with client_for(SAYS, settings=Settings(model_name="openai/gpt-oss-20b")) as client:
        listed = (await client.get("/v1/models")).json()
        assert listed["object"] == "list" and [m["id"] for m in listed["data"]] == [
            "openai/gpt-oss-20b"
        ]
        (model,) = listed["data"]
        assert (
            model["object"] == "model"
            and isinstance(model["created"], int)
            and model["max_model_len"] == 131072
        )
        assert (await client.get("/v1/models/openai/gpt-oss-20b")).json() == model
        missing = await client.get("/v1/models/gpt-9")
        assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


async def test_models_have_what_one_request_can_have(llm: LLM) -> None:
    """The memory for keys and values may hold less than the model's context."""
    engine = Engine(llm.model, kv_memory=1 << 20)
    app = create_app(engine, llm.tokenizer, Settings())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            (model,) = (await client.get("/v1/models")).json()["data"]
            most = model["max_model_len"]
            assert most < llm.model.config.max_context_length
            ids = [1] * (most - 1)
            body = {"prompt": ids, "max_tokens": 50, "temperature": 0}
            answer = (await client.post("/v1/completions", json=body)).json()
            assert answer["usage"]["total_tokens"] == most
            refused = await client.post("/v1/completions", json={"prompt": [*ids, 1]})
            assert f"maximum context length is {most} tokens" in refused.json()["error"]["message"]
            assert most == engine.longest


@pytest.mark.parametrize(
    "text", ["", "What is 37 + 48?", "é 語 \U0001f600", "<|start|>user", "\ud83d\ude00 \udc00"]
)
async def test_text_to_tokens_and_back(client_for: Any, tokenizer: Tokenizer, text: str) -> None:
    async with client_for(SAYS) as client:
        sent = json.dumps({"prompt": text})  # as ASCII: what is no text can be sent so
        tokens = (await client.post("/tokenize", content=sent, headers=JSON)).json()
        assert tokens["tokens"] == tokenizer.encode(text) and tokens["count"] == len(
            tokens["tokens"]
        )
        assert tokens["token_strs"] is None and tokens["max_model_len"] == 131072
        back = (await client.post("/detokenize", json={"tokens": tokens["tokens"]})).json()
        assert back == {"prompt": tokenizer.decode(tokens["tokens"])}


async def test_names_of_special_tokens(client_for: Any, tokenizer: Tokenizer) -> None:
    async with client_for(SAYS) as client:
        asked = {"prompt": "<|start|>user", "parse_special": True, "return_token_strs": True}
        tokens = (await client.post("/tokenize", json=asked)).json()
    assert tokens["tokens"][0] == tokenizer.special("<|start|>")
    assert tokens["token_strs"] == ["<|start|>", "user"]


async def test_a_conversation_to_what_its_answer_starts_from(
    client_for: Any, tokenizer: Tokenizer
) -> None:
    function = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}
    chat = {
        "messages": [
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": "Hi"},
        ],
        "tools": [{"type": "function", "function": function}],
        "reasoning_effort": "high",
    }
    async with client_for(SAYS) as client:
        tokens = (await client.post("/tokenize", json=chat)).json()["tokens"]
        shorter = await client.post("/tokenize", json=chat | {"add_generation_prompt": False})
        assert shorter.status_code == 200, shorter.text
        without = shorter.json()["tokens"]
        answer = await client.post("/v1/chat/completions", json=chat)
        assert client.engine.submitted == [tokens]
        assert answer.json()["usage"]["prompt_tokens"] == len(tokens)
    text = tokenizer.decode(tokens)
    assert "get_weather" in text and "Reasoning: high" in text
    assert text == tokenizer.decode(without) + "<|start|>assistant"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "prompt"),
        ("/tokenize", {"messages": [{"role": "user", "content": "b"}, {"role": "x"}]},
            "messages[1].role"),
        ("/tokenize", {"messages": [{"role": "user", "content": "b"}],
            "continue_final_message": True},
         "continue_final_message"),
        ("/detokenize", {}, "tokens"), ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens[1]"),
        ("/detokenize", {"tokens": [999999]}, "tokens"),
        ("/detokenize", {"tokens": [True]}, "tokens[0]"),
        ("/detokenize", {"tokens": [10**30]}, "tokens"),
    ],
)  # fmt: skip
async def test_what_makes_no_sense(
    client_for: Any, path: str, body: dict[str, Any], param: str
) -> None:
    async with client_for(SAYS) as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'"\xff"',
        b"null",
        b"[]",
        b"1",
        b'{"prompt": ' + b"9" * 5000 + b"}",
    ],
)
async def test_bodies_that_are_none(client_for: Any, body: bytes) -> None:
    async with client_for(SAYS) as client:
        for path in (
            "/tokenize",
            "/v1/chat/completions",
            "/v1/responses",
            "/v1/messages",
            "/v1/completions",
        ):
            answer = await client.post(path, content=body, headers=JSON)
            assert answer.status_code == 400 and answer.json()["error"]["message"], (
                path,
                answer.text,
            )
        assert (
            await client.post("/tokenize", content=b"{}", headers={"content-type": "text/plain"})
        ).status_code == 400


async def test_other_models_are_refused_if_names_are_strict(client_for: Any) -> None:
    async with client_for(
        SAYS, settings=Settings(model_name="nano", strict_model_names=True)
    ) as client:
        for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
            assert (await client.post(path, json=body | {"model": "nano"})).status_code == 200
            assert (await client.post(path, json=body | {"model": "gpt-9"})).status_code == 404


async def test_every_operation_documents_its_statuses(client_for: Any) -> None:
    async with client_for(SAYS) as client:
        document = (await client.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            assert {
                "400",
                "401",
                "403",
                "404",
                "405",
                "413",
                "429",
                "500",
                "503",
            } <= responses.keys(), (path, method)
            assert "422" not in responses and "security" not in operation
    for path in (
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/completions",
        "/tokenize",
        "/metrics",
    ):
        assert path in document["paths"]


async def test_keys_are_documented_where_there_are_any(client_for: Any) -> None:
    keys = (ApiKey("a", secret_digest("a")),)
    async with client_for(SAYS, settings=Settings(keys=keys)) as client:
        document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"].keys() == {"bearer", "x-api-key"}
    assert (
        document["paths"]["/v1/models"]["get"]["security"]
        and "security" not in document["paths"]["/health"]["get"]
    )


async def test_unknown_paths_and_methods(client_for: Any) -> None:
    async with client_for(SAYS) as client:
        missing, wrong = await client.get("/v1/nowhere"), await client.get("/v1/chat/completions")
        assert missing.status_code == 404 and missing.json()["error"]["type"] == "not_found_error"
        assert wrong.status_code == 405 and wrong.headers["allow"] == "POST"
        assert wrong.json()["error"]["type"] == "invalid_request_error"
        anthropic = (await client.get("/v1/messages")).json()
        assert (
            anthropic["type"] == "error" and anthropic["error"]["type"] == "invalid_request_error"
        )
        ollama = await client.get("/api/chat")
        assert ollama.json() == {"error": "/api/chat takes POST, not GET"}
        pulled = (await client.post("/api/pull", json={"model": "nano"})).json()
        assert pulled == {"error": "/api/pull is not here; GET /openapi.json lists what is"}
        image = (await client.post("/v1/images/generations", json={})).json()["error"]
        assert image["message"].startswith("/v1/images/generations is not here")
        long = await client.get("/v1/" + "a" * 5000)
        assert long.status_code == 404 and len(long.content) < 400
        assert (await client.get("/docs")).status_code == 404
        assert (await client.get("/tokenize/")).status_code == 404  # and no redirect


async def test_half_a_character_is_no_500(client_for: Any) -> None:
    """JSON can name surrogates alone, which no UTF-8 can; whatever repeats them must not fail."""
    lone, user = "\ud83d", {"role": "user", "content": "\udc00"}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"model": lone, "messages": [user], "metadata": {lone: lone}}),
        ("/v1/chat/completions", {"model": lone, "messages": [user], "stream": True}),
        (
            "/v1/responses",
            {"model": lone, "input": lone, "instructions": lone, "metadata": {lone: lone}},
        ),
        ("/v1/responses", {"model": lone, "input": lone, "stream": True, "user": lone}),
        ("/v1/responses", {"previous_response_id": lone, "input": "a"}),
        ("/v1/messages", {"model": lone, "messages": [user], "max_tokens": 100}),
        ("/v1/completions", {"model": lone, "prompt": lone, "echo": True, "max_tokens": 5}),
        ("/v1/conversations", {"metadata": {lone: lone}}),
        ("/tokenize", {"prompt": lone, "model": lone}),
        ("/detokenize", {"tokens": [], lone: lone}),
    ]
    async with client_for(SAYS) as client:
        for path, body in bodies:
            answer = await client.post(path, content=json.dumps(body), headers=JSON)
            assert answer.status_code < 500 and "server_error" not in answer.text, (
                path,
                body,
                answer.text[-400:],
            )


@pytest.mark.parametrize(
    "path",
    ["/v1/embeddings", "/v1/rerank", "/v2/rerank", "/rerank", "/api/embed", "/api/embeddings"],
)
async def test_vectors_are_refused_in_words(client_for: Any, path: str) -> None:
    async with client_for(SAYS) as client:
        answer = await client.post(path, json={"model": "nano", "input": "a"})
    error = answer.json()["error"]
    text = error if path.startswith("/api/") else error["message"]
    assert answer.status_code == 404 and "neither embeddings nor rankings" in text and path in text
    assert path.startswith("/api/") or (error["type"], error["code"]) == (
        "not_found_error", "not_supported",
    )  # fmt: skip


async def test_what_clients_ask_of_a_tokenizer(client_for: Any, tokenizer: Tokenizer) -> None:
    async with client_for(SAYS) as client:
        info = (await client.get("/tokenizer_info")).json()
        named = info["eos_token"]
        wish = {"prompt": named, "parse_special": True}
        ids = (await client.post("/tokenize", json=wish)).json()["tokens"]
    assert ids == [tokenizer.special("<|return|>")] and info["chat_template"] is None
    assert (info["bos_token"], info["vocab_size"]) == (None, tokenizer.vocab_size)
    assert info["added_tokens_decoder"][str(ids[0])]["content"] == named


async def test_a_conversation_is_tokenized_without_grammars(
    client_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that no answer would fit behind: nothing is asked of the model."""
    parameters = {"type": "object", "properties": {"only_here": {"type": "string"}}}
    chat = {
        "messages": [{"role": "user", "content": "word " * 500}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}],
    }
    async with client_for("x") as client:
        config = client.engine.config
        client.engine.config = replace(config, max_context_length=100)
        monkeypatch.setattr(Service, "grammar", None)
        answer = await client.post("/tokenize", json=chat)
    assert answer.status_code == 200, answer.text
    assert answer.json()["count"] > 500 and answer.json()["max_model_len"] == 100
