"""Answers over HTTP: from our own server in both APIs, and from servers that misbehave."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from answering_server import Reply, serving
from clients.conftest import said
from clients.conftest import serving as serving_ossia

from ossia.errors import RequestError
from ossia.evals.answers import Mark
from ossia.evals.endpoints import TRIES, Endpoint
from ossia.evals.questions import Answered, Question, Trial, trials
from ossia.harmony import DeveloperContent, Effort, Message, Role
from ossia.llm import load
from ossia.server import ScriptedEngine

MESSAGES = (
    Message(Role.DEVELOPER, DeveloperContent("Be short.")),
    Message(Role.USER, "What is 37 + 48?"),
    Message(Role.ASSISTANT, "85", channel="final"),
    Message(Role.USER, "And 2 more?"),
)
QUESTION = Question("q", "", MESSAGES, "87", lambda answered: Mark("right"))


def asked(count: int = 1, effort: Effort = Effort.HIGH) -> list[Trial]:
    return list(trials([QUESTION], [effort], count, 0))


CHAT = {
    "choices": [
        {"message": {"content": "87", "reasoning": "a secret"}, "finish_reason": "stop"},
    ],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 7,
        "completion_tokens_details": {"reasoning_tokens": 4},
    },
}
RESPONSE = {
    "status": "incomplete",
    "incomplete_details": {"reason": "max_output_tokens"},
    "output": [
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "a secret"}]},
        {
            "type": "message",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "Let me see."}],
        },
        {"type": "message", "content": [{"type": "output_text", "text": "87"}]},
    ],
    "usage": {
        "input_tokens": 9,
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 4},
    },
}


def test_chat() -> None:
    seen: list[Any] = []

    def answer(path: str, body: Any) -> Reply:
        seen.append((path, body))
        return 200, CHAT

    with serving(answer) as url:
        endpoint = Endpoint(url, "m", sampling={"temperature": 1.0, "max_tokens": 5})
        found = dict(endpoint.answer(asked(5)))
    assert found == dict.fromkeys(range(5), Answered("87", (), "stop", 7, 4, 9))
    path, body = seen[0]
    assert path == "/v1/chat/completions" and body["model"] == "m"
    assert body["reasoning_effort"] == "high" and body["temperature"] == 1.0
    assert [one["role"] for one in body["messages"]] == ["developer", "user", "assistant", "user"]
    assert body["messages"][0]["content"] == "Be short."
    assert {body["seed"] for _, body in seen} == {trial.seed for trial in asked(5)}


def test_responses() -> None:
    seen: list[Any] = []

    def answer(path: str, body: Any) -> Reply:
        seen.append((path, body))
        return 200, RESPONSE

    with serving(answer) as url:
        endpoint = Endpoint(url, "m", "responses", sampling={"max_tokens": 5})
        ((_, found),) = endpoint.answer(asked(1, Effort.LOW))
    assert found == Answered("87", (), "length", 7, 4, 9)
    path, body = seen[0]
    assert path == "/v1/responses" and body["max_output_tokens"] == 5
    assert body["reasoning"] == {"effort": "low"} and body["store"] is False


def test_what_passes_is_tried_again() -> None:
    replies = iter([(503, "busy"), (429, {"error": {"message": "slow down"}}), (200, CHAT)])
    paused: list[float] = []
    with serving(lambda path, body: next(replies)) as url:
        endpoint = Endpoint(url, "m", pause=paused.append)
        assert endpoint.one(asked()[0]).final == "87"
    assert paused == [2.0, 4.0]


@pytest.mark.parametrize(
    ("reply", "why", "tries"),
    [
        ((400, {"error": {"message": "too long"}}), "answered 400: too long", 1),
        ((404, "nothing here"), "answered 404: Not Found", 1),
        ((500, "{"), "answered 500: Internal Server Error", TRIES),
        ((200, "no json"), "is not JSON", TRIES),
        ((200, {"choices": []}), "is not one of this API", 1),
        ((200, []), "is not one of this API", 1),
    ],
)
def test_what_does_not_pass_is_a_failed_answer(reply: Reply, why: str, tries: int) -> None:
    count = 0

    def answer(path: str, body: Any) -> Reply:
        nonlocal count
        count += 1
        return reply

    with serving(answer) as url:
        endpoint = Endpoint(url, "m", pause=lambda seconds: None)
        found = endpoint.one(asked()[0])
    assert why in found.error and count == tries
    assert QUESTION.mark(found).kind == "failed"


def test_what_is_no_address_is_not_asked() -> None:
    with pytest.raises(RequestError, match=r"'127\.0\.0\.1:9/v1' is no address"):
        Endpoint("127.0.0.1:9/v1", "m")


def test_nobody_is_there() -> None:
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", pause=lambda seconds: None)
    assert "could not be asked" in endpoint.one(asked()[0]).error
    with pytest.raises(RequestError, match="does not say which models"):
        endpoint.models()
    with serving(lambda path, body: (200, {"data": [{"id": "gpt-oss"}]})) as url:
        assert Endpoint(url, "").models() == ["gpt-oss"]


def test_who_stops_listening_stops_asking() -> None:
    count = 0
    first = threading.Event()

    def answer(path: str, body: Any) -> Reply:
        nonlocal count
        count += 1
        if count > 2:
            first.wait(10)
        return 200, CHAT

    with serving(answer) as url:
        answers = Endpoint(url, "m", at_once=2).answer(asked(50))
        next(answers)
        answers.close()  # type: ignore[attr-defined]
        first.set()
    assert count <= 5


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_our_own_server(api: Any) -> None:
    """Messages arrive as they are, with the effort; reasoning does not come back as an answer."""
    tokenizer = load("nano").tokenizer
    script = tokenizer.encode_with_specials(said("87", "Not 86."))
    engine = ScriptedEngine([script])
    with serving_ossia(engine, tokenizer) as served:
        endpoint = Endpoint(served.url, "", api, sampling={"temperature": 1.0})
        assert endpoint.models() == ["nano"]
        ((_, found),) = Endpoint(served.url, "nano", api).answer(asked())
    assert found.final == "87" and found.reason == "stop" and not found.error
    assert found.tokens == len(script) and 0 < found.reasoning < found.tokens
    prompt = served.prompts[0]
    assert found.prompt == len(engine.submitted[0])
    assert "Reasoning: high" in prompt and "Be short." in prompt and "And 2 more?" in prompt


def test_numbers_that_are_none_fail_and_parts_are_text() -> None:
    odd = {**CHAT, "usage": {"completion_tokens": "many"}}
    parts = [{"type": "text", "text": "8"}, {"type": "image"}, {"type": "text", "text": "7\ud800"}]
    listed = {"choices": [{"message": {"content": parts}}]}
    replies = iter([(200, odd), (200, listed)])
    with serving(lambda path, body: next(replies)) as url:
        first, second = [Endpoint(url, "m").one(trial) for trial in asked(2)]
    assert "not one of this API" in first.error
    assert second.final == "87\ufffd"


def test_an_error_of_ours_is_raised_where_answers_are_waited_for() -> None:
    def broken(seconds: float) -> None:
        raise ZeroDivisionError

    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", pause=broken)
    with pytest.raises(ZeroDivisionError):
        list(endpoint.answer(asked(1)))


def test_keys_are_checked_and_never_shown() -> None:
    assert Endpoint("http://h", "m", key=" secret\n").key == "secret"
    with pytest.raises(RequestError) as caught:
        Endpoint("http://h", "m", key="sec\nret")
    assert "ret" not in str(caught.value)


def test_a_server_without_models() -> None:
    none = {"data": list[str]()}
    with (
        serving(lambda path, body: (200, none)) as url,
        pytest.raises(RequestError, match="no mod"),
    ):
        Endpoint(url, "").models()


def test_no_other_host_is_asked() -> None:
    other: list[str] = []

    def elsewhere(path: str, body: Any) -> Reply:
        other.append(path)
        return 200, CHAT

    with serving(elsewhere) as second, serving(lambda path, body: (302, second)) as first:
        found = Endpoint(first, "m", key="secret").one(asked()[0])
        with pytest.raises(RequestError, match="redirects to"):
            Endpoint(first, "m").models()
    assert "redirects to" in found.error and not other
