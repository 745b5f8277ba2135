"""What every request passes: keys, sizes, queue, limits, request ids, the log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from ossia.errors import CheckpointError, OssiaError, RequestError
from ossia.llm import LLM
from ossia.server import Settings, create_app, gate, logs
from ossia.server.access import secret_digest
from ossia.server.settings import ApiKey, Limits
from ossia.tokenizer import Tokenizer

SAYS = "<|channel|>final<|message|>Hi there<|return|>"
CHAT = {"model": "nano", "messages": [{"role": "user", "content": "a very private question"}]}
KEYS = (
    ApiKey("alice", secret_digest("key-a"), Limits(concurrent=1)),
    ApiKey("bob", secret_digest("key-b"), Limits(tokens_per_minute=50)),
)
ALICE, BOB = {"Authorization": "Bearer key-a"}, {"x-api-key": "key-b"}


JSON = {"content-type": "application/json"}
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def settings(**more: Any) -> Settings:
    return Settings(model_name="nano", **more)


async def test_keys(client_for: Any) -> None:
    async with client_for(SAYS, settings=settings(keys=KEYS)) as client:
        for path in ("/v1/models", "/metrics", "/v1/nowhere"):
            refused = await client.get(path)
            assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith(
                "Bearer"
            )
            assert refused.json()["error"]["code"] == "invalid_api_key"
        refused = await client.post("/v1/messages", json={}, headers={"x-api-key": "wrong"})
        assert (
            refused.status_code == 401 and refused.json()["error"]["type"] == "authentication_error"
        )
        for path in ("/", "/health", "/ready", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        assert (await client.get("/v1/models", headers=ALICE)).status_code == 200
        assert (
            await client.post("/v1/chat/completions", json=CHAT, headers=BOB)
        ).status_code == 200


@pytest.mark.parametrize(
    "value", [b"Bearer \xff\xfe", b"\x80", b"Bearer " + b"x" * 10_000, b"", b"Bearer a b c"]
)
async def test_a_malformed_header_is_no_500(client_for: Any, value: bytes) -> None:
    async with client_for(SAYS, settings=settings(keys=KEYS)) as client:
        for name in ("authorization", "x-api-key"):
            assert (await client.get("/v1/models", headers={name: value})).status_code == 401


async def test_bodies_that_are_too_large(client_for: Any) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'{"x": "'
        yield b"x" * 2000
        yield b'"}'

    async with client_for(SAYS, settings=settings(max_body=1000)) as client:
        for path in (
            "/v1/chat/completions",
            "/v1/responses",
            "/v1/messages",
            "/tokenize",
            "/v1/completions",
        ):
            declared = await client.post(
                path, content=b"x" * 1001, headers={"content-type": "application/json"}
            )
            chunked = await client.post(
                path, content=parts(), headers={"content-type": "application/json"}
            )
            assert "content-length" not in chunked.request.headers
            assert (declared.status_code, chunked.status_code) == (413, 413), path
        odd = await client.post("/tokenize", content=b"{}", headers={"content-length": "two"})
        assert odd.status_code == 400
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_request_ids(client_for: Any) -> None:
    async with client_for(SAYS) as client:
        made = [
            (await client.get(path)).headers["x-request-id"]
            for path in ("/health", "/nowhere", "/health")
        ]
        assert len(set(made)) == 3 and all(id.startswith("req_") for id in made)
        kept = await client.get("/health", headers={"x-request-id": "mine-1"})
        assert kept.headers["x-request-id"] == "mine-1"
        replaced = await client.get("/health", headers={"x-request-id": "a\tb c"})
        assert replaced.headers["x-request-id"].startswith("req_")
        both = await client.post("/v1/messages", json={})
        assert (
            both.status_code == 400 and both.headers["request-id"] == both.headers["x-request-id"]
        )


async def test_one_request_at_a_time(client_for: Any) -> None:
    """Counted until the streamed body ends, and for its caller only."""
    async with client_for(SAYS, settings=settings(keys=KEYS)) as client:
        client.engine.delay = 0.05
        first = asyncio.create_task(
            client.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers=ALICE)
        )
        await until(lambda: client.app.state.access.running == 1)
        refused = await client.post("/v1/chat/completions", json=CHAT, headers=ALICE)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert (
            await client.post("/v1/chat/completions", json=CHAT, headers=BOB)
        ).status_code == 200
        assert (
            await client.get("/v1/models", headers=ALICE)
        ).status_code == 200  # looking is not counted
        answer = await first
        assert answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n")
        assert answer.headers["x-ratelimit-limit-requests"] == "1"
        assert client.app.state.access.running == 0
        assert (
            await client.post("/v1/chat/completions", json=CHAT, headers=ALICE)
        ).status_code == 200


async def test_tokens_per_minute(client_for: Any) -> None:
    async with client_for(SAYS, settings=settings(keys=KEYS)) as client:
        first = await client.post("/v1/chat/completions", json=CHAT, headers=BOB)
        assert first.headers["x-ratelimit-limit-tokens"] == "50"
        assert first.json()["usage"]["total_tokens"] > 50
        refused = await client.post("/v1/responses", json={"input": "Hi"}, headers=BOB)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
        assert (
            await client.post("/v1/chat/completions", json=CHAT, headers=ALICE)
        ).status_code == 200


async def test_an_answer_that_is_broken_off_is_paid_for(client_for: Any) -> None:
    limits = Limits(tokens_per_minute=50)
    async with client_for(SAYS, settings=settings(limits=limits)) as client:
        client.engine.delay = 0.1
        task = asyncio.create_task(
            client.post("/v1/chat/completions", json=CHAT | {"stream": True})
        )
        await until(lambda: client.app.state.access.running == 1)
        await asyncio.sleep(0.25)
        task.cancel()
        await until(lambda: client.app.state.access.running == 0)
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 429


async def test_the_queue_is_bounded(client_for: Any) -> None:
    async with client_for(SAYS, settings=settings(max_queue=3)) as client:
        client.engine.delay = 0.05
        running = [
            asyncio.create_task(client.post("/v1/chat/completions", json=CHAT)) for _ in range(3)
        ]
        await until(lambda: client.app.state.access.running == 3)
        refused = await client.post("/v1/responses", json={"input": "Hi"})
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "queue_full"
        assert "retry-after" in refused.headers
        assert (await client.get("/v1/models")).status_code == 200
        assert (
            await client.post("/v1/responses/resp_x/cancel")
        ).status_code == 404  # not turned away
        assert [(await task).status_code for task in running] == [200] * 3
        assert client.app.state.access.running == 0


async def test_work_in_the_background_counts(client_for: Any) -> None:
    async with client_for(SAYS, settings=settings(limits=Limits(concurrent=1))) as client:
        client.engine.delay = 0.05
        begun = await client.post("/v1/responses", json={"input": "Hi", "background": True})
        assert begun.status_code == 200
        await until(lambda: client.app.state.access.running == 1)
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 429
        await until(lambda: client.app.state.access.running == 0)
        done = await client.get(f"/v1/responses/{begun.json()['id']}")
        assert done.json()["status"] == "completed"
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_draining(client_for: Any) -> None:
    async with client_for(SAYS) as client:
        client.app.state.service.is_draining = True
        refused = await client.post("/v1/chat/completions", json=CHAT)
        assert refused.status_code == 503 and "retry-after" in refused.headers
        assert (await client.get("/ready")).status_code == 503
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/v1/models")).status_code == 200


async def test_names_of_this_machine(client_for: Any) -> None:
    """Without a key, what a browser was told to find under another name is refused."""
    async with client_for(
        SAYS, settings=settings(hosts=("localhost", "127.0.0.1", "::1"))
    ) as client:
        for host, status in (
            ("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:8000", 200),
            ("[::1]:8000", 200), ("[::1]", 200),
            ("evil.example", 403), ("evil.example:8000", 403), ("localhost.evil.example", 403),
            ("", 403),
        ):  # fmt: skip
            assert (await client.get("/v1/models", headers={"host": host})).status_code == status, (
                host
            )


async def test_pages_from_elsewhere(client_for: Any) -> None:
    asking = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    async with client_for(SAYS) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT, headers=asking)
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    mine = settings(cors_origins=("https://page.example",), keys=KEYS)
    async with client_for(SAYS, settings=mine) as client:
        assert (await client.options("/v1/chat/completions", headers=asking)).status_code == 200
        answer = await client.post("/v1/chat/completions", json=CHAT, headers=asking)
        assert answer.status_code == 401  # and the page may read that
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        other = await client.options(
            "/v1/chat/completions", headers=asking | {"Origin": "https://other.example"}
        )
        assert other.status_code == 400 and "access-control-allow-origin" not in other.headers


async def test_the_log_has_a_line_a_request_and_no_prompts(client_for: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "ossia")
    async with client_for(SAYS, settings=settings(keys=KEYS)) as client:
        answer = await client.post("/v1/chat/completions?secret=1", json=CHAT, headers=ALICE)
        await client.get("/nowhere%0AINFO%20forged", headers=ALICE)
    usage = answer.json()["usage"]
    lines = [record.getMessage() for record in caplog.records if record.name == "ossia.access"]
    assert len(lines) == 2 and "private" not in caplog.text and "secret" not in caplog.text
    assert lines[0].startswith("POST /v1/chat/completions 200 ")
    assert f"tokens={usage['prompt_tokens']}+{usage['completion_tokens']} caller=alice" in lines[0]
    assert f"id={answer.headers['x-request-id']}" in lines[0]
    assert "\n" not in lines[1] and " 404 " in lines[1]


async def test_prompts_are_logged_if_the_settings_say_so(client_for: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "ossia")
    async with client_for(SAYS, settings=settings(log_prompts=True)) as client:
        await client.post("/v1/chat/completions", content=json.dumps(CHAT, indent=1), headers=JSON)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "ossia.prompts"]
    assert "a very private question" in line and "\n" not in line


async def test_an_exception_is_a_500_with_an_id_and_a_line_in_the_log(
    client_for: Any, caplog: Any
) -> None:
    async with client_for(SAYS) as client:

        @client.app.get("/broken")
        async def broken() -> None:
            raise ZeroDivisionError("a bug")

        answer = await client.get("/broken")
    assert answer.status_code == 500 and "bug" not in answer.text
    assert answer.headers["x-request-id"] in caplog.text and "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(("kind", "status"), [(CheckpointError, 500), (RequestError, 400)])
async def test_an_error_of_ours_keeps_its_code(
    client_for: Any, caplog: Any, kind: type[OssiaError], status: int
) -> None:
    """In a route, and between the gate and the routes; what is the client's fault is no crash."""

    async def broken(*_: Any) -> None:
        raise kind("the file is gone", "model", "file_gone")

    async with client_for(SAYS) as client:
        app = client.app
        app.get("/broken")(lambda: asyncio.run(broken()))
        behind = gate.AccessMiddleware(broken, app.state.service, app.state.access)
        for answering in (app, behind):
            caplog.clear()
            transport = httpx.ASGITransport(answering)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as asking:
                answer = await asking.get("/broken")
            told = answer.json()["error"]
            assert answer.status_code == status
            assert (told["param"], told["code"]) == ("model", "file_gone")
            assert ("file is gone" in caplog.text) == (status == 500)


