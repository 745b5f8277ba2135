"""What tests of the Responses API share: streams read and checked, a fold of their own, tools of
the server's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import openai.types.responses as wire
from pydantic import TypeAdapter
from starlette.testclient import TestClient

from ossia.errors import ToolError
from ossia.harmony import FunctionTool, ToolNamespace
from ossia.server import ScriptedEngine, Settings, create_app
from ossia.server.hosted.mcp import McpServers
from ossia.tokenizer import Tokenizer
from ossia.tools import SessionKey, ToolResult
from ossia.tools.containers import Containers
from ossia.tools.kinds import BROWSER, PYTHON
from ossia.tools.protocol import MaybeAwaitable

PATH = "/v1/responses"
EVENT: TypeAdapter[Any] = TypeAdapter(wire.ResponseStreamEvent)
FINAL = "<|channel|>final<|message|>{}<|return|>"
THOUGHT = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
PREAMBLE = "<|channel|>commentary<|message|>{}<|end|><|start|>assistant"
CALL = "<|channel|>commentary to={} <|constrain|>json<|message|>{}<|call|>"
CUSTOM = "<|channel|>commentary to=functions.{} code<|message|>{}<|call|>"
SEARCH = "<|channel|>analysis to=browser.search code<|message|>{}<|call|>"
CODE = "<|channel|>analysis to=python code<|message|>{}<|call|>"
F = {"type": "function", "name": "f", "description": "Of a.", "parameters": {"type": "object"}}
G = {"type": "custom", "name": "g", "description": "Text."}
SPACE = {
    "type": "namespace",
    "name": "team",
    "description": "Others.",
    "tools": [F | {"name": "spawn"}],
}
HOSTED = [{"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}]


class Stateless:
    """A tool that is its own session."""

    def session(self, key: SessionKey) -> Self:
        return self

    def call(self, function: str, text: str, deadline: float | None) -> MaybeAwaitable[ToolResult]:
        return self.run(function, text)

    async def run(self, function: str, text: str) -> ToolResult:
        raise NotImplementedError

    def close(self) -> None:
        return None


class Browser(Stateless):
    """Finds one page, whatever is searched for; `fail` makes it fail."""

    kind = BROWSER
    namespace = ToolNamespace(
        "browser", "A browser.", (FunctionTool("search", "", {"type": "object"}),)
    )

    def __init__(self) -> None:
        self.runs = 0
        self.fail = False

    def citable(self, cursor: int) -> dict[str, str] | None:
        shown = 0 <= cursor < self.runs
        return {"url": "https://page.example/", "title": "A page"} if shown else None

    def action(self, function: str, text: str) -> dict[str, Any]:
        return {"type": "search", "query": text[:20]}

    async def run(self, function: str, text: str) -> ToolResult:
        self.runs += 1
        if self.fail:
            raise ToolError("no network")
        page = {"cursor": self.runs - 1, "url": "https://page.example/", "title": "A page"}
        return ToolResult(f"[{self.runs - 1}] what the page says", (page,))


class Python(Stateless):
    kind = PYTHON
    namespace = ToolNamespace("python", "Runs code.")

    def action(self, function: str, text: str) -> dict[str, Any]:
        return {"container_id": "cntr_1"}

    async def run(self, function: str, text: str) -> ToolResult:
        return ToolResult("42", ({"type": "logs", "logs": "42"},))


class Server:
    """An application whose model says what `says` is set to, one text a sample, from the first at
    every `says`.
    """

    def __init__(self, tokenizer: Tokenizer, client: TestClient, engine: ScriptedEngine) -> None:
        self.tokenizer, self.client, self.engine = tokenizer, client, engine
        self.scripts: list[list[int]] = []
        self.said = 0

    def says(self, *texts: str | list[int]) -> Server:
        self.scripts = [
            self.tokenizer.encode_with_specials(t) if isinstance(t, str) else t for t in texts
        ]
        self.said = 0
        return self

    def next(self) -> list[int]:
        self.said += 1
        return self.scripts[min(self.said, len(self.scripts)) - 1]

    @property
    def prompt(self) -> str:
        """What the model was asked last."""
        return self.tokenizer.decode(self.engine.submitted[-1])

    def create(self, status: int = 200, **body: Any) -> dict[str, Any]:
        answer = self.client.post(PATH, json={"input": "hello", **body})
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found if status == 200 else found["error"]

    def stream(self, **body: Any) -> list[dict[str, Any]]:
        answer = self.client.post(PATH, json={"input": "hello", **body, "stream": True})
        assert answer.status_code == 200, answer.text
        return events_of(answer.text)


@contextmanager
def serving(
    tokenizer: Tokenizer,
    settings: Settings | None = None,
    *,
    certain: bool = False,
    builtin: Sequence[Any] | None = None,
    containers: Containers | None = None,
    mcp: McpServers | None = None,
) -> Iterator[Server]:
    """`certain`: the engine says that it enforces constraints, so that calls are shown as they
    come. `builtin`: tools of the server's; None: those below.
    """
    box: list[Server] = []
    engine = ScriptedEngine(lambda prompt: box[0].next())
    engine.enforces_constraints = certain  # type: ignore[misc]
    app = create_app(
        engine,
        tokenizer,
        settings or Settings(model_name="nano"),
        builtin=[Browser(), Python()] if builtin is None else builtin,
        containers=containers,
        mcp=mcp,
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        box.append(Server(tokenizer, client, engine))
        yield box[0]


def events_of(text: str) -> list[dict[str, Any]]:
    """The events of a stream, each one that the official client knows, numbered without a gap."""
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            name, data = lines
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
            EVENT.validate_python(_known(events[-1]))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def _known(event: dict[str, Any]) -> dict[str, Any]:
    """With an error's code that the client's types have: it lacks the one that Codex waits for."""
    error = (event.get("response") or {}).get("error") or {}
    if error.get("code") != "context_length_exceeded":
        return event
    return {**event, "response": {**event["response"], "error": error | {"code": "invalid_prompt"}}}


def fold(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The Response that a client makes of the stream, with the output from the small events alone;
    asserts that the large ones say the same, and the order that the API promises.
    """
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    response = {**events[0]["response"], "output": []}
    output: list[dict[str, Any]] = response["output"]
    for event in events[2:-1]:
        _FOLD[event["type"].split(".")[1]](output, event)
    for item in output:
        assert item.get("status") != "in_progress" and item.pop("is done")
    last = events[-1]
    assert last["type"] == f"response.{last['response']['status']}"
    assert last["response"]["output"] == output
    return {**last["response"], "output": output}


