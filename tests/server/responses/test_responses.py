"""POST /v1/responses over HTTP: what a response says of its request, what goes on from what, what
is refused.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import anyio
import httpx
import pytest
from responses_wire import (
    CALL,
    FINAL,
    HOSTED,
    PATH,
    PREAMBLE,
    SEARCH,
    SPACE,
    THOUGHT,
    F,
    G,
    Server,
    events_of,
    fold,
    nameless,
    serving,
)

from ossia.server import ScriptedEngine, Settings, create_app
from ossia.server.wire.errors import ApiError
from ossia.tokenizer import Tokenizer

TOOLS = [F, G, SPACE, *HOSTED]
HI = FINAL.format("Hi.")


@pytest.fixture(scope="module")
def server(tokenizer: Tokenizer) -> Iterator[Server]:
    with serving(tokenizer) as made:
        yield made.says(HI)


@pytest.fixture(autouse=True)
def says_hi(server: Server) -> None:
    server.says(HI)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# ---- what a response says ----


def test_a_response_with_nothing_wished(server: Server) -> None:
    response = server.create()
    assert response["id"].startswith("resp_") and response["object"] == "response"
    assert response["status"] == "completed" and response["completed_at"] >= response["created_at"]
    assert response["model"] == "nano" and response["text"] == {
        "format": {"type": "text"},
        "verbosity": "medium",
    }
    assert (response["tool_choice"], response["tools"], response["truncation"]) == (
        "auto",
        [],
        "disabled",
    )
    assert response["reasoning"]["effort"] == "medium" and response["store"] is True
    assert response["error"] is None and response["incomplete_details"] is None


@pytest.mark.parametrize("depth", [240, 246, 249, 252, 254])
def test_what_is_echoed_can_be_written_in_events(server: Server, depth: int) -> None:
    """JSON of so many levels can be read, and not be written inside of a response."""
    odd = json.loads("[" * depth + "]" * depth)
    server.says(FINAL.format("Hi."))
    tools = [{"type": "web_search", "odd": odd}]
    server.create(200 if depth == 240 else 400, tools=tools)


def test_wishes_are_echoed(server: Server) -> None:
    wishes = {
        "model": "mine", "instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0.5,
        "top_p": 0.9,
        "user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "flex",
        "max_tool_calls": 3,
        "max_output_tokens": 99, "top_logprobs": 1, "truncation": "auto",
        "parallel_tool_calls": True, "store": False,
        "tools": [G], "tool_choice": {"type": "custom", "name": "g"},
    }  # fmt: skip
    response = server.create(**wishes, seed=3, unheard_of=[1], text={"verbosity": "low"})
    assert {key: response[key] for key in wishes} == wishes
    assert response["text"]["verbosity"] == "low"


def test_usage_is_complete(server: Server) -> None:
    server.says(THOUGHT.format("one two") + HI)
    usage = server.create()["usage"]
    prompt = len(server.engine.submitted[-1])
    assert (
        usage["input_tokens"] == prompt and usage["total_tokens"] == prompt + usage["output_tokens"]
    )
    assert usage["input_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": prompt}
    assert 0 < usage["output_tokens_details"]["reasoning_tokens"] < usage["output_tokens"]
    counted = server.client.post(f"{PATH}/input_tokens", json={"input": "hello"}).json()
    assert counted == {"object": "response.input_tokens", "input_tokens": prompt}


def test_what_the_model_is_told(server: Server) -> None:
    server.create(
        instructions="Be brief.",
        tools=TOOLS,
        reasoning={"effort": "xhigh"},
        input=[{"role": "developer", "content": "In verse."}, {"role": "user", "content": "Sing."}],
        text={"format": {"type": "json_schema", "name": "song", "schema": {"type": "object"}}},
    )
    prompt = server.prompt
    assert "Reasoning: high" in prompt and "# Instructions\n\nBe brief.\n\nIn verse." in prompt
    assert (
        "type f = " in prompt
        and "namespace team {" in prompt
        and "## browser" in prompt
        and "## song" in prompt
    )
    assert prompt.endswith("<|start|>user<|message|>Sing.<|end|><|start|>assistant")


@pytest.mark.parametrize(
    ("wishes", "param"),
    [
        ({"input": None}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"type": "dream"}]}, "input[0]"),
        ({"input": 10**30}, None),
        ({"stream": "yes"}, "stream"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"reasoning": {"effort": "endless"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"text": {"format": {"type": "poem"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        (
            {"text": {"format": {"type": "json_schema", "name": 3, "schema": {}}}},
            "text.format.name",
        ),
        ({"text": {"format": {"type": "grammar", "syntax": "lark"}}}, "text.format"),
        (
            {"text": {"format": {"type": "grammar", "syntax": "regex", "definition": "("}}},
            "text.format",
        ),
        ({"text": {"verbosity": "chatty"}}, "text.verbosity"),
        ({"truncation": "always"}, "truncation"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [F, F]}, "tools[1].name"),
        ({"tools": [F], "tool_choice": {"type": "function", "name": "h"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"conversation": {"name": "x"}}, "conversation"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
        ({"previous_response_id": "resp_x", "conversation": "conv_x"}, "previous_response_id"),
        ({"background": True, "store": False}, "store"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"stop": [""]}, "stop"),
    ],
)
def test_what_is_refused_is_named(
    server: Server, wishes: dict[str, Any], param: str | None
) -> None:
    content = json.dumps({"input": "hello", **wishes})
    for stream in (False, True):
        body = (
            content if "stream" in wishes else content[:-1] + f', "stream": {json.dumps(stream)}}}'
        )
        answer = server.client.post(
            PATH, content=body, headers={"content-type": "application/json"}
        )
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["param"] == param and error["message"], (
            answer.text
        )
        assert error["type"] == "invalid_request_error"


def test_a_schema_that_cannot_be_enforced(server: Server) -> None:
    """Is refused if it has to be, else enforced as far as it can be, and the model is told all."""
    schema = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
    form = {"type": "json_schema", "name": "odd", "schema": schema}
    error = server.create(400, text={"format": form | {"strict": True}})
    assert error["param"] == "text.format" and error["code"] == "invalid_schema"
    relaxed = server.create(text={"format": form})
    assert relaxed["status"] == "completed" and "## odd" in server.prompt
    keyword = "#/properties/a/not"
    note = {"schema": "response format", "keyword": keyword, "reason": "cannot be enforced"}
    assert relaxed["x-ossia"] == {"relaxed": [note]}
    array = form | {"schema": {"type": "array", "uniqueItems": True}}
    assert (
        server.create(text={"format": array})["x-ossia"]["relaxed"][0]["keyword"] == "#/uniqueItems"
    )
    assert "x-ossia" not in server.create(text={"format": form | {"schema": {"type": "array"}}})
    unknown = form | {"schema": {"type": "list"}}
    assert server.create(400, text={"format": unknown})["param"] == "text.format"


def test_a_conversation_that_is_gone(server: Server) -> None:
    assert server.create(404, conversation="conv_x")["param"] == "conversation"


# ---- what goes on ----


def test_a_response_goes_on_from_another(server: Server) -> None:
    first = server.says(
        THOUGHT.format("why") + PREAMBLE.format("I call.") + CALL.format("functions.f", "{}")
    ).create(tools=TOOLS, instructions="Once.")
    call_id = first["output"][-1]["call_id"]
    result = {"type": "function_call_output", "call_id": call_id, "output": "done"}
    second = server.says(HI).create(previous_response_id=first["id"], input=[result], tools=TOOLS)
    assert "why" in server.prompt and "I call." in server.prompt and "Once." not in server.prompt
    assert (
        "<|start|>functions.f to=assistant<|channel|>commentary<|message|>done<|end|>"
        in server.prompt
    )
    server.create(previous_response_id=second["id"], input="and?", tools=TOOLS)
    assert "why" not in server.prompt  # the turn is over
    assert server.prompt.count("hello") == server.prompt.count("Hi.") == 1
    assert (
        server.create(previous_response_id=second["id"], input="and?", store=False)["store"]
        is False
    )


BEGUN = [
    {"role": "user", "content": "A sum?"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [
        {"type": "reasoning_text", "text": "Easy."}]},
    {"role": "assistant", "content": "The sum is"},
]  # fmt: skip


def test_the_answer_goes_on_with_the_last_message(server: Server) -> None:
    """As vLLM's chats do. The item has what comes."""
    server.says(" five.<|return|>")
    wish = {"input": BEGUN, "continue_final_message": True, "store": False}
    (message,) = server.create(**wish)["output"]
    assert server.prompt.endswith(
        "<|channel|>analysis<|message|>Easy.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>The sum is"
    )
    assert message["content"][0]["text"] == " five." and message["phase"] == "final_answer"
    assert nameless(fold(server.stream(**wish))["output"]) == nameless([message])
    count = server.client.post(f"{PATH}/input_tokens", json=wish).json()["input_tokens"]
    assert count == len(server.engine.submitted[-1])