async def test_spans(client_for: Any) -> None:
    """One of the request, a child of the caller's; one of the answer, a child of that; nothing of
    what was said.
    """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "get_tracer", provider.get_tracer)
        async with client_for(SAYS) as client:
            parent = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
            await client.post("/v1/chat/completions", json=CHAT, headers=parent)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    request, answer = spans["POST /v1/chat/completions"], spans["answer"]
    assert format(request.context.trace_id, "032x") == "0af7651916cd43dd8448eb211c80319c"
    assert answer.parent.span_id == request.context.span_id
    assert request.attributes["http.response.status_code"] == 200
    assert answer.attributes["gen_ai.usage.output_tokens"] == 6
    assert "private" not in str([span.to_json() for span in spans.values()])


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_what_one_key_has_asked_is_cached_for_it_alone(llm: LLM) -> None:
    """Or the number of cached tokens would tell another what was asked."""
    app = create_app(
        llm.engine, llm.tokenizer, settings(keys=(KEYS[0], replace(KEYS[1], limits=Limits())))
    )
    asks: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": CHAT | {"max_tokens": 2},
        "/v1/completions": {"prompt": CHAT["messages"][0]["content"] * 8, "max_tokens": 2},
    }
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://server", timeout=30
        ) as client:
            for path, body in asks.items():
                usages = [
                    (await client.post(path, json=body, headers=key)).json()["usage"]
                    for key in (ALICE, BOB)
                ]
                usages.append((await client.post(path, json=body, headers=ALICE)).json()["usage"])
                alice, bob, again = (
                    usage["prompt_tokens_details"]["cached_tokens"] for usage in usages
                )
                assert (alice, bob) == (0, 0) and again > 0


