"""Nothing of anybody's text is in the log: not of what is asked, said, called or found, nor of what
is refused, on any API.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from responses_wire import Python

from ossia.server import Settings, logs
from ossia.server.access import secret_digest
from ossia.server.settings import ApiKey, Limits
from ossia.tools.containers import Containers

pytestmark = pytest.mark.anyio
MARKER = "Qz8marker"
FINAL = f"<|channel|>final<|message|>{MARKER} said<|return|>"
THOUGHT = f"<|channel|>analysis<|message|>{MARKER} thought<|end|><|start|>assistant"
CALL = '<|channel|>commentary to=functions.{0}<|message|>{{"x": "Qz8marker"}}<|call|>'
CODE = f"<|channel|>analysis to=python<|message|>print('{MARKER}')<|call|>"
SAID = {
    "an answer": [f"{THOUGHT}{FINAL}"],
    "a call": [f"{THOUGHT}{CALL.format('f')}"],
    "a call of a tool that is not there": [CALL.format(MARKER), FINAL],
    "arguments that are no JSON": [
        f"<|channel|>commentary to=functions.f<|message|>{{{MARKER}<|call|>",
        FINAL,
    ],
    "code of the server's": [CODE, FINAL],
    "damaged Harmony": [
        f"<|channel|>{MARKER}<|message|>{MARKER}<|channel|>final<|message|>{MARKER}<|return|>"
    ],
    "nothing": [[]],
}
SCHEMA = {
    "type": "object",
    "properties": {MARKER: {"type": "string", "pattern": f"^{MARKER}(?!x)"}},
}
FUNCTION = {"name": "f", "description": MARKER, "parameters": SCHEMA}
TEXT = [{"role": "user", "content": MARKER}]
CHAT = {"messages": TEXT, "tools": [{"type": "function", "function": FUNCTION}], "user": MARKER}
RESPONSE = {
    "input": MARKER,
    "instructions": MARKER,
    "metadata": {"about": MARKER},
    "tools": [{"type": "function", **FUNCTION}, {"type": "python"}],
}
MESSAGE = {
    "messages": TEXT,
    "max_tokens": 100,
    "system": MARKER,
    "tools": [{"name": "f", "description": MARKER, "input_schema": SCHEMA}],
}
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", CHAT | {"stream": True}),
    ("/v1/responses", RESPONSE),
    ("/v1/responses", RESPONSE | {"stream": True}),
    ("/v1/responses", RESPONSE | {"background": True}),
    ("/v1/messages", MESSAGE),
    ("/v1/messages", MESSAGE | {"stream": True}),
    ("/v1/completions", {"prompt": MARKER, "echo": True, "logprobs": 1}),
    ("/api/chat", {"messages": TEXT}),
    ("/api/generate", {"prompt": MARKER}),
    ("/tokenize", {"prompt": MARKER}),
    ("/tokenize", {"messages": TEXT}),
    ("/v1/messages/count_tokens", {"messages": TEXT}),
    ("/v1/responses/input_tokens", {"input": MARKER}),
    ("/v1/responses/compact", {"input": MARKER}),
    (
        "/v1/conversations",
        {"metadata": {"about": MARKER}, "items": [{"role": "user", "content": MARKER}]},
    ),
    ("/v1/containers", {"name": MARKER}),
]
# fields that hold the marker in the wrong place, put into every body
WRONG: list[dict[str, Any]] = [
    {"temperature": MARKER}, {"model": MARKER, "tools": MARKER}, {"messages": MARKER, "input": 7},
    {"tool_choice": MARKER}, {MARKER: MARKER}, {"stop": [MARKER] * 99}, {"metadata": MARKER},
    {"previous_response_id": MARKER}, {"conversation": MARKER}, {"max_tokens": MARKER},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": MARKER}}}},
    {"text": {"format": {"type": "json_schema", "name": MARKER, "schema": {"$ref": MARKER}}}},
    {"tools": [{"type": "custom", "name": MARKER, "format": {"type": "grammar", "syntax": "lark",
                "definition": f"start: {MARKER}"}}]},
    {"messages": [{"role": MARKER, "content": MARKER}], "input": [{"type": MARKER}]},
    {"prompt": {MARKER: MARKER}, "system": {MARKER: MARKER}},
]  # fmt: skip
KEYS = (
    ApiKey("ann", secret_digest("ann")),
    ApiKey("boss", secret_digest("boss"), Limits(admin=True)),
)
ANN = {"x-api-key": "ann"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a server writes. Every logger is as it was afterwards."""
    names = ("ossia", "uvicorn.error", "mcp", "httpx2", "httpcore2")
    loggers = [logging.getLogger(name) for name in names]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    stream = io.StringIO()
    logs.set_up(stream)
    try:
        yield stream
    finally:
        for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
            each.handlers[:] = handlers
            each.setLevel(level)
            each.propagate = propagate


def check(stream: io.StringIO, requests: int) -> None:
    """That there is a line for each request, and nowhere the marker, however it is written."""
    text = stream.getvalue()
    assert len(re.findall(" id=req_", text)) >= requests
    for form in (MARKER, MARKER.lower(), MARKER[:6], MARKER.encode().hex()):
        lines = [line for line in text.splitlines() if form in line]
        assert not lines, lines[:3]


@pytest.mark.parametrize("said", SAID)
async def test_nothing_that_is_asked_or_said(
    said: str, client_for: Any, written: io.StringIO, tmp_path: Any
) -> None:
    made = {"builtin": [Python()], "containers": Containers(tmp_path)}
    async with client_for(*SAID[said], settings=Settings(keys=KEYS), **made) as client:
        statuses = []
        for path, body in ASKED:
            client.engine.submitted.clear()  # the model begins its script again
            answer = await client.post(path, json={"model": "m", **body}, headers=ANN)
            statuses.append(answer.status_code)
            place = answer.headers.get("content-location")
            assert place is None
        while client.app.state.access.running:
            await client.get("/health")
        assert said == "nothing" or set(statuses) == {200}, statuses
    check(written, len(ASKED))


async def test_nothing_that_is_refused(client_for: Any, written: io.StringIO) -> None:
    async with client_for(FINAL, settings=Settings(keys=KEYS)) as client:
        refused = 0
        for path, body in ASKED:
            for wrong in WRONG:
                answer = await client.post(path, json={"model": "m", **body, **wrong}, headers=ANN)
                refused += answer.status_code >= 400
            broken = f'{{"model": "m", "input": {MARKER}'
            await client.post(path, content=broken, headers=ANN)
        assert refused > 100
        while client.app.state.access.running:
            await client.get("/health")
    check(written, len(ASKED) * len(WRONG))
