"""Documents that requests carry: texts, and the text of PDFs, on every API that has messages."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pdf_files import pdf

from ossia.server.access import LEASE
from ossia.server.wire import documents
from ossia.server.wire.content import UNREADABLE
from ossia.tokenizer import Tokenizer

pytestmark = pytest.mark.anyio
FINAL = "<|channel|>final<|message|>Fine.<|return|>"
needs_pypdf = pytest.mark.skipif(importlib.util.find_spec("pypdf") is None, reason="needs pypdf")
QUESTION = "What does it say?"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64(data)}"


def chat(part: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    parts = [part, {"type": "text", "text": QUESTION}]
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]}


def responses(part: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    parts = [part, {"type": "input_text", "text": QUESTION}]
    return "/v1/responses", {"input": [{"role": "user", "content": parts}]}


def messages(part: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "/v1/messages", {**chat(part)[1], "max_tokens": 50}


def chat_file(data: bytes, kind: str, name: str = "a.txt") -> dict[str, Any]:
    return {"type": "file", "file": {"filename": name, "file_data": url(data, kind)}}


def input_file(data: bytes, kind: str, name: str = "a.txt") -> dict[str, Any]:
    return {"type": "input_file", "filename": name, "file_data": url(data, kind)}


def document(data: bytes, kind: str, name: str = "a.txt") -> dict[str, Any]:
    source = {"type": "base64", "media_type": kind, "data": b64(data)}
    return {"type": "document", "title": name, "source": source}


APIS = [(chat, chat_file), (responses, input_file), (messages, document)]


async def asked(client: Any, tokenizer: Tokenizer, path: str, body: dict[str, Any]) -> str:
    """The prompt that the model gets."""
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return tokenizer.decode(client.engine.submitted[-1])


@pytest.mark.parametrize(("api", "part"), APIS)
async def test_texts(
    client_for: Callable[..., Any], tokenizer: Tokenizer, api: Any, part: Any
) -> None:
    async with client_for(FINAL) as client:
        for kind in ("text/plain", "text/csv", "application/json"):
            path, body = api(part("Größe: 5\n".encode(), kind))
            prompt = await asked(client, tokenizer, path, body)
            assert '<document name="a.txt">\nGröße: 5\n\n</document>' in prompt
            assert QUESTION in prompt


@needs_pypdf
@pytest.mark.parametrize(("api", "part"), APIS)
async def test_the_text_of_a_pdf(
    client_for: Callable[..., Any], tokenizer: Tokenizer, api: Any, part: Any
) -> None:
    made = pdf("The first page", "The second page")
    async with client_for(FINAL) as client:
        path, body = api(part(made, "application/pdf", "b.pdf"))
        prompt = await asked(client, tokenizer, path, body)
        text = "The first page\n\nThe second page"
        assert f'<document name="b.pdf">\n{text}\n</document>' in prompt


async def test_the_sources_that_anthropics_documents_have(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    block = {"type": "content", "content": [{"type": "text", "text": "One."}]}
    plain = {"type": "text", "media_type": "text/plain", "data": "One."}
    async with client_for(FINAL) as client:
        for source in (block, plain, {"type": "content", "content": "One."}):
            part = {"type": "document", "source": source, "context": "From a letter."}
            prompt = await asked(client, tokenizer, *messages(part))
            assert "<document>\nFrom a letter.\n\nOne.\n</document>" in prompt


async def test_documents_in_the_results_of_tools(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {}}
    part = document(b"Inside.", "text/plain")
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [part]}
    said = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    async with client_for(FINAL) as client:
        body = {"messages": said, "max_tokens": 50}
        prompt = await asked(client, tokenizer, "/v1/messages", body)
        assert "<|start|>functions.read" in prompt and "\nInside.\n</document>" in prompt
        called = {"type": "function_call", "call_id": "1", "name": "read", "arguments": "{}"}
        for part, seen in (
            (input_file(b"Inside.", "text/plain"), "\nInside.\n</document>"),
            (input_file(b"\x89PNG\0", "image/png"), "the model reads text only"),
        ):
            output = {"type": "function_call_output", "call_id": "1", "output": [part]}
            prompt = await asked(client, tokenizer, "/v1/responses", {"input": [called, output]})
            assert seen in prompt


def with_result(api: str, part: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A conversation in which a tool gave that part."""
    user = {"role": "user", "content": QUESTION}
    match api:
        case "responses":
            call = {"type": "function_call", "call_id": "1", "name": "read", "arguments": "{}"}
            output = {"type": "function_call_output", "call_id": "1", "output": [part]}
            return "/v1/responses", {"input": [user, call, output]}
        case "messages":
            use = {"type": "tool_use", "id": "1", "name": "read", "input": {}}
            result = {"type": "tool_result", "tool_use_id": "1", "content": [part]}
            said = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
            return "/v1/messages", {"messages": [user, *said], "max_tokens": 50}
    function = {"name": "read", "arguments": "{}"}
    calling = {"role": "assistant", "tool_calls": [{"id": "1", "function": function}]}
    calling["tool_calls"][0]["type"] = "function"
    answered = {"role": "tool", "tool_call_id": "1", "content": [part]}
    return "/v1/chat/completions", {"messages": [user, calling, answered]}


