"""Formats and tools that would overturn the grammar compiler, on every door: refused by name,
before anything costly; and what is compiled ends with its client.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from grammar_cases import counted

from ossia.errors import GrammarSizeError
from ossia.harmony import FunctionTool, content
from ossia.harmony.grammar import bodies, compiling, kept
from ossia.harmony.grammar.kept import FormatCache
from ossia.llm import LLM
from ossia.server import ScriptedEngine, Settings, service
from ossia.server.access import LEASE
from ossia.server.answer import LONG
from ossia.server.places import Places
from ossia.server.service import Service
from ossia.tools import Toolbox

pytestmark = pytest.mark.anyio
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
OLLAMA = "/api/chat"
USER = [{"role": "user", "content": "1"}]
LINKS = {
    f"d{n}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}}
    for n in range(1000)
}
CHAIN = {
    "$defs": {**LINKS, "d1000": {"type": "integer"}},
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/d0"}},
}
LARK = "start: A0\n" + "".join(f'A{n}: A{n + 1} "x"\n' for n in range(4000)) + 'A4000: "y"'
TOOL = {"name": "f", "parameters": CHAIN}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": LARK}
JSON = {"type": "json_schema", "json_schema": {"name": "x", "schema": CHAIN, "strict": False}}
DOORS: dict[str, tuple[str, dict[str, Any], str]] = {
    "response_format": (CHAT, {"response_format": JSON}, "response_format"),
    "tool": (CHAT, {"tools": [{"type": "function", "function": TOOL}]}, "tools"),
    "strict tool": (
        CHAT,
        {"tools": [{"type": "function", "function": TOOL | {"strict": True}}]},
        "tools",
    ),
    "custom tool": (
        CHAT,
        {"tools": [{"type": "custom", "custom": {"name": "c", "format": GRAMMAR}}]},
        "tools",
    ),
    "guided_json": (CHAT, {"guided_json": CHAIN}, "guided_json"),
    "guided_grammar": (CHAT, {"guided_grammar": LARK}, "guided_grammar"),
    "guided_regex": (CHAT, {"guided_regex": "a?" * 3000}, "guided_regex"),
    "structured_outputs": (
        CHAT,
        {"structured_outputs": {"json": CHAIN}},
        "structured_outputs.json",
    ),
    "text.format": (
        RESPONSES,
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": CHAIN}}},
        "text.format",
    ),
    "responses tool": (RESPONSES, {"tools": [{"type": "function", **TOOL}]}, "tools"),
    "streamed": (RESPONSES, {"tools": [{"type": "function", **TOOL}], "stream": True}, "tools"),
    "responses custom": (
        RESPONSES,
        {"tools": [{"type": "custom", "name": "c", "format": GRAMMAR}]},
        "tools",
    ),
    "anthropic": (MESSAGES, {"tools": [{"name": "f", "input_schema": CHAIN}]}, "tools"),
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> FormatCache:
    made = FormatCache()
    monkeypatch.setattr(bodies, "_CACHE", made)
    return made


def asked(path: str, body: dict[str, Any]) -> dict[str, Any]:
    if path == RESPONSES:
        return {"input": "1", **body}
    return {"messages": USER, "max_tokens": 5, **body}


@pytest.mark.parametrize(("path", "body", "field"), DOORS.values(), ids=DOORS)
async def test_every_door_refuses_by_name(
    path: str, body: dict[str, Any], field: str, client_for: Callable[..., Any]
) -> None:
    async with client_for("<|channel|>final<|message|>Fine.<|return|>") as client:
        response = await client.post(path, json=asked(path, body))
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert "allowed" in error["message"] and " has " in error["message"], error
        if path != MESSAGES:
            assert (error["code"], error["param"]) == ("grammar_too_large", field)


DEEP: dict[str, Any] = {"type": "integer"}
for _ in range(60):
    DEEP = {"type": "object", "properties": {"a": DEEP}}
DEEPER: dict[str, Any] = {"properties": {"a": DEEP}}
for _ in range(150):
    DEEPER = {"items": DEEPER}


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, OLLAMA])
async def test_a_tool_too_deep_for_the_prompt_is_named(
    path: str, client_for: Callable[..., Any]
) -> None:
    function = {"name": "f", "parameters": DEEP}
    tools: dict[str, Any] = {
        CHAT: {"type": "function", "function": function},
        OLLAMA: {"type": "function", "function": function},
        RESPONSES: {"type": "function", **function},
        MESSAGES: {"name": "f", "input_schema": DEEP},
    }
    async with client_for("<|channel|>final<|message|>Fine.<|return|>") as client:
        response = await client.post(path, json=asked(path, {"tools": [tools[path]]}))
        assert response.status_code == 400
        assert "tool 'f'" in response.text and "100 levels" in response.text
        if path in (CHAT, RESPONSES):
            assert response.json()["error"]["param"] == "tools"
        if path == RESPONSES:
            deeper = {"type": "function", "name": "f", "parameters": DEEPER}
            response = await client.post(path, json=asked(path, {"tools": [deeper]}))
            assert response.status_code == 400 and "cannot be echoed: tools: " in response.text


ODD = {
    "type": "object",
    "properties": {"a": {"const": 1}, "b": {"type": "string", "not": {"const": "x"}}},
    "required": ["a"],
}
OF_SCHEMA = {"type": "json_schema", "schema": ODD}


@pytest.mark.parametrize(
    ("path", "body", "is_relaxed"),
    [
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": OF_SCHEMA}}, True),
        (CHAT, {"guided_json": ODD}, True),
        (CHAT, {"structured_outputs": {"json": ODD}}, True),
        (RESPONSES, {"text": {"format": OF_SCHEMA | {"name": "x"}}}, True),
        (OLLAMA, {"format": ODD, "stream": False}, True),
        (RESPONSES, {"text": {"format": OF_SCHEMA | {"name": "x", "strict": True}}}, False),
        (MESSAGES, {"output_config": {"format": OF_SCHEMA}}, False),
        (MESSAGES, {"output_format": OF_SCHEMA}, False),
    ],
)
async def test_one_odd_keyword_of_a_format_costs_that_keyword(
    path: str, body: dict[str, Any], is_relaxed: bool, client_for: Callable[..., Any]
) -> None:
    """Unless the format was promised to hold whole."""
    async with client_for('<|channel|>final<|message|>{"a": 1}<|return|>') as client:
        response = await client.post(path, json=asked(path, body))
        assert "#/properties/b/not" in response.text, response.text
        assert response.status_code == (200 if is_relaxed else 400)
        if is_relaxed:
            (relaxed,) = response.json()["x-ossia"]["relaxed"]
            assert relaxed["keyword"] == "#/properties/b/not"


def test_the_python_door(llm: LLM) -> None:
    with pytest.raises(GrammarSizeError) as refused:
        llm.chat("1", response_format={"type": "json_schema", "schema": CHAIN})
    assert (refused.value.field, refused.value.code) == ("response_format", "grammar_too_large")


def tools(number: int) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": f"f{n}", "parameters": one_of_its_own(n)}}
        for n in range(number)
    ]


def one_of_its_own(n: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"k{n}": {"type": "string"}}}


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, OLLAMA])
async def test_a_prompt_that_is_too_long_is_found_before_anything_is_compiled(
    path: str,
    client_for: Callable[..., Any],
    fresh: FormatCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = counted(monkeypatch)
    async with client_for("<|channel|>final<|message|>Fine.<|return|>") as client:
        long = "one two three " * 50_000
        body: dict[str, Any] = {"messages": [{"role": "user", "content": long}], "max_tokens": 5}
        functions = tools(3)
        match path:
            case "/v1/responses":
                body = {
                    "input": long,
                    "tools": [{**each["function"], "type": "function"} for each in functions],
                }
            case "/v1/messages":
                body["tools"] = [
                    {
                        "name": each["function"]["name"],
                        "input_schema": each["function"]["parameters"],
                    }
                    for each in functions
                ]
            case _:
                body["tools"] = functions
        response = await client.post(path, json=body)
        assert response.status_code == 400 and "tokens" in response.text, response.text
        assert made == []


async def test_a_bad_tool_is_compiled_once(
    client_for: Callable[..., Any], fresh: FormatCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted(monkeypatch)
    final = "<|channel|>final<|message|>Fine.<|return|>"
    async with client_for(final, final) as client:
        bad = {
            "type": "object",
            "properties": {"a": {"oneOf": [{"type": "integer"}, {"type": "number"}]}},
        }
        same = [
            {"type": "function", "function": {"name": f"f{n}", "parameters": bad}}
            for n in range(300)
        ]
        for _ in range(2):
            response = await client.post(CHAT, json={"messages": USER, "tools": same})
            assert response.status_code == 200, response.text
        assert len(made) <= 2


async def test_compiling_ends_with_its_client(
    tokenizer: Any, fresh: FormatCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those who wait for a place are not held up by who has gone."""
    began, go_on = threading.Event(), threading.Event()
    made: list[str] = []
    compile_it = compiling.matcher_of

    def matcher_of(grammar: str, ll: Any) -> Any:
        made.append(grammar)
        began.set()
        assert go_on.wait(30)
        return compile_it(grammar, ll)

    monkeypatch.setattr(kept, "matcher_of", matcher_of)
    serving = Service(ScriptedEngine([[0]]), tokenizer, Settings(model_name="nano"))

    def asking(first: int) -> asyncio.Task[Any]:
        many = tuple(FunctionTool(f"f{n}", "", one_of_its_own(first + n)) for n in range(20))
        return asyncio.ensure_future(serving.grammar(Toolbox(functions=many)))

    gone = [asking(100 * n) for n in range(4)]  # two at work, two waiting
    await asyncio.to_thread(began.wait, 30)
    for each in gone:
        each.cancel()
        with suppress(asyncio.CancelledError):
            await each
    go_on.set()
    assert await asking(1000) is not None
    assert len(made) <= 2 * 2 + 20