@pytest.mark.parametrize("input", [BEGUN[:1], [*BEGUN, BEGUN[0]]])
def test_only_a_text_of_the_assistant_can_be_gone_on_with(server: Server, input: Any) -> None:
    error = server.create(400, input=input, continue_final_message=True)
    assert error["param"] == "continue_final_message"


def test_a_conversation_grows(server: Server) -> None:
    conversation = server.client.post("/v1/conversations", json={}).json()["id"]
    server.create(conversation=conversation)
    server.says(FINAL.format("Again.")).create(
        conversation={"id": conversation}, input="more", store=False
    )
    assert "hello" in server.prompt and "Hi." in server.prompt
    items = server.client.get(f"/v1/conversations/{conversation}/items?order=asc").json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["hello", "Hi.", "more", "Again."]


def test_reasoning_round_trips_sealed(
    server: Server, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    server.says(THOUGHT.format("a secret thought") + CALL.format("functions.f", "{}"))
    first = server.create(tools=TOOLS, store=False, include=["reasoning.encrypted_content"])
    reasoning, call = first["output"]
    sealed = {key: reasoning[key] for key in ("id", "type", "summary", "encrypted_content")}
    given = [{"role": "user", "content": "hello"}, sealed, call]
    given.append({"type": "function_call_output", "call_id": call["call_id"], "output": "1"})
    server.says(HI).create(input=given, tools=TOOLS)
    assert server.prompt.count("a secret thought") == 1
    with serving(tokenizer) as other:  # with another secret
        caplog.clear()
        other.says(HI).create(input=[*given, sealed], tools=TOOLS)
        assert "a secret thought" not in other.prompt and "functions.f" in other.prompt
        assert [line for line in caplog.messages if "sealed" in line] == [
            "sealed reasoning is left out, 2 of the request's: "
            "it was made with another secret or for another key, or changed since"
        ]
        given[1] = reasoning
        other.create(input=given, tools=TOOLS)
        assert "a secret thought" in other.prompt


def test_reasoning_that_the_client_drops_is_put_back(server: Server) -> None:
    server.says(SEARCH.format("{}"), THOUGHT.format("found it") + CALL.format("functions.f", "{}"))
    call = server.create(tools=TOOLS, store=False)["output"][-1]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "1"}
    given = [{"role": "user", "content": "hello"}, call, output]
    server.says(HI).create(input=given, tools=TOOLS)
    assert "found it" in server.prompt and "what the page says" in server.prompt