@pytest.mark.parametrize(("api", "made"), [(api.__name__, part) for api, part in APIS])
async def test_what_a_tool_gave_and_nobody_reads_ends_no_session(
    client_for: Callable[..., Any], tokenizer: Tokenizer, api: str, made: Any
) -> None:
    image = {"type": "image", "source": {"type": "url", "url": "x"}}
    for part in (made(b"%PDF-1.7\n<<", "application/pdf"), made(b"\x89P\0", "image/png"), image):
        async with client_for(FINAL) as client:
            prompt = await asked(client, tokenizer, *with_result(api, part))
        assert UNREADABLE.format(part["type"]) in prompt


@pytest.mark.parametrize(("api", "made"), APIS)
async def test_the_documents_of_a_request_are_bounded_together(
    client_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, api: Any, made: Any
) -> None:
    monkeypatch.setattr(documents, "ROOM", 100)
    path, body = api(made(b"a" * 60, "text/plain"))
    async with client_for(FINAL) as client:
        assert (await client.post(path, json=body)).status_code == 200
        said = body["input" if "input" in body else "messages"]
        said.append({**said[0], "content": [made(b"b" * 41, "text/plain")]})
        answer = await client.post(path, json=body)
    assert answer.status_code == 400
    assert "[1].content[0] is too long: the documents of a request may have 100" in answer.text