async def test_nobody_can_write_lines_of_the_log(client_for: Any) -> None:
    """A tool's name, for example, is what a client says."""
    stream = io.StringIO()
    loggers = [logging.getLogger(name) for name in ("ossia", "uvicorn.error")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    logs.set_up(stream)
    try:
        forged = {"type": "function", "function": {"name": "a\n2026 INFO all is well\u2028\x1b[2J"}}
        async with client_for(SAYS, settings=settings(log_prompts=True)) as client:
            await client.post(
                "/v1/chat/completions",
                content=json.dumps(CHAT | {"tools": [forged]}, indent=1),
                headers=JSON,
            )
        logs.log.error("it failed", exc_info=ValueError("why"))
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
    text = stream.getvalue()
    lines = [line for line in text.splitlines() if "all is well" in line]
    assert lines and not any(line.startswith("2026 INFO") for line in lines) and "\x1b" not in text
    assert text.endswith("it failed\nValueError: why\n"), "what failed is told in lines of its own"


# Samples are what is counted


MANY = {
    "n": ("/v1/chat/completions", CHAT | {"n": 4}),
    "n, streamed": ("/v1/chat/completions", CHAT | {"n": 4, "stream": True}),
    "n of a completion": ("/v1/completions", {"prompt": "Hi", "n": 4}),
    "best_of": ("/v1/completions", {"prompt": "Hi", "best_of": 4}),
    "a batch": ("/v1/completions", {"prompt": ["Hi"] * 4}),
    "a batch of ids": ("/v1/completions", {"prompt": [[1]] * 4}),
    "both": ("/v1/completions", {"prompt": ["Hi"] * 2, "best_of": 2}),
    "prompts without samples": ("/v1/completions", {"prompt": ["Hi"] * 4, "max_tokens": 0}),
}


@pytest.mark.parametrize("what", MANY)
async def test_a_limit_counts_samples(client_for: Any, what: str) -> None:
    path, body = MANY[what]
    limited = settings(limits=Limits(concurrent=3))
    async with client_for(SAYS, settings=limited) as client:
        refused = await client.post(path, json=body)
        assert refused.status_code == 400, "it could never be taken"
        assert refused.json()["error"]["code"] == "concurrency_limit_exceeded"
        assert refused.json()["error"]["param"] in ("n", "prompt")
        assert client.engine.submitted == []
    async with client_for(SAYS, settings=settings(limits=Limits(concurrent=5))) as client:
        client.engine.delay = 0.05
        other = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT | {"n": 2}))
        await until(lambda: client.app.state.access.running == 2)
        assert (await client.post(path, json=body)).status_code == 429
        assert (await other).status_code == 200
        assert (await client.post(path, json=body)).status_code == 200
        assert client.app.state.access.running == 0


