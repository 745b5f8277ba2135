"""The Responses API's events: every one as the official client has it, and their fold is the body
of a plain answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import openai.types.responses as wire
import pytest
from amounts import examples, seeds
from answer_events import Damage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from responses_wire import (
    CALL,
    CODE,
    CUSTOM,
    FINAL,
    HOSTED,
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
from starlette.testclient import TestClient

from ossia.errors import RequestError
from ossia.server import ScriptedEngine, Settings, create_app
from ossia.server.service import Service
from ossia.tokenizer import Tokenizer

TOOLS = [F, G, SPACE, *HOSTED]


@pytest.fixture(scope="module")
def server(tokenizer: Tokenizer) -> Iterator[Server]:
    with serving(tokenizer) as made:
        yield made


@pytest.fixture(scope="module")
def certain(tokenizer: Tokenizer) -> Iterator[Server]:
    with serving(tokenizer, certain=True) as made:
        yield made


def types(events: list[dict[str, Any]]) -> list[str]:
    """Without `response.`, runs of the same once."""
    names = [event["type"].removeprefix("response.") for event in events]
    return [name for n, name in enumerate(names) if n == 0 or names[n - 1] != name]


def test_a_whole_turn(server: Server) -> None:
    server.says(
        THOUGHT.format("I think.")
        + PREAMBLE.format("I look.")
        + CALL.format("functions.f", '{"a": 1}')
    )
    events = server.stream(tools=TOOLS)
    assert types(events) == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]  # fmt: skip
    reasoning, message, call = fold(events)["output"]
    assert (
        reasoning["content"] == [{"type": "reasoning_text", "text": "I think."}]
        and reasoning["summary"] == []
    )
    assert message["phase"] == "commentary" and message["content"][0]["text"] == "I look."
    assert (call["name"], call["arguments"], call["status"]) == ("f", '{"a": 1}', "completed")


def test_the_answer_has_its_phase(server: Server) -> None:
    (message,) = fold(server.says(FINAL.format("Hi.")).stream())["output"]
    assert message["phase"] == "final_answer" and message["status"] == "completed"


def test_arguments_come_as_they_are_said(certain: Server) -> None:
    certain.says(CALL.format("functions.f", '{"a": "one two three"}'))
    events = certain.stream(tools=TOOLS)
    deltas = [
        event["delta"]
        for event in events
        if event["type"] == "response.function_call_arguments.delta"
    ]
    assert len(deltas) > 3 and "".join(deltas) == '{"a": "one two three"}'
    fold(events)


def test_custom_tools_and_namespaces(server: Server) -> None:
    (call,) = fold(server.says(CUSTOM.format("g", "*** Begin")).stream(tools=TOOLS))["output"]
    assert call["type"] == "custom_tool_call" and (call["name"], call["input"]) == (
        "g",
        "*** Begin",
    )
    assert "namespace" not in call
    (call,) = fold(server.says(CALL.format("team.spawn", "{}")).stream(tools=TOOLS))["output"]
    assert (call["type"], call["namespace"], call["name"]) == ("function_call", "team", "spawn")


def test_a_search_and_its_citation(tokenizer: Tokenizer) -> None:
    with serving(tokenizer) as server:
        server.says(
            SEARCH.format('{"query": "x"}'), FINAL.format("It is so【0†L1-L2】, not 【7†L1】.")
        )
        events = server.stream(tools=TOOLS, include=["web_search_call.action.sources"])
        assert types(events)[2:7] == [
            "output_item.added", "web_search_call.in_progress", "web_search_call.searching",
            "web_search_call.completed", "output_item.done",
        ]  # fmt: skip
        search, message = fold(events)["output"]
        assert search["status"] == "completed" and search["action"]["query"] == '{"query": "x"}'
        found = {"type": "url", "url": "https://page.example/", "title": "A page"}
        assert search["action"]["sources"] == [found]
        (cited,) = message["content"][0]["annotations"]
        text = message["content"][0]["text"]
        link = " ([page.example](https://page.example/)) "
        assert text == f"It is so{link}, not 【7†L1】."
        assert text[cited["start_index"] : cited["end_index"]] == link
        assert (cited["url"], cited["title"]) == ("https://page.example/", "A page")
        assert "what the page says" in server.prompt


def test_a_search_that_fails(tokenizer: Tokenizer) -> None:
    with serving(tokenizer) as server:
        service: Service = server.client.app.state.service  # type: ignore[attr-defined]
        service.builtin["browser"].fail = True  # type: ignore[attr-defined]
        server.says(SEARCH.format("{}"), FINAL.format("I cannot."))
        search, _ = fold(server.stream(tools=TOOLS))["output"]
        assert search["status"] == "failed" and "sources" not in search["action"]
        assert "error: no network" in server.prompt


def test_code_comes_as_it_is_said(certain: Server) -> None:
    code = "print('one two three four')"
    certain.says(CODE.format(code), FINAL.format("Done."))
    events = certain.stream(tools=TOOLS)
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert added[0]["item"]["container_id"] == "cntr_1" and not added[0]["item"]["code"]
    name = "response.code_interpreter_call_code.delta"
    deltas = [event["delta"] for event in events if event["type"] == name]
    assert len(deltas) > 3 and "".join(deltas) == code
    call, _ = fold(events)["output"]
    assert (call["code"], call["status"]) == (code, "completed")
    assert f"to=python code<|message|>{code}<|call|>" in certain.prompt


def test_code_that_is_cut_off(certain: Server) -> None:
    certain.says(CODE.format("print('one two three four')"))
    (call,) = fold(certain.stream(tools=TOOLS, max_output_tokens=12))["output"]
    assert call["status"] == "incomplete" and call["code"].startswith("print")


@pytest.mark.parametrize("include", [[], ["code_interpreter_call.outputs"]])
def test_code_is_run(server: Server, include: list[str]) -> None:
    events = server.says(CODE.format("6 * 7"), FINAL.format("42")).stream(
        tools=TOOLS, include=include
    )
    assert types(events)[2:9] == [
        "output_item.added", "code_interpreter_call.in_progress",
        "code_interpreter_call_code.delta",
        "code_interpreter_call_code.done", "code_interpreter_call.interpreting",
        "code_interpreter_call.completed", "output_item.done",
    ]  # fmt: skip
    code, _ = fold(events)["output"]
    assert code["code"] == "6 * 7" and code["status"] == "completed"
    assert code["outputs"] == ([{"type": "logs", "logs": "42"}] if include else None)


def test_calls_of_the_servers_tools_are_rationed(tokenizer: Tokenizer) -> None:
    with serving(tokenizer) as server:
        server.says(SEARCH.format("{}"), SEARCH.format("{}"), FINAL.format("Enough."))
        first, second, _ = fold(server.stream(tools=TOOLS, max_tool_calls=1))["output"]
        assert (first["status"], second["status"]) == ("completed", "failed")
        assert "no more calls are allowed" in server.prompt


def test_a_summary_in_the_words_of_the_reasoning(server: Server) -> None:
    server.says(THOUGHT.format("First this. Then that.\n\nAt last! So.") + FINAL.format("Done."))
    events = server.stream(reasoning={"summary": "auto"})
    assert types(events)[7:11] == [
        "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done",
    ]  # fmt: skip
    (part,) = fold(events)["output"][0]["summary"]
    assert part == {"type": "summary_text", "text": "First this.\n\nAt last!"}
    assert fold(server.stream())["output"][0]["summary"] == []


def test_too_few_tokens(server: Server) -> None:
    server.says(THOUGHT.format("I think for a long time, and so on.") + FINAL.format("Hi."))
    events = server.stream(max_output_tokens=6)
    response = fold(events)
    assert events[-1]["type"] == "response.incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][-1]["status"] == "incomplete" and response["completed_at"] is None
    assert (
        response["usage"]["output_tokens"] == 6
        and response["usage"]["output_tokens_details"]["reasoning_tokens"]
    )


def test_an_answer_that_is_cut_off_says_so(server: Server) -> None:
    (message,) = fold(server.says(FINAL.format("One two three four.")).stream(max_output_tokens=5))[
        "output"
    ]
    assert message["status"] == "incomplete" and message["content"][0]["text"].startswith("One")


def test_logprobs_when_included(server: Server) -> None:
    server.says(FINAL.format("One two three."))
    include = ["message.output_text.logprobs"]
    response = fold(server.stream(include=include, top_logprobs=2))
    logprobs = response["output"][0]["content"][0]["logprobs"]
    assert "".join(each["token"] for each in logprobs) == "One two three."
    assert all(len(each["top_logprobs"]) == 2 and each["bytes"] for each in logprobs)
    assert fold(server.stream())["output"][0]["content"][0]["logprobs"] == []


# ---- fold ----

WORDS = st.text(st.sampled_from("ab .\n{}\"'é👍【0†1】<|"), max_size=12)


@st.composite
def answers(draw: st.DrawFn) -> list[str]:
    """What a model may say until an answer ends, one text a sample."""

    def sample(last: str) -> str:
        before = draw(st.lists(st.sampled_from([THOUGHT, PREAMBLE]), max_size=3))
        return "".join(each.format(draw(WORDS)) for each in before) + last

    hosted = [
        SEARCH.format('{"query": "' + "x" * draw(st.integers(0, 3)) + '"}'),
        CODE.format("1 + 1"),
    ]
    rounds = draw(st.lists(st.sampled_from(hosted), max_size=2))
    ends = [
        FINAL.format(draw(WORDS)),
        CALL.format("functions.f", '{"a": 1}'),
        CALL.format("team.spawn", "{}"),
        CUSTOM.format("g", draw(WORDS)),
    ]
    return [sample(text) for text in [*rounds, draw(st.sampled_from(ends))]]


@given(
    said=answers(),
    summary=st.sampled_from([None, "auto", "detailed"]),
    include=st.sets(
        st.sampled_from(
            [
                "reasoning.encrypted_content",
                "message.output_text.logprobs",
                "code_interpreter_call.outputs",
            ]
        )
    ),
    limit=st.none() | st.integers(1, 40),
    is_certain=st.booleans(),
    store=st.booleans(),
)
@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_stream_folds_to_the_body(
    server: Server, certain: Server, said: list[str], summary: Any, include: set[str],
    limit: int | None,
    is_certain: bool, store: bool,
) -> None:  # fmt: skip
    chosen = certain if is_certain else server
    body: dict[str, Any] = {
        "tools": TOOLS,
        "include": sorted(include),
        "store": store,
        "max_output_tokens": limit,
    }
    body["reasoning"] = {"summary": summary}
    for tool in chosen.client.app.state.service.builtin.values():  # type: ignore[attr-defined]
        tool.runs = 0
    streamed = fold(chosen.says(*said).stream(**body))
    for tool in chosen.client.app.state.service.builtin.values():  # type: ignore[attr-defined]
        tool.runs = 0
    plain = chosen.says(*said).create(**body)
    wire.Response.model_validate(plain)
    assert nameless(streamed) == nameless(plain)


def test_damaged_turns_are_well_formed(server: Server, tokenizer: Tokenizer) -> None:
    damage = Damage(tokenizer)
    for seed in seeds(150):
        tools = [{"type": "function", "name": "weather"}]
        turns = [damage.turn(random.Random(seed * 7 + n)) for n in range(3)]
        streamed = fold(server.says(*turns).stream(tools=tools))
        plain = server.says(*turns).create(tools=tools)
        assert nameless(streamed) == nameless(plain), seed
        said = [
            p["text"]
            for item in plain["output"]
            if item["type"] == "message"
            for p in item["content"]
        ]
        assert not any("<|" in text for text in said), seed


# ---- what goes wrong in the midst ----


class Breaking(ScriptedEngine):
    """Fails after some tokens: one request, or all of it."""

    after = 4
    whole = False

    def step(self) -> list[Any]:
        tokens = super().step()
        for token in tokens:
            if self._running and self._running[token.request_id].said > self.after:
                if self.whole:
                    raise RuntimeError("the disk is full")
                self.failed[token.request_id] = RequestError("the disk is full")
                del self._running[token.request_id]
                return []
        return tokens


def test_an_engine_that_dies_in_the_midst(tokenizer: Tokenizer) -> None:
    engine = Breaking([tokenizer.encode_with_specials(FINAL.format("one two three four five six"))])
    engine.whole = True
    with TestClient(
        create_app(engine, tokenizer, Settings()), raise_server_exceptions=False
    ) as client:
        events = events_of(client.post("/v1/responses", json={"input": "x", "stream": True}).text)
        assert (
            events[-1]["type"] == "response.failed"
            and events[-1]["response"]["error"]["code"] == "server_error"
        )
        for stream in (False, True):
            assert (
                client.post("/v1/responses", json={"input": "x", "stream": stream}).status_code
                == 503
            )


def test_a_request_that_fails_in_the_midst(tokenizer: Tokenizer) -> None:
    engine = Breaking([tokenizer.encode_with_specials(FINAL.format("one two three four five six"))])
    with TestClient(
        create_app(engine, tokenizer, Settings()), raise_server_exceptions=False
    ) as client:
        for store in (False, True):
            text = client.post(
                "/v1/responses", json={"input": "x", "stream": True, "store": store}
            ).text
            events = events_of(text)
            assert events[-1]["type"] == "response.failed"
            response = events[-1]["response"]
            assert (
                response["status"] == "failed"
                and "the disk is full" in response["error"]["message"]
            )
            assert (
                response["output"][0]["status"] == "incomplete"
                and response["output"][0]["content"][0]["text"]
            )
        stored = client.get(f"/v1/responses/{response['id']}").json()
        assert stored == response
        plain = client.post("/v1/responses", json={"input": "x"})
        assert plain.status_code >= 400 and "the disk is full" in plain.json()["error"]["message"]
