"""Damaged Harmony through the APIs, streamed and whole: no status of 500, nothing in the log, no
reasoning or control token in what is for the user, and both forms of an answer say the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from answer_events import THOUGHT, Damage
from harmony_streams import Streams

from ossia.server import ScriptedEngine, Settings, create_app
from ossia.tokenizer import Tokenizer

CORPUS = json.loads((Path(__file__).parents[1] / "harmony" / "harmony_malformed.json").read_text())
MARK = THOUGHT[:3]  # in every thought, and nowhere else
PARAMETERS = {"type": "object", "properties": {"place": {"type": "string"}}}
DECLARED = {"name": "weather", "description": "Of a place.", "parameters": PARAMETERS}
MESSAGES = [{"role": "user", "content": "What now?"}]
APIS = ("chat", "responses", "messages")
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES,
        "tools": [{"type": "function", "function": DECLARED}]}),
    "responses": ("/v1/responses", {"input": "What now?",
        "tools": [{"type": "function", **DECLARED}]}),
    "messages": (
        "/v1/messages",
        {
            "messages": MESSAGES, "max_tokens": 400,
            "tools": [{"name": "weather", "description": "Of a place.",
                "input_schema": PARAMETERS}],
        },
    ),
}  # fmt: skip


class Talk:
    """A client, and the model behind it, which says `scripts` one after the other."""

    def __init__(self, tokenizer: Tokenizer, client: httpx.AsyncClient) -> None:
        self.tokenizer, self.client = tokenizer, client
        self.scripts: list[list[int]] = []

    async def asked(self, scripts: Sequence[list[int]], api: str, stream: bool) -> Shown:
        path, body = BODIES[api]
        self.scripts = list(scripts)
        response = await self.client.post(path, json={"model": "nano", "stream": stream, **body})
        assert response.status_code == 200, response.text
        return FOLDED[api](events_in(response.text)) if stream else READ[api](response.json())

    def says(self, prompt: list[int]) -> list[int]:
        return self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]


@asynccontextmanager
async def talking(tokenizer: Tokenizer) -> AsyncIterator[Talk]:
    talk: Talk
    engine = ScriptedEngine(lambda prompt: talk.says(prompt))
    app = create_app(engine, tokenizer, Settings(model_name="nano", constrained=False))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://server", timeout=20
        ) as client:
            talk = Talk(tokenizer, client)
            yield talk


@contextmanager
def named(what: object) -> Iterator[None]:
    """Says of an error which case it is of."""
    try:
        yield
    except AssertionError as error:
        error.add_note(f"of {what}")
        raise


def events_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


class Shown:
    """What a client shows of an answer: its text, and names and inputs of its calls."""

    def __init__(
        self, text: str = "", calls: Sequence[tuple[str, str]] = (), end: str = ""
    ) -> None:
        self.text, self.calls, self.end = text, list(calls), end

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shown) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return f"Shown{vars(self)}"


def chat_body(body: dict[str, Any]) -> Shown:
    (choice,) = body["choices"]
    calls = [
        (c["function"]["name"], c["function"]["arguments"])
        for c in choice["message"].get("tool_calls") or []
    ]
    return Shown(choice["message"]["content"] or "", calls, choice["finish_reason"])


def chat_stream(events: list[dict[str, Any]]) -> Shown:
    assert all("error" not in event for event in events), events
    shown, calls = Shown(), dict[int, list[str]]()
    for event in events:
        for choice in event["choices"]:
            shown.text += choice["delta"].get("content") or ""
            shown.end = choice["finish_reason"] or shown.end
            for call in choice["delta"].get("tool_calls") or []:
                parts = calls.setdefault(call["index"], ["", ""])
                parts[0] += call["function"].get("name") or ""
                parts[1] += call["function"].get("arguments") or ""
    shown.calls = [(name, arguments) for name, arguments in calls.values()]
    return shown


def responses_body(body: dict[str, Any]) -> Shown:
    assert body["status"] in ("completed", "incomplete"), body
    shown = Shown(end=body["status"])
    for item in body["output"]:
        if item["type"] == "message":
            shown.text += "".join(part["text"] for part in item["content"])
        elif item["type"] == "function_call":
            shown.calls.append((item["name"], item["arguments"]))
        else:
            assert item["type"] == "reasoning"
    return shown


def responses_stream(events: list[dict[str, Any]]) -> Shown:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    text = "".join(
        event["delta"] for event in events if event["type"] == "response.output_text.delta"
    )
    shown = responses_body(events[-1]["response"])
    assert shown.text == text
    open_items = 0
    for event in events:
        open_items += {"response.output_item.added": 1, "response.output_item.done": -1}.get(
            event["type"], 0
        )
        assert 0 <= open_items <= 1 and event["type"] != "error"
    return shown


def messages_body(body: dict[str, Any]) -> Shown:
    shown = Shown(end=body["stop_reason"])
    for block in body["content"]:
        if block["type"] == "text":
            shown.text += block["text"]
        elif block["type"] == "tool_use":
            shown.calls.append((block["name"], json.dumps(block["input"])))
    return shown


def messages_stream(events: list[dict[str, Any]]) -> Shown:
    shown, names, inputs = Shown(), dict[int, str](), dict[int, str]()
    for event in events:
        assert event["type"] != "error", event
        if event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use":
            names[event["index"]], inputs[event["index"]] = event["content_block"]["name"], ""
        elif event["type"] == "content_block_delta":
            shown.text += event["delta"].get("text", "")
            if "partial_json" in event["delta"]:
                inputs[event["index"]] += event["delta"]["partial_json"]
        elif event["type"] == "message_delta":
            shown.end = event["delta"]["stop_reason"]
    shown.calls = [(name, inputs[index]) for index, name in names.items()]
    return shown


READ: dict[str, Callable[[dict[str, Any]], Shown]] = {
    "chat": chat_body, "responses": responses_body, "messages": messages_body,
}  # fmt: skip
FOLDED: dict[str, Callable[[list[dict[str, Any]]], Shown]] = {
    "chat": chat_stream, "responses": responses_stream, "messages": messages_stream,
}  # fmt: skip


async def check(
    talk: Talk, scripts: Sequence[list[int]], api: str, specials_are_text: bool = False
) -> Shown:
    whole, streamed = await talk.asked(scripts, api, False), await talk.asked(scripts, api, True)
    if api == "messages":  # inputs are objects in the one and text in the other
        assert [name for name, _ in whole.calls] == [name for name, _ in streamed.calls]
        whole.calls = streamed.calls
    assert whole == streamed
    if not specials_are_text:
        shown = whole.text + "".join(name + text for name, text in whole.calls)
        assert not [name for name in talk.tokenizer.specials if name in shown]
    return whole


@pytest.fixture(autouse=True)
def nothing_is_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert [
        record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info
    ] == []


async def recorded(api: str) -> None:
    async with talking(Tokenizer.o200k_harmony()) as talk:
        for entry in CORPUS:
            written = "".join(message[4] for message in entry["expected"])
            reasoning = [
                m[4]
                for m in entry["expected"]
                if m[1] == "analysis" and m[2] is None and len(m[4]) > 3
            ]
            with named(entry["id"]):
                shown = await check(talk, [entry["tokens"]], api, "<|" in written)
                assert not [text for text in reasoning if text in shown.text]


async def damaged(tokenizer: Tokenizer, seeds: Iterable[int], api: str) -> None:
    damage = Damage(tokenizer)
    async with talking(tokenizer) as talk:
        for seed in seeds:
            rng = random.Random(seed)
            with named(seed):
                shown = await check(talk, [damage.turn(rng) for _ in range(4)], api)
                assert MARK not in shown.text and not [
                    text for _, text in shown.calls if MARK in text
                ]


async def noisy(tokenizer: Tokenizer, seeds: Iterable[int], api: str) -> None:
    """Anything at all, which may say of itself what it likes; "<|end|>" in plain letters, for
    one.
    """
    streams = Streams.of(tokenizer)
    async with talking(tokenizer) as talk:
        for seed in seeds:
            rng = random.Random(seed)
            scripts = [streams.any(rng)[0] or [streams.structure[0]] for _ in range(4)]
            with named(seed):
                await check(talk, scripts, api, specials_are_text=True)


@pytest.mark.parametrize("api", APIS)
def test_recorded_damage(api: str) -> None:
    asyncio.run(recorded(api))


@pytest.mark.parametrize("api", APIS)
def test_damaged_turns(tokenizer: Tokenizer, api: str) -> None:
    asyncio.run(damaged(tokenizer, range(60), api))


@pytest.mark.parametrize("api", APIS)
def test_noise(tokenizer: Tokenizer, api: str) -> None:
    asyncio.run(noisy(tokenizer, range(30), api))


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS)
def test_five_hundred_streams(tokenizer: Tokenizer, api: str) -> None:
    asyncio.run(damaged(tokenizer, range(1000, 1350), api))
    asyncio.run(noisy(tokenizer, range(1350, 1500), api))