def lease_of(turn: str) -> Any:
    return SimpleNamespace(turn=turn, size=0, caller=SimpleNamespace(is_batch=False))


async def compiled_by(turn: str, serving: Service, functions: tuple[FunctionTool, ...]) -> Any:
    LEASE.set(lease_of(turn))  # of this task
    return await serving.grammar(Toolbox(functions=functions))


@pytest.mark.parametrize("requests", [20, 1])
async def test_callers_take_turns_at_the_compiler(
    requests: int, tokenizer: Any, fresh: FormatCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has one small tool waits for what is being compiled, not for all that another has sent,
    in many requests or in one.
    """
    monkeypatch.setattr(kept, "PART", 2 * kept.FORMAT)
    has_begun, go_on = threading.Event(), threading.Event()
    made: list[str] = []
    compile_it = compiling.matcher_of

    def matcher_of(grammar: str, ll: Any) -> Any:
        made.append(grammar)
        has_begun.set()
        assert go_on.wait(30)
        return compile_it(grammar, ll)

    monkeypatch.setattr(kept, "matcher_of", matcher_of)
    serving = Service(ScriptedEngine([[0]]), tokenizer, Settings(model_name="nano"))
    each = 40 // requests
    heavy = []
    for request in range(requests):
        functions = tuple(
            FunctionTool(f"f{n}", "", one_of_its_own(each * request + n)) for n in range(each)
        )
        heavy.append(asyncio.create_task(compiled_by("heavy", serving, functions)))
    await asyncio.to_thread(has_begun.wait, 30)
    light = (FunctionTool("l", "", one_of_its_own(1000)),)
    asked = asyncio.create_task(compiled_by("light", serving, light))
    await asyncio.sleep(0.01)
    go_on.set()
    await asked
    (place,) = (n for n, grammar in enumerate(made) if "k1000" in grammar)
    assert place <= 2 * 3, place  # of two places, what a part has
    await asyncio.gather(*heavy)
    assert len(made) == 41, "nothing twice"


async def test_a_compilation_in_parts_needs_no_cache(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was compiled stays with its request until it is whole."""
    monkeypatch.setattr(bodies, "_CACHE", FormatCache(1))
    monkeypatch.setattr(kept, "PART", 1)
    monkeypatch.setattr(Places, "is_wanted", lambda *_: True)
    made = counted(monkeypatch)
    serving = Service(ScriptedEngine([[0]]), tokenizer, Settings(model_name="nano"))
    functions = tuple(FunctionTool(f"f{n}", "", one_of_its_own(n)) for n in range(9))
    assert await compiled_by("a", serving, functions) is not None
    assert len(made) == 9


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, OLLAMA, "/api/generate"])
async def test_asking_ends_with_its_client(
    path: str, client_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ended = asyncio.Event(), asyncio.Event()
    sent: list[dict[str, Any]] = []

    async def endless(*given: Any, **more: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def receive() -> dict[str, Any]:
        if not began.is_set():
            body = asked(path, {"prompt": "1"} if path == "/api/generate" else {})
            return {"type": "http.request", "body": orjson.dumps(body), "more_body": False}
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    monkeypatch.setattr(Service, "grammar", endless)
    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"",
        "client": ("c", 1), "server": ("s", 1), "scheme": "http", "http_version": "1.1",
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    async with client_for("x") as client, asyncio.timeout(30):
        await client.app(scope, receive, send)
    assert ended.is_set(), sent


async def test_what_a_large_request_declares_is_put_together_in_a_thread(
    client_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_together = Toolbox.grammar
    threads: list[threading.Thread] = []

    def noted(self: Toolbox, *given: Any) -> Any:
        threads.append(threading.current_thread())
        return put_together(self, *given)

    monkeypatch.setattr(Toolbox, "grammar", noted)
    async with client_for("<|channel|>final<|message|>Fine.<|return|>") as client:
        for size, is_large in ((10, False), (LONG, True)):
            threads.clear()
            function = {"name": "f", "description": "d" * size}
            body = {"messages": USER, "tools": [{"type": "function", "function": function}]}
            assert (await client.post(CHAT, json=body)).status_code == 200
            assert (threads[0] is not threading.current_thread()) is is_large


async def test_the_vocabulary_is_read_when_the_server_starts(
    client_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[threading.Thread] = []
    monkeypatch.setattr(service, "vocabulary", lambda _: readers.append(threading.current_thread()))
    async with client_for("x") as client:
        await asyncio.to_thread(client.app.state.service.warm().result, 30)
    (reader,) = readers
    assert reader is not threading.current_thread()


async def test_garbage_goes_when_the_server_rests(client_for: Callable[..., Any]) -> None:
    """Python's collector waits for a quarter as much garbage as there are objects."""

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    async with client_for("x") as client:
        gc.disable()
        try:
            garbage = weakref.ref(Cycle())
            assert garbage() is not None
            client.app.state.service.worker._at_rest()
            assert garbage() is None
        finally:
            gc.enable()


async def test_what_saves_time_goes_when_the_server_rests(
    client_for: Callable[..., Any], fresh: FormatCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "RESTING", 0)
    async with client_for("<|channel|>final<|message|>Fine.<|return|>") as client:
        body = asked(CHAT, {"tools": tools(3)})
        assert (await client.post(CHAT, json=body)).status_code == 200
        types = content._types_of_json
        assert fresh.bytes > 0 and types.cache_info().currsize >= 3
        client.app.state.service.worker._at_rest()
        assert fresh.bytes == 0 and types.cache_info().currsize == 0
        assert (await client.post(CHAT, json=body)).status_code == 200
        kept = types.cache_info().currsize
        (large,) = tools(1)
        large["function"]["parameters"]["description"] = "x" * content.LARGE
        body = asked(CHAT, {"tools": [large]})
        assert (await client.post(CHAT, json=body)).status_code == 200
        assert types.cache_info().currsize == kept