async def test_the_queue_counts_samples(client_for: Any) -> None:
    async with client_for(SAYS, settings=settings(max_queue=10)) as client:
        client.engine.delay = 0.05
        running = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT | {"n": 8}))
        await until(lambda: client.app.state.access.running == 8)
        refused = await client.post("/v1/chat/completions", json=CHAT | {"n": 3})
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "queue_full"
        assert (await client.post("/v1/chat/completions", json=CHAT | {"n": 2})).status_code == 200
        assert (await running).status_code == 200
        never = await client.post("/v1/chat/completions", json=CHAT | {"n": 21})
        assert never.status_code == 400 and client.app.state.access.running == 0


async def test_a_full_queue_does_not_shut_out_who_has_nothing_in_it(client_for: Any) -> None:
    keys = (KEYS[1], ApiKey("carol", secret_digest("key-c")))
    long = [SAYS.replace("Hi there", "word " * 60)] * 4  # many times as many steps as the light one
    async with client_for(*long, SAYS, settings=settings(max_queue=4, keys=keys)) as client:
        client.engine.delay = 0.02
        carol = {"Authorization": "Bearer key-c"}
        heavy = asyncio.create_task(
            client.post("/v1/chat/completions", json=CHAT | {"n": 4}, headers=carol)
        )
        await until(lambda: client.app.state.access.running == 4)
        refused = await client.post("/v1/chat/completions", json=CHAT, headers=carol)
        assert refused.json()["error"]["code"] == "queue_full"
        light = await client.post("/v1/chat/completions", json=CHAT, headers=BOB)
        assert light.status_code == 200 and not heavy.done()
        assert (await heavy).status_code == 200


async def test_callers_are_keys_or_else_addresses(client_for: Any) -> None:
    """The engine is told whose turn it is, by every API."""
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": CHAT,
        "/v1/messages": CHAT | {"max_tokens": 5},
        "/v1/responses": {"input": "Hi"},
        "/v1/completions": {"prompt": "Hi"},
    }
    bob = replace(KEYS[1], limits=Limits())
    for keys, headers, expected in (((), {}, "127.0.0.1"), ((bob,), BOB, "bob")):
        async with client_for(SAYS, settings=settings(keys=keys)) as client:
            told: list[str] = []
            submit = client.engine.submit

            def noted(
                *args: Any, caller: str, told: Any = told, submit: Any = submit, **k: Any
            ) -> int:
                told.append(caller)
                return int(submit(*args, caller=caller, **k))

            client.engine.submit = noted
            for path, body in bodies.items():
                assert (await client.post(path, json=body, headers=headers)).status_code == 200
            assert told == [expected] * len(bodies)