def _item(output: list[dict[str, Any]], event: dict[str, Any]) -> dict[str, Any]:
    item = output[event["output_index"]]
    assert item["id"] == event["item_id"] and "is done" not in item
    return item


def _output_item(output: list[dict[str, Any]], event: dict[str, Any]) -> None:
    if event["type"].endswith("added"):
        assert event["output_index"] == len(output)
        output.append(json.loads(json.dumps(event["item"])))
        return
    item = output[event["output_index"]]
    late = (
        "status",
        "encrypted_content",
        "action",
        "outputs",
        "tools",
        "error",
        "output",
    )  # no small event tells these
    assert {k: v for k, v in item.items() if k not in late} == {
        k: v for k, v in event["item"].items() if k not in late
    }
    output[event["output_index"]] = {**event["item"], "is done": True}


def _part(output: list[dict[str, Any]], event: dict[str, Any]) -> None:
    content = _item(output, event)["content"]
    if event["type"].endswith("added"):
        assert event["content_index"] == len(content)
        content.append(event["part"])
    else:
        assert content[event["content_index"]] == event["part"]


def _text(output: list[dict[str, Any]], event: dict[str, Any]) -> None:
    part = _item(output, event)["content"][event["content_index"]]
    if event["type"].endswith("annotation.added"):
        assert event["annotation_index"] == len(part["annotations"])
        part["annotations"].append(event["annotation"])
    elif event["type"].endswith("delta"):
        part["text"] += event["delta"]
        part.setdefault("logprobs", []).extend(event.get("logprobs", []))
        if part["type"] == "reasoning_text":
            del part["logprobs"]
    else:
        assert part["text"] == event["text"] and part.get("logprobs", []) == event.get(
            "logprobs", []
        )


def _summary(output: list[dict[str, Any]], event: dict[str, Any]) -> None:
    parts = _item(output, event)["summary"]
    match event["type"].removeprefix("response.reasoning_summary_"):
        case "part.added":
            assert event["summary_index"] == len(parts)
            parts.append(event["part"])
        case "text.delta":
            parts[event["summary_index"]]["text"] += event["delta"]
        case "text.done":
            assert parts[event["summary_index"]]["text"] == event["text"]
        case "part.done":
            assert parts[event["summary_index"]] == event["part"]


def _stage(output: list[dict[str, Any]], event: dict[str, Any]) -> None:
    assert _item(output, event)["type"] == event["type"].split(".")[1]


def _body(key: str) -> Callable[[list[dict[str, Any]], dict[str, Any]], None]:
    def grow(output: list[dict[str, Any]], event: dict[str, Any]) -> None:
        item = _item(output, event)
        if event["type"].endswith("delta"):
            item[key] += event["delta"]
        else:
            assert item[key] == event[key]

    return grow


def _command(output: list[dict[str, Any]], event: dict[str, Any]) -> None:
    commands = _item(output, event)["action"]["commands"]
    number = event["command_index"]
    if event["type"].endswith("added"):
        assert number == len(commands)
        commands.append(event["command"])
    elif event["type"].endswith("delta"):
        commands[number] += event["delta"]
    else:
        assert commands[number] == event["command"]


def _printed(output: list[dict[str, Any]], event: dict[str, Any]) -> None:
    """The deltas add up to the outputs, which have an outcome besides."""
    printed = _item(output, event)["output"]
    number = event["command_index"]
    if event["type"].endswith("delta"):
        assert number == len(printed)
        printed.append({"stdout": "", "stderr": "", **event["delta"]})
    else:
        assert [{**printed[number], "outcome": event["output"][0]["outcome"]}] == event["output"]
        printed[number] = event["output"][0]


_FOLD: dict[str, Callable[[list[dict[str, Any]], dict[str, Any]], None]] = {
    "output_item": _output_item,
    "content_part": _part,
    "output_text": _text,
    "reasoning_text": _text,
    "reasoning_summary_part": _summary,
    "reasoning_summary_text": _summary,
    "function_call_arguments": _body("arguments"),
    "custom_tool_call_input": _body("input"),
    "code_interpreter_call_code": _body("code"),
    "code_interpreter_call": _stage,
    "web_search_call": _stage,
    "mcp_call": _stage,
    "mcp_call_arguments": _body("arguments"),
    "mcp_list_tools": _stage,
    "shell_call_command": _command,
    "shell_call_output_content": _printed,
    "compaction": _stage,
}

NAMES = ("id", "call_id", "created_at", "completed_at", "encrypted_content", "container_id")


def nameless(value: Any) -> Any:
    """Without ids and times, and without what was sealed, which is never the same twice."""
    if isinstance(value, dict):
        return {
            key: "*" if key in NAMES and each else nameless(each) for key, each in value.items()
        }
    return [nameless(each) for each in value] if isinstance(value, list) else value