async def test_a_reader_ends_with_who_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    endless = tmp_path / "endless.py"
    endless.write_text("import time\nwhile True: time.sleep(1)\n")
    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            started.append(self)

    monkeypatch.setattr(documents, "PDF", endless)
    monkeypatch.setattr(documents.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(subprocess, "Popen", Noted)
    part = chat_file(b"%PDF-1.7", "application/pdf")
    visit = documents.Documents().visit()
    reading = asyncio.ensure_future(visit.read(chat(part)[1]["messages"], "messages"))
    while not started:
        await asyncio.sleep(0)
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading
    assert await asyncio.to_thread(started[0].wait, 30) == -signal.SIGKILL
    assert visit.readers.free == documents.AT_ONCE


async def test_a_later_turn_has_the_document_and_the_store_the_file(
    client_for: Callable[..., Any], tokenizer: Tokenizer
) -> None:
    part = input_file(b"Kept.", "text/plain")
    async with client_for(FINAL) as client:
        made = (await client.post("/v1/responses", json=responses(part)[1])).json()
        more = {"input": "And?", "previous_response_id": made["id"]}
        prompt = await asked(client, tokenizer, "/v1/responses", more)
        assert "\nKept.\n</document>" in prompt
        items = (await client.get(f"/v1/responses/{made['id']}/input_items")).json()["data"]
        assert part in items[0]["content"]


@pytest.mark.parametrize(("api", "part"), APIS)
@pytest.mark.parametrize(
    ("data", "kind", "why"),
    [
        (b"\x89PNG\r\n\0\xff", "image/png", "is no text in UTF-8, and no PDF"),
        (b"\xff\xfea\0", "text/plain", "is no text in UTF-8"),
        (b"PK\x03\x04\0\0", "application/zip", "is no text in UTF-8"),
    ],
)
async def test_what_is_neither_is_refused(
    client_for: Callable[..., Any], api: Any, part: Any, data: bytes, kind: str, why: str
) -> None:
    async with client_for(FINAL) as client:
        path, body = api(part(data, kind))
        answer = await client.post(path, json=body)
    assert answer.status_code == 400 and why in answer.text
    assert "[0].content[0]" in answer.text


@pytest.mark.parametrize(
    ("api", "part", "why"),
    [
        (chat, {"type": "file", "file": {"file_id": "file-1"}}, "as base64"),
        (responses, {"type": "input_file", "file_url": "https://example.org/a"}, "fetches nothing"),
        (messages, {"type": "document", "source": {"type": "url", "url": "x"}}, "fetches nothing"),
        (messages, {"type": "document"}, "source must be an object"),
        (responses, {"type": "input_file", "file_data": "not base64!"}, "is not base64"),
    ],
)
async def test_files_have_to_be_in_the_request(
    client_for: Callable[..., Any], api: Any, part: Any, why: str
) -> None:
    async with client_for(FINAL) as client:
        path, body = api(part)
        answer = await client.post(path, json=body)
    assert answer.status_code == 400 and why in answer.text


async def test_without_pypdf_the_error_names_the_extra(
    client_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents.importlib.util, "find_spec", lambda name: None)
    async with client_for(FINAL) as client:
        path, body = chat(chat_file(pdf("a"), "application/pdf"))
        error = (await client.post(path, json=body)).json()["error"]
    assert "ossia[tools]" in error["message"] and error["code"] == "unsupported_content"


# ---- hostile files ----

# half a million lines of text, and a gigabyte of nothing
SLOW = b"BT /F1 12 Tf " + b"1 0 0 1 5 5 Tm (abc) Tj " * 500_000 + b"ET"
LARGE = b" " * (1 << 28)


@needs_pypdf
@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda: pdf(content=SLOW), id="slow"),
        pytest.param(lambda: pdf(content=LARGE), id="large"),
        pytest.param(lambda: pdf("a")[:200], id="cut"),
        pytest.param(lambda: b"%PDF-1.7\n" + b"<<" * 100_000, id="nested"),
        pytest.param(lambda: pdf("a").replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]"), id="loop"),
        pytest.param(lambda: pdf(""), id="empty"),
    ],
)
async def test_a_hostile_pdf_is_refused_and_holds_up_nobody(
    client_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, made: Callable[[], bytes]
) -> None:
    monkeypatch.setattr(documents, "SECONDS", 1.0)
    path, body = chat(chat_file(made(), "application/pdf"))
    async with client_for(FINAL) as client:
        answer = await client.post(path, json=body)
        assert answer.status_code == 400, answer.text
        assert "is a PDF that is not read: it " in answer.json()["error"]["message"]


@needs_pypdf
async def test_a_text_is_read_once(
    client_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, body = chat(chat_file(pdf("Once"), "application/pdf"))
    async with client_for(FINAL) as client:
        assert (await client.post(path, json=body)).status_code == 200
        monkeypatch.setattr(documents, "run_confined", None)
        assert (await client.post(path, json=body)).status_code == 200


def test_texts_are_bounded_in_bytes_and_few_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A character may take four."""
    monkeypatch.setattr(documents, "KEPT", 10_000)
    monkeypatch.setattr(documents, "RESTING", 3_000)
    every = documents.Documents()
    texts = every.visit().texts
    for n in range(10):
        texts.add(bytes([n]), "😀" * 300)
    texts.add(b"long", "x" * 20_000)
    assert [n for n in range(10) if texts.get(bytes([n]))] == list(range(3, 10))
    every.rest()
    assert [n for n in range(10) if texts.get(bytes([n]))] == [8, 9]


@needs_pypdf
async def test_callers_take_turns_at_the_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    go_on = asyncio.Event()

    async def run(program: Path, raw: bytes, seconds: float) -> tuple[bytes, str]:
        read.append(raw)
        await go_on.wait()
        return b"text", ""

    monkeypatch.setattr(documents, "run_confined", run)
    all_of_them = documents.Documents()

    async def ask(caller: str, name: str) -> None:
        whose = SimpleNamespace(turn=caller, caller=SimpleNamespace(is_batch=False))
        LEASE.set(whose)  # type: ignore[arg-type]
        part = chat_file(pdf(name), "application/pdf")
        await all_of_them.visit().read([{"role": "user", "content": [part]}], "messages")

    heavy = [asyncio.create_task(ask("heavy", f"h{n}")) for n in range(20)]
    await asyncio.sleep(0.01)
    light = asyncio.create_task(ask("light", "light"))
    await asyncio.sleep(0.01)
    assert read == [pdf("h0"), pdf("light")], "one caller never has both places"
    go_on.set()
    await asyncio.gather(light, *heavy)
