"""The Responses API as clients use it: Codex's requests, the official client, and a model held to
what is wished.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel
from responses_wire import (
    CALL,
    CUSTOM,
    FINAL,
    PATH,
    SPACE,
    THOUGHT,
    F,
    G,
    Server,
    events_of,
    fold,
    serving,
)

from ossia.llm import LLM
from ossia.server import Settings, create_app
from ossia.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def server(tokenizer: Tokenizer) -> Iterator[Server]:
    with serving(tokenizer) as made:
        yield made


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# ---- clients ----

LARK = """start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?
hunk: "*** Delete File: " /(.+)/ LF
%import common.LF
"""
CODEX = {
    "model": "gpt-oss-20b", "stream": True, "store": False,
    "include": ["reasoning.encrypted_content"],
    "tool_choice": "auto", "parallel_tool_calls": True,
    "reasoning": {"effort": "low", "summary": "auto"},
    "prompt_cache_key": "k", "client_metadata": {"session": "s"},
    "tools": [
        F | {"name": "exec_command", "strict": False},
        SPACE | {"name": "multi_agent_v1", "tools": [F | {"name": "spawn_agent"}]},
        {"type": "custom", "name": "apply_patch", "description": "Edits files.",
         "format": {"type": "grammar", "syntax": "lark", "definition": LARK}},
        {"type": "web_search", "external_web_access": False},
        {"type": "tool_of_next_year", "shape": {}},
    ],
}  # fmt: skip
PATCH = "*** Begin Patch\n*** Delete File: a.txt\n*** End Patch"


def test_codex_for_three_turns(server: Server) -> None:
    """The shape that the client sends: two developer messages, ids on messages, reasoning replayed
    with what was sealed, a call of each kind.
    """
    text = [{"type": "input_text", "text": "x"}]
    given: list[dict[str, Any]] = [
        {"type": "message", "role": "developer", "content": text, "id": "msg_1"},
        {"type": "message", "role": "developer", "content": text, "id": "msg_2"},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "delete a"}],
            "id": "msg_3",
        },
    ]
    calls = [
        (CALL.format("functions.exec_command", '{"cmd": "ls"}'), "function_call_output", None),
        (CALL.format("multi_agent_v1.spawn_agent", "{}"), "function_call_output", "multi_agent_v1"),
        (CUSTOM.format("apply_patch", PATCH), "custom_tool_call_output", None),
    ]
    for n, (said, kind, space) in enumerate(calls):
        events = server.says(THOUGHT.format(f"thought {n}") + said).stream(**CODEX, input=given)
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        reasoning, call = done
        assert (
            reasoning["encrypted_content"]
            and reasoning["summary"]
            and call.get("namespace") == space
        )
        assert events[-1]["type"] == "response.completed" and fold(events)["id"]
        given += [
            reasoning,
            call,
            {"type": kind, "call_id": call["call_id"], "output": f"result {n}"},
        ]
    events = server.says(FINAL.format("Deleted.")).stream(**CODEX, input=given)
    assert fold(events)["output"][0]["phase"] == "final_answer"
    for n in range(3):
        assert f"thought {n}" in server.prompt and f"result {n}" in server.prompt
    assert f"to=functions.apply_patch code<|message|>{PATCH}<|call|>" in server.prompt
    assert "to=multi_agent_v1.spawn_agent <|constrain|>json" in server.prompt


class Song(BaseModel):
    title: str
    verses: int


@pytest.mark.anyio
async def test_the_official_client(client_for: Callable[..., Any]) -> None:
    scripts = [
        FINAL.format('{"title": "Ode", "verses": 3}'),
        THOUGHT.format("why") + FINAL.format("Hi."),
        CALL.format("functions.f", '{"a": 1}'),
        FINAL.format("done"),
    ]
    async with client_for(*scripts) as http:
        client = openai.AsyncOpenAI(
            api_key="none", base_url="http://server/v1", http_client=http, max_retries=0
        )
        parsed = await client.responses.parse(model="nano", input="a song", text_format=Song)
        assert parsed.output_parsed == Song(title="Ode", verses=3)
        async with client.responses.stream(model="nano", input="hi") as stream:
            texts = [
                event.delta async for event in stream if event.type == "response.output_text.delta"
            ]
            final = await stream.get_final_response()
        assert "".join(texts) == final.output_text == "Hi."
        called = await client.responses.create(model="nano", input="call", tools=[F])  # type: ignore[list-item]
        call = called.output[-1]
        assert call.type == "function_call" and call.arguments == '{"a": 1}'
        again = await client.responses.create(
            model="nano", previous_response_id=called.id,
            input=[{"type": "function_call_output", "call_id": call.call_id, "output": "1"}],
        )  # fmt: skip
        assert again.output_text == "done"
        assert (
            await client.responses.input_tokens.count(model="nano", input="hi")
        ).input_tokens > 0
        with pytest.raises(openai.BadRequestError, match="no response"):
            await client.responses.create(model="nano", input="x", previous_response_id="resp_x")


def test_openapi_documents_every_status(server: Server) -> None:
    paths = server.client.get("/openapi.json").json()["paths"]
    for path in (PATH, f"{PATH}/input_tokens"):
        assert {"200", "400", "401", "404", "413", "429", "500", "503"} <= set(
            paths[path]["post"]["responses"]
        )


# ---- a model ----


@pytest.mark.anyio
async def test_nano_is_held_to_what_is_wished(llm: LLM) -> None:
    """Whatever a tiny model would like to say: the schema, the call that is required, the custom
    tool's grammar.
    """
    app = create_app(llm.engine, llm.tokenizer, Settings(model_name="nano"))
    schema = {
        "type": "object", "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"], "additionalProperties": False,
    }  # fmt: skip
    regex = G | {"format": {"type": "grammar", "syntax": "regex", "definition": "[ab]{3}"}}
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://server", timeout=60
        ) as client:

            async def create(**wishes: Any) -> dict[str, Any]:
                body = {
                    "input": "hello",
                    "reasoning": {"effort": "none"},
                    "seed": 1,
                    "max_output_tokens": 200,
                    **wishes,
                }
                plain = (await client.post(PATH, json=body)).json()
                streamed = fold(
                    events_of((await client.post(PATH, json={**body, "stream": True})).text)
                )
                assert plain["status"] == "completed", plain
                assert [item["type"] for item in plain["output"]] == [
                    item["type"] for item in streamed["output"]
                ]
                found: dict[str, Any] = plain["output"][-1]
                return found

            form = {"type": "json_schema", "name": "c", "schema": schema, "strict": True}
            message = await create(text={"format": form})
            assert json.loads(message["content"][0]["text"])["colour"] in ("red", "blue")
            tool = F | {"parameters": schema}
            call = await create(tools=[tool], tool_choice={"type": "function", "name": "f"})
            assert call["name"] == "f" and json.loads(call["arguments"])["colour"] in (
                "red",
                "blue",
            )
            call = await create(tools=[tool, regex], tool_choice={"type": "custom", "name": "g"})
            assert (
                call["type"] == "custom_tool_call"
                and len(call["input"]) == 3
                and set(call["input"]) <= set("ab")
            )