def test_items_can_be_referred_to(server: Server) -> None:
    first = server.create(input=[{"role": "user", "content": "hello", "id": "msg_mine"}])
    given = [{"type": "item_reference", "id": "msg_mine"}, {"id": first["output"][0]["id"]}]
    server.create(input=[*given, {"role": "user", "content": "and?"}], store=False)
    assert "hello" in server.prompt and "Hi." in server.prompt
    for id in ("msg_nobodys", "msg_mine"):
        assert (
            server.create(400, input=[{"type": "item_reference", "id": id}])["param"] == "input[0]"
        )
        server.client.delete(f"{PATH}/{first['id']}")


# ---- what does not fit ----


def test_truncation(tokenizer: Tokenizer) -> None:
    with serving(tokenizer) as server:
        server.engine.config = replace(server.engine.config, max_context_length=400)
        server.says(HI)
        old = [
            {"role": "user" if n % 2 == 0 else "assistant", "content": f"old {n} " * 9}
            for n in range(20)
        ]
        given = [
            {"role": "developer", "content": "Rules."},
            *old,
            {"role": "user", "content": "the question"},
        ]
        error = server.create(400, input=given)
        assert error["code"] == "context_length_exceeded" and error["param"] == "input"
        assert "maximum context length is 400 tokens" in error["message"]
        streamed = server.client.post(PATH, json={"input": given, "stream": True})
        assert streamed.status_code == 200
        *_, created, started, failed = events_of(streamed.text)
        assert [created["type"], started["type"]] == ["response.created", "response.in_progress"]
        assert failed["type"] == "response.failed"
        assert failed["response"]["error"] == {"code": error["code"], "message": error["message"]}
        kept = server.client.get(f"{PATH}/{failed['response']['id']}").json()
        assert kept["status"] == "failed"
        response = server.create(input=given, truncation="auto")
        assert response["status"] == "completed" and response["truncation"] == "auto"
        assert "Rules." in server.prompt and "the question" in server.prompt
        assert "old 19" in server.prompt and "old 0 " not in server.prompt
        assert 250 < len(server.engine.submitted[-1]) <= 350
        server.create(input=given, truncation="auto", max_output_tokens=200)
        assert len(server.engine.submitted[-1]) <= 200
        error = server.create(400, input="word " * 500, truncation="auto")
        assert error["code"] == "context_length_exceeded"


# ---- background ----


