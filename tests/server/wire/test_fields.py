"""One table for four APIs: what each says to a field and a value. A row has one status and one
code, and the field that each API names; no API may answer differently.

Bodies are sent as text, so that a row may have what JSON does not: NaN, halves of characters.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from ossia.engine.request import MAX_TOP_LOGPROBS, SamplingParams
from ossia.errors import RequestError
from ossia.server.wire.fields import UNSUPPORTED
from ossia.server.wire.sampling import MAX_STOPS, SHARED, SamplingFields

FINAL = "<|channel|>final<|message|>Fine.<|return|>"
USER = [{"role": "user", "content": "Hello"}]
APIS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": USER}),
    "responses": ("/v1/responses", {"input": "Hello"}),
    "messages": ("/v1/messages", {"messages": USER, "max_tokens": 50}),
    "completions": ("/v1/completions", {"prompt": "Hello"}),
}
ALL = {api: "" for api in APIS}
# Where each API has a field; it has none where it is not listed. "": under the row's own name.
PLACES: dict[str, dict[str, str]] = {
    "stop": ALL | {"messages": "stop_sequences"},
    "max": {
        "chat": "max_tokens",
        "responses": "max_output_tokens",
        "messages": "max_tokens",
        "completions": "max_tokens",
    },
    "top_logprobs": {"chat": "", "responses": "", "completions": "logprobs"},
    "effort": {
        "chat": "reasoning_effort",
        "responses": "reasoning.effort",
        "messages": "output_config.effort",
    },
    "format": {
        "chat": "response_format",
        "responses": "text.format",
        "messages": "output_config.format",
    },
    "tools": {"chat": "", "responses": "", "messages": ""},
    "tool_choice": {"chat": "", "responses": "", "messages": ""},
    "metadata": {"chat": "", "responses": ""},
    "parallel_tool_calls": {"chat": "", "responses": ""},
    "n": {"chat": "", "completions": ""},
    "stream_options": {"chat": "", "completions": ""},
    "logit_bias": ALL,
    "thread": {"messages": ""},
    # elsewhere they are honoured
    "continue_final_message": {"messages": "", "completions": ""},
    "prompt_logprobs": {"responses": "", "messages": ""},
    "return_token_ids": {"responses": "", "messages": ""},
    "content": {"chat": "messages", "responses": "input", "messages": "messages"},
}


@dataclass(frozen=True)
class Row:
    """`value` for the field, or a function that makes it for an API. `named`: what the error says
    is wrong, the field itself if this is not given; {field} stands for it.
    """

    field: str
    value: Any
    status: int = 400
    code: str | None = None
    named: str | Mapping[str, str] = "{field}"

    def place(self, api: str) -> str | None:
        found = PLACES.get(self.field, ALL).get(api)
        return self.field if found == "" else found

    def param(self, api: str) -> str:
        named = self.named if isinstance(self.named, str) else self.named[api]
        return named.format(field=self.place(api))

    def body(self, api: str) -> str:
        value: Any = self.value(api) if callable(self.value) else self.value
        first, _, second = str(self.place(api)).partition(".")
        own = {first: {second: value} if second else value}
        if self.field == "top_logprobs" and api == "chat":
            own["logprobs"] = True
        if self.field == "tool_choice":
            own["tools"] = [function(api)]
        return json.dumps(APIS[api][1] | own)


def function(api: str, **facts: Any) -> dict[str, Any]:
    """A function, as the API has it."""
    inner = {"name": "f", "description": "", "parameters": {"type": "object"}} | facts
    if api == "chat":
        return {"type": "function", "function": inner}
    if api == "messages":
        inner["input_schema"] = inner.pop("parameters")
        return inner
    return {"type": "function", **inner}


def tool(**facts: Any) -> Callable[[str], list[Any]]:
    return lambda api: [function(api, **facts)]


def in_tool(key: str, n: int = 0) -> dict[str, str]:
    """The path of a fact about the n-th tool."""
    own = "input_schema" if key == "parameters" else key
    return {
        "chat": f"tools[{n}].function.{key}",
        "responses": f"tools[{n}].{key}",
        "messages": f"tools[{n}].{own}",
    }


def schema(schema: Any, **more: Any) -> Callable[[str], dict[str, Any]]:
    inner = {"name": "n", "schema": schema, **more}
    return lambda api: {
        "type": "json_schema",
        **({"json_schema": inner} if api == "chat" else inner),
    }


def chosen(name: str) -> Callable[[str], dict[str, Any]]:
    def made(api: str) -> dict[str, Any]:
        if api == "chat":
            return {"type": "function", "function": {"name": name}}
        return {"type": "tool" if api == "messages" else "function", "name": name}

    return made


def said(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


HALF = "\ud83c"
WHOLE = {"chat": "messages", "responses": "input", "messages": ""}  # it has words of its own
NOT_JSON = ""  # the body as a whole is refused, so no field is named
ROWS = [
    # The eleven that differed.
    Row("logit_bias", {"999999": 1}),
    Row("logit_bias", {" 7": 1}),
    Row("stop", [""]),
    Row("top_k", -1, 200),
    Row("top_logprobs", 99, 200),
    Row("temperature", -1),
    Row("effort", "enormous"),
    Row("tools", lambda api: [function(api), function(api)], named=in_tool("name", 1)),
    Row("tools", lambda api: [{"type": "file_search"}, function(api)], 200),
    Row("tools", tool(name="a b"), named=in_tool("name")),
    Row("tools", tool(strict="yes"), named=in_tool("strict")),
    Row("tools", tool(parameters=True), code="invalid_schema", named=in_tool("parameters")),
    # Numbers
    *(Row(name, "0.5") for name in ("temperature", "top_p", "min_p", "presence_penalty")),
    *(Row(name, True) for name in ("temperature", "top_p", "top_k", "seed", "frequency_penalty")),
    *(Row(name, [1]) for name in ("temperature", "top_k", "repetition_penalty")),
    *(Row(name, float("nan"), named=NOT_JSON) for name in ("temperature", "top_p", "min_p")),
    *(Row(name, float("inf"), named=NOT_JSON) for name in ("temperature", "presence_penalty")),
    *(Row(name, None, 200) for name in ("temperature", "top_p", "top_k", "seed", "logit_bias")),
    Row("temperature", 0, 200),
    Row("temperature", 5, 200),
    Row("temperature", 10**400),
    Row("top_p", 0),
    Row("top_p", 1.01),
    Row("top_p", 1, 200),
    Row("top_k", 0, 200),
    Row("top_k", -2),
    Row("top_k", 1.5),
    Row("min_p", -0.1),
    Row("min_p", 1.1),
    Row("min_p", 0, 200),
    Row("seed", -5, 200),
    Row("seed", 2**64 - 1, 200),
    Row("seed", -(2**63), 200),
    Row("seed", -(2**63) - 1),
    Row("seed", 1.0),
    Row("presence_penalty", 1001),
    Row("frequency_penalty", -1001),
    Row("frequency_penalty", -2, 200),
    Row("repetition_penalty", 0),
    Row("repetition_penalty", 1.1, 200),
    Row("max", 0.5),
    Row("max", "many"),
    Row("max", -1, 200),
    Row("max", -2),
    Row("max", -1.0),
    Row("max", True),
    Row("max", 1, 200),
    Row("max", 10**9, 200),
    Row("n", 0),
    Row("n", 129),
    Row("n", 1.5),
    Row("n", 2, 200),
    Row("top_logprobs", -1),
    Row("top_logprobs", MAX_TOP_LOGPROBS, 200),
    Row("top_logprobs", MAX_TOP_LOGPROBS + 1),
    Row("top_logprobs", 2.5),
    # What ends an answer
    Row("min_tokens", 0, 200),
    Row("min_tokens", -1),
    Row("min_tokens", 1.5),
    Row("min_tokens", "3"),
    Row("ignore_eos", True, 200),
    Row("ignore_eos", False, 200),
    Row("ignore_eos", "yes"),
    Row("stop_token_ids", [], 200),
    Row("stop_token_ids", [7, 10**7], 200),
    Row("stop_token_ids", 7),
    Row("stop_token_ids", ["7"], named="{field}[0]"),
    Row("stop_token_ids", [True], named="{field}[0]"),
    # Biases
    Row("logit_bias", {"7": 1, "8": -100}, 200),
    Row("logit_bias", {}, 200),
    Row("logit_bias", {"x": 1}),
    Row("logit_bias", {"-1": 1}),
    Row("logit_bias", {"٣": 1}),
    Row("logit_bias", {"7": 1001}),
    Row("logit_bias", {"7": "1"}, named="{field}.7"),
    Row("logit_bias", {"7": True}, named="{field}.7"),
    Row("logit_bias", [7]),
    # Stop strings
    Row("stop", ["a", "b"], 200),
    Row("stop", [], 200),
    Row("stop", None, 200),
    Row("stop", 4),
    Row("stop", {"a": 1}),
    Row("stop", ["a", 1]),
    Row("stop", ["a", ""]),
    Row("stop", ["x"] * (MAX_STOPS + 1)),
    Row("stop", ["x"] * MAX_STOPS, 200),
    # Effort
    Row("effort", 3),
    *(Row("effort", word, 200) for word in ("none", "minimal", "low", "high", "xhigh", "max")),
    Row("effort", None, 200),
    # Tools
    Row("tools", [], 200),
    Row("tools", None, 200),
    Row("tools", 3),
    Row("tools", [3], named="tools[0]"),
    Row("tools", [{"type": 3}], named="tools[0].type"),
    Row("tools", [{"type": "web_search"}, {"type": "never_heard_of"}], 200),
    Row("tools", tool(name=""), named=in_tool("name")),
    Row("tools", tool(name=None), named=in_tool("name")),
    Row("tools", tool(name=7), named=in_tool("name")),
    Row("tools", tool(name="x" * 129), named=in_tool("name")),
    Row("tools", tool(name="x" * 128), 200),
    Row("tools", tool(name="f<|end|>"), named=in_tool("name")),
    Row("tools", tool(name="f.g-h_2"), 200),
    Row("tools", tool(name="über"), 200),
    Row("tools", tool(description=5), named=in_tool("description")),
    Row("tools", tool(parameters="object"), code="invalid_schema", named=in_tool("parameters")),
    Row("tools", tool(strict=True), 200),
    Row("tools", tool(strict=None), 200),
    Row("tools", tool(parameters={"type": "string"}, strict=True), code="invalid_schema"),
    Row("tools", tool(parameters={"type": "string"}), 200),
    Row("tools", tool(parameters={"type": "object", "title": HALF}), 200),
    Row("tools", tool(name=f"f{HALF}"), 200),
    Row("tools", tool(description=HALF), 200),
    Row("tools", tool(parameters={"type": "object", "required": None, HALF: HALF}), 200),
    Row("tools", tool(parameters={"type": "object", "not": {}}), 200),
    Row(
        "tools", tool(parameters={"type": "object", "not": {}}, strict=True), code="invalid_schema"
    ),
    Row("tools", tool(name="a//b=c;"), 200),
    Row(
        "thread",
        {"type": "continue", "previous_message_id": "msg_1"},
        code="thread_unsupported_request",
    ),
    Row("thread", {"type": "create"}, code="thread_unsupported_request"),
    Row("thread", None, 200),
    Row("thread", "create"),
    Row("continue_final_message", True, code="unsupported_parameter"),
    Row("prompt_logprobs", 3, code="unsupported_parameter"),
    Row("return_token_ids", True, code="unsupported_parameter"),
    Row("tool_choice", 3),
    Row("tool_choice", {"type": "dance"}, named={api: "tool_choice" for api in APIS}),
    Row("tool_choice", chosen("g")),
    Row("tool_choice", chosen("f"), 200),
    Row("parallel_tool_calls", "yes"),
    Row("parallel_tool_calls", True, 200),
    # Formats
    Row("format", {"type": "poem"}, named="{field}.type"),
    Row("format", {"type": 7}, named="{field}.type"),
    Row("format", {}, named="{field}.type"),
    Row("format", "json"),
    Row("format", schema({"type": "object"}), 200),
    Row("format", schema({"type": "object"}, strict=True), 200),
    Row(
        "format",
        schema("object"),
        code="invalid_schema",
        named={
            "chat": "response_format.json_schema.schema",
            "responses": "text.format.schema",
            "messages": "output_config.format.schema",
        },
    ),
    Row("format", schema({"type": "object", "title": HALF}), 200),
    Row("format", schema({"not": {}}, strict=True), code="invalid_schema"),
    Row("format", schema({"type": "nonsense"}), code="invalid_schema"),
    Row(
        "format",
        schema({"properties": {"a": {"$ref": "#/nowhere"}}}, strict=True),
        code="invalid_schema",
    ),
    # Content
    Row("content", said([{"type": "text", "text": "Hi"}]), 200),
    Row("content", said([]), 200),
    Row("content", said(3), named="{field}[0].content"),
    Row("content", said([3]), named="{field}[0].content[0]"),
    Row("content", said([{"type": "text"}]), named="{field}[0].content[0].text"),
    Row("content", said([{"type": "text", "text": 5}]), named="{field}[0].content[0].text"),
    *(
        Row(
            "content",
            said([{"type": "text", "text": "What is it?"}, part]),
            code="unsupported_content",
            named="{field}[0].content[1]",
        )
        for part in (
            {"type": "image", "source": {}},
            {"type": "image_url", "image_url": "http://x"},
            {"type": "input_audio"},
            {"type": "file"},
            {"type": "hologram"},
        )
    ),
    Row("content", said([{"type": "text", "text": HALF}]), 200),
    Row("content", said(HALF), 200),
    Row("content", said("x" * 600_000), code="context_length_exceeded", named=WHOLE),
    Row("content", [{"role": "wizard", "content": "Hi"}], named="{field}[0].role"),
    # The rest
    Row("metadata", {"a": "b"}, 200),
    Row("metadata", {"a": 1}, named="{field}.a"),
    Row("metadata", {str(n): "" for n in range(17)}),
    Row("metadata", {"k" * 65: ""}),
    Row("metadata", {"k": "v" * 513}),
    Row("service_tier", "auto", 200),
    Row("service_tier", 5),
    Row("user", 5),
    Row("model", 5),
    Row("model", HALF, 200),
    Row("user", HALF, 200),
    Row("metadata", {HALF: HALF}, 200),
    Row("stop", [HALF], 200),
    Row("stream", "yes"),
    Row("stream_options", {"include_usage": True}),
    Row("nobody_knows_this", {"deep": [HALF + "\udf0d"]}, 200),
    *(
        Row(name, {"x": "something"}, code="unsupported_parameter")
        for name in ("chat_template", "documents", "mcp_servers", "bad_words", "moderation")
    ),
    *(Row(name, None, 200) for name in ("chat_template", "documents", "suffix", "audio")),
]
CASES = [(row, api) for row in ROWS for api in APIS if row.place(api) is not None]


def label(case: Any) -> str:
    if isinstance(case, Row):
        value = case.value("chat") if callable(case.value) else case.value
        return f"{case.field}={value!r:.40}"
    return str(case)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def client(client_for: Callable[..., Any], anyio_backend: str) -> AsyncIterator[Any]:
    async with client_for(FINAL) as client:
        yield client


@pytest.mark.anyio
@pytest.mark.parametrize("row", ROWS, ids=label)
async def test_the_four_apis_say_the_same(client: Any, row: Row) -> None:
    for api, (path, _) in APIS.items():
        if row.place(api) is None:
            continue
        response = await client.post(
            path, content=row.body(api), headers={"Content-Type": "application/json"}
        )
        assert response.status_code == row.status, f"{api}: {response.text}"
        if row.status == 400:
            check_error(row, api, response.json())


def check_error(row: Row, api: str, told: dict[str, Any]) -> None:
    error, param = told["error"], row.param(api)
    if api == "messages":  # Anthropic's errors have a text only
        details = error.pop("details", {})
        assert set(told) == {"type", "error"} and set(error) == {"type", "message"}
        assert details == ({"error_code": row.code} if row.field == "thread" and row.code else {})
        assert param in error["message"], error
    else:
        assert (error["param"], error["code"]) == (param or None, row.code), f"{api}: {error}"
    assert error["type"] == "invalid_request_error" and error["message"]


def test_the_table_is_large_enough() -> None:
    assert len({row.field for row in ROWS}) >= 31
    assert len(CASES) > 300


BOUNDS = [-1001, -1, -0.5, 0, 0.0005, 0.001, 0.5, 1, 1.5, 2, 1000, 1001, "1", True, None]


@pytest.mark.parametrize("name", sorted(set(SHARED) - {"logit_bias"}))
def test_bounds_on_the_wire_are_those_of_the_engine(name: str) -> None:
    """They are written twice, for OpenAPI's sake. -1 is the wire's word for a top_k of 0."""
    for value in BOUNDS:
        if value is None or (name, value) == ("top_k", -1):
            continue
        try:
            SamplingParams(**{name: value})
            fine = True
        except RequestError as error:
            assert error.field == name
            fine = False
        try:
            SamplingFields.model_validate({name: value})
            taken = True
        except ValueError:
            taken = False
        assert taken == fine, (name, value)


@pytest.mark.anyio
async def test_bounds_are_told_as_people_write_them(client: Any) -> None:
    """Whole bounds of a float without a fraction, whichever API."""
    for path, body in APIS.values():
        for field, value, said in (
            ("temperature", -1, "temperature must be at least 0, found -1"),
            ("min_p", 1.5, "min_p must be at most 1, found 1.5"),
            ("repetition_penalty", 0, "repetition_penalty must be at least 0.001, found 0"),
            ("seed", 1 << 64, f"seed must be at most {(1 << 64) - 1}, found {1 << 64}"),
        ):
            response = await client.post(path, json=body | {field: value})
            assert said in response.json()["error"]["message"]


def test_what_an_api_honours_it_does_not_refuse() -> None:
    """A declared field is never asked for in `UNSUPPORTED`."""
    request = SamplingFields.model_validate({"temperature": 1, "suffix": "x"})
    assert set(request.model_extra or {}) & set(UNSUPPORTED) == {"suffix"}