# Pages from elsewhere change nothing

FOREIGN: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://server:9999"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://server"},
]
OWN: list[dict[str, str]] = [
    {},
    {"Origin": "http://server"},
    {"Origin": "https://SERVER"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"},
    {"Sec-Fetch-Site": "none"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_a_page_from_elsewhere_changes_nothing(
    client_for: Any, headers: dict[str, str]
) -> None:
    async with client_for(SAYS) as client:
        made = (await client.post("/v1/conversations", headers={"host": "server"})).json()
        before = await client.app.state.service.store.used()
        place = f"/v1/conversations/{made['id']}"
        for method, path in (
            ("POST", "/v1/conversations"),
            ("POST", place),
            ("DELETE", place),
            ("POST", "/v1/chat/completions"),
            ("POST", "/v1/responses/resp_x/cancel"),
        ):
            refused = await client.request(method, path, headers=headers | {"host": "server"})
            assert refused.status_code == 403, (method, path)
            assert refused.json()["error"]["code"] == "origin_not_allowed"
        assert (
            await client.app.state.service.store.used() == before and client.engine.submitted == []
        )
        looking = await client.get(place, headers=headers | {"host": "server"})
        assert looking.status_code == 200  # a browser does not show it to the page


@pytest.mark.parametrize("headers", OWN, ids=str)
async def test_programs_and_our_own_page_may(client_for: Any, headers: dict[str, str]) -> None:
    async with client_for(SAYS) as client:
        made = await client.post("/v1/conversations", headers=headers | {"host": "server"})
        assert made.status_code == 200


@pytest.mark.parametrize("allowed", ["*", "https://evil.example"])
async def test_so_may_the_pages_that_were_named(client_for: Any, allowed: str) -> None:
    async with client_for(SAYS, settings=settings(cors_origins=(allowed,))) as client:
        headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        assert (await client.post("/v1/conversations", headers=headers)).status_code == 200


# What one key was given is of no use to another


def reasoning_of(api: str, body: dict[str, Any]) -> dict[str, Any]:
    if api == "/v1/responses":
        (item,) = [item for item in body["output"] if item["type"] == "reasoning"]
        return {key: item[key] for key in ("id", "type", "summary", "encrypted_content")}
    (block,) = [block for block in body["content"] if block["type"] == "thinking"]
    return block | {"thinking": ""}


def calling(api: str, thought: dict[str, Any]) -> dict[str, Any]:
    """A conversation in which the thought led to a call, so that the model sees it again."""
    user = {"role": "user", "content": "Hi"}
    schema = {"type": "object"}
    if api == "/v1/responses":
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        result = {"type": "function_call_output", "call_id": "c", "output": "1"}
        tools = [{"type": "function", "name": "f", "parameters": schema}]
        return {"input": [user, thought, call, result], "tools": tools}
    used = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    told = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "1"}
    said = {"role": "assistant", "content": [thought, used]}
    turns = [user, said, {"role": "user", "content": [told]}]
    return {"messages": turns, "tools": [{"name": "f", "input_schema": schema}]}


SEALED: dict[str, dict[str, Any]] = {
    "/v1/responses": {
        "input": "Hi",
        "include": ["reasoning.encrypted_content"],
        "store": False,
    },
    "/v1/messages": CHAT
    | {
        "max_tokens": 50,
        "thinking": {"type": "adaptive"},
    },
}


@pytest.mark.parametrize("api", SEALED)
async def test_sealed_reasoning_is_for_the_key_that_it_was_given_to(
    client_for: Any, tokenizer: Tokenizer, api: str
) -> None:
    says = "<|channel|>analysis<|message|>a private thought<|end|><|start|>assistant" + SAYS
    keys = tuple(replace(key, limits=Limits()) for key in KEYS)
    async with client_for(says, settings=settings(keys=keys, secret=b"s" * 16)) as client:
        made = await client.post(api, json=SEALED[api], headers=ALICE)
        thought = reasoning_of(api, made.json())
        assert "private" not in json.dumps(thought)
        again = SEALED[api] | calling(api, thought)
        for headers, is_read in ((ALICE, True), (BOB, False)):
            before = len(client.engine.submitted)
            await client.post(api, json=again, headers=headers)
            prompts = [tokenizer.decode(ids) for ids in client.engine.submitted[before:]]
            assert any("a private thought" in prompt for prompt in prompts) == is_read