def test_in_the_background(server: Server) -> None:
    queued = server.create(background=True)
    assert queued["status"] == "queued" and queued["output"] == [] and queued["background"] is True
    events = events_of(server.client.get(f"{PATH}/{queued['id']}?stream=true").text)
    assert [event["type"] for event in events[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    done = server.client.get(f"{PATH}/{queued['id']}").json()
    assert done["status"] == "completed" and done == events[-1]["response"]
    streamed = events_of(
        server.client.post(PATH, json={"input": "x", "background": True, "stream": True}).text
    )
    assert streamed[-1]["response"]["status"] == "completed"


def test_a_refusal_in_the_background(tokenizer: Tokenizer) -> None:
    with serving(tokenizer) as server:
        server.engine.config = replace(server.engine.config, max_context_length=50)
        queued = server.says(HI).create(background=True)
        events = events_of(server.client.get(f"{PATH}/{queued['id']}?stream=true").text)
        assert (
            events[-1]["type"] == "response.failed"
            and "context" in events[-1]["response"]["error"]["message"]
        )


class Slow(ScriptedEngine):
    def __init__(self, tokenizer: Tokenizer) -> None:
        words = tokenizer.encode_with_specials("<|channel|>final<|message|>" + "word " * 5000)
        super().__init__([words], delay=0.002)


@pytest.mark.anyio
async def test_a_cancel_in_the_midst(tokenizer: Tokenizer) -> None:
    app = create_app(Slow(tokenizer), tokenizer, Settings())
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")
    async with app.router.lifespan_context(app), client:
        made = (await client.post(PATH, json={"input": "x", "background": True})).json()
        async with aclosing(app.state.service.runs.follow("", made["id"])) as events:
            async for event in events:
                if event["sequence_number"] == 20:
                    break
        assert (await client.get(f"{PATH}/{made['id']}")).json()["status"] == "in_progress"
        stopped = (await client.post(f"{PATH}/{made['id']}/cancel")).json()
        assert stopped["status"] == "cancelled" and stopped["output"][0]["status"] == "incomplete"
        said = stopped["output"][0]["content"][0]["text"]
        assert said and stopped["usage"]["output_tokens"] >= len(tokenizer.encode(said))


def test_a_stream_begins_though_the_model_takes_long(tokenizer: Tokenizer) -> None:
    """So that who waits sees that something is there; what is refused then is told in the
    stream.
    """
    with serving(tokenizer, Settings(keepalive=0.03)) as server:
        server.says(HI).engine.delay = 0.1
        for store in (False, True):
            assert fold(server.stream(store=store))["status"] == "completed"
            text = server.client.post(
                PATH, json={"input": "x", "stream": True, "store": store}
            ).text
            assert (
                text.index("response.in_progress")
                < text.index(": still here")
                < text.index("response.output_item")
            )


def test_what_fails_outside_of_the_response_is_told(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = server.client.app.state.service.runs  # type: ignore[attr-defined]
    follow = runs.follow

    async def breaking(*names: str) -> AsyncIterator[dict[str, Any]]:
        async for event in follow(*names):
            yield event
            if event["sequence_number"] == 3:
                raise ApiError(503, "the line is cut")

    monkeypatch.setattr(runs, "follow", breaking)
    events = server.stream()
    assert events[-1] == {
        "type": "error", "sequence_number": 4, "code": "overloaded_error",
        "message": "the line is cut", "param": None,
    }  # fmt: skip


def test_without_room_for_a_run_the_events_come_directly(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.client.app.state.service.runs, "max_running", 0)  # type: ignore[attr-defined]
    response = fold(server.stream())
    assert server.client.get(f"{PATH}/{response['id']}").json() == response
    error = server.create(429, background=True)
    assert error["type"] == "rate_limit_error"


@pytest.mark.anyio
async def test_who_goes_away_leaves_nothing_running(tokenizer: Tokenizer) -> None:
    """And what was stored says how far it came."""
    engine = Slow(tokenizer)
    app = create_app(engine, tokenizer, Settings())
    async with app.router.lifespan_context(app):
        for store in (False, True):
            ids = await _listened(app, store)
            with anyio.fail_after(5):
                while engine.has_work():
                    await asyncio.sleep(0.01)
            stored = await app.state.service.store.get("", ids)
            assert (stored is not None) == store
            if stored is not None:
                assert (
                    stored.response["status"] == "cancelled"
                    and stored.response["usage"]["output_tokens"]
                )
                (message,) = stored.response["output"]
                assert message["status"] == "incomplete" and message["content"][0][
                    "text"
                ].startswith("word word")


async def _listened(app: Any, store: bool) -> str:
    """The id of a response whose listener goes away after some events; httpx's transport cannot, so
    by hand.
    """
    body = json.dumps({"input": "x", "stream": True, "store": store}).encode()
    scope = {
        "type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")], "http_version": "1.1",
        "scheme": "http",
        "server": ("server", 80), "client": ("client", 1), "root_path": "",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }  # fmt: skip
    seen: list[bytes] = []
    enough, asked = asyncio.Event(), False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await enough.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        seen.append(message.get("body", b""))
        if len(seen) > 12:
            enough.set()

    with anyio.fail_after(10):
        await app(scope, receive, send)
    first = next(data for data in seen if data.startswith(b"event: response.created"))
    return str(json.loads(first.split(b"data: ")[1])["response"]["id"])
