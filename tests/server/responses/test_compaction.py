"""Summaries in the place of a conversation: the route, the trigger, the threshold, and how they are
read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
from responses_wire import CALL, FINAL, THOUGHT, F, Server, fold, serving

from ossia.server import Settings
from ossia.server.responses.compaction import WANTED
from ossia.tokenizer import Tokenizer

SUMMARY = FINAL.format("Goal: greet. Last results: 42.")
DONE = FINAL.format("Done.")
CALLED = CALL.format("functions.f", '{"a":1}')
TRIGGER = {"type": "compaction_trigger"}
READ = "<|start|>user<|message|>Summary of the conversation so far: Goal: greet. Last results: 42."


@pytest.fixture(scope="module")
def server(tokenizer: Tokenizer) -> Iterator[Server]:
    with serving(tokenizer, Settings(model_name="nano", secret=b"a secret of the tests")) as made:
        yield made


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def history(server: Server) -> list[dict[str, Any]]:
    """A conversation with a call and its result."""
    first = server.says(THOUGHT.format("Hidden.") + CALLED).create(tools=[F])
    call = first["output"][-1]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
    said = {"role": "assistant", "content": "It is 42."}
    return [{"role": "developer", "content": "Be kind."}, user("hello"), *first["output"], output,
            said]  # fmt: skip


def compact(server: Server, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = server.client.post("/v1/responses/compact", json=body)
    assert answer.status_code == status, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_users_messages_and_a_summary(server: Server) -> None:
    items = history(server)
    made = compact(server.says(SUMMARY), input=items, instructions="Speak plainly.")
    assert made["object"] == "response.compaction" and made["usage"]["output_tokens"] > 0
    *kept, summary = made["output"]
    assert [(item["role"], item["content"][0]["text"]) for item in kept] == [
        ("developer", "Be kind."),
        ("user", "hello"),
    ]
    assert summary["type"] == "compaction" and "greet" not in str(summary)
    assert "Reasoning: low" in server.prompt and WANTED in server.prompt
    assert "Speak plainly." in server.prompt and "42" in server.prompt
    server.says(DONE).create(input=[*made["output"], user("And?")])
    assert READ in server.prompt and "Be kind." in server.prompt
    assert '{"a":1}' not in server.prompt and "Hidden." not in server.prompt


def test_the_official_client(server: Server) -> None:
    client = openai.OpenAI(
        base_url="http://testserver/v1", api_key="x", http_client=server.client, max_retries=0
    )
    server.says(SUMMARY)
    made = client.responses.compact(model="gpt-oss-20b", input="hello")
    assert made.object == "response.compaction"
    assert [item.type for item in made.output] == ["message", "compaction"]
    server.says(DONE)
    window: Any = made.to_dict(warnings=False)["output"]
    rules: Any = [{"type": "compaction", "compact_threshold": 100_000}]
    body = client.responses.create(model="nano", input=window, context_management=rules)
    assert body.output_text == "Done." and READ in server.prompt


def test_no_tool_is_called_for_a_summary(server: Server) -> None:
    """What the model says instead is told it; then there is no summary."""
    answer = server.says(CALLED, SUMMARY)
    made = compact(answer, input=history(server), tools=[F])
    assert made["output"][-1]["type"] == "compaction"
    error = compact(server.says(CALLED), 400, input="hello", tools=[F])["error"]
    assert error["code"] == "no_summary"


def test_a_trigger_gives_the_summary_alone(server: Server) -> None:
    items = history(server)
    events = server.says(SUMMARY).stream(input=[*items, TRIGGER])
    names = [event["type"].removeprefix("response.") for event in events]
    assert names == [
        "created",
        "in_progress",
        "output_item.added",
        "compaction.compacting",
        "output_item.done",
        "completed",
    ]
    body = fold(events)
    assert [item["type"] for item in body["output"]] == ["compaction"]
    assert body["usage"]["output_tokens"] > 0
    server.says(DONE).create(previous_response_id=body["id"], input="And?")
    assert READ in server.prompt and '{"a":1}' not in server.prompt
    error = server.create(400, input=[TRIGGER, user("hello")])
    assert error["param"] == "input[0]"


def test_a_threshold(server: Server) -> None:
    items = [*history(server), user("And?")]
    rules = [{"type": "compaction", "compact_threshold": 10}]
    events = server.says(SUMMARY, DONE).stream(input=items, context_management=rules)
    body = fold(events)
    assert [item["type"] for item in body["output"]] == ["compaction", "message"]
    assert READ in server.prompt and "And?" in server.prompt and "Hidden" not in server.prompt
    again = server.says(DONE).create(
        previous_response_id=body["id"], input="More?", context_management=rules
    )
    assert [item["type"] for item in again["output"]] in (["message"], ["compaction", "message"])
    rules = [{"type": "compaction", "compact_threshold": 100_000}]
    body = server.says(DONE).create(input=items, context_management=rules)
    assert [item["type"] for item in body["output"]] == ["message"]
    for wrong in ({"type": "other"}, {"type": "compaction", "compact_threshold": 0}):
        error = server.create(400, context_management=[wrong])
        assert error["param"].startswith("context_management[0]")


def test_nothing_to_gain(server: Server) -> None:
    """Messages of the user's stay, so that a summary of them alone makes nothing shorter."""
    rules = [{"type": "compaction", "compact_threshold": 1}]
    body = server.says(DONE).create(input="hello", context_management=rules)
    assert [item["type"] for item in body["output"]] == ["message"]


def test_the_usage_counts_the_summary(server: Server) -> None:
    items = [*history(server), user("And?")]
    plain = server.says(DONE).create(input=items)["usage"]
    rules = [{"type": "compaction", "compact_threshold": 10}]
    both = server.says(SUMMARY, DONE).create(input=items, context_management=rules)["usage"]
    assert both["output_tokens"] > plain["output_tokens"]


def test_a_summary_that_cannot_be_opened(server: Server) -> None:
    item = {"type": "compaction", "encrypted_content": "of-another-server"}
    server.says(DONE).create(input=[user("first"), item, user("hello")])
    assert "Summary of the conversation so far: (it was written for another" in server.prompt
    assert "first" in server.prompt


def test_a_conversation_longer_than_the_context(tokenizer: Tokenizer) -> None:
    """The oldest is left out of what is summarized; the client's wish is not refused."""
    long = [user("hello"), *({"role": "assistant", "content": "word " * 900} for _ in range(40))]
    with serving(tokenizer) as server:
        server.engine.config = replace(server.engine.config, max_context_length=4096)
        made = compact(server.says(SUMMARY), input=[*long, user("And?")])
        assert made["output"][-1]["type"] == "compaction"
        assert len(server.engine.submitted[-1]) <= 4096
