"""Anthropic's server tools as its own client uses them: real code, a real corpus; the model says
what it is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from python_tools import python_tool
from responses_wire import CALL, CODE, FINAL, Server, serving

from ossia.server import Settings
from ossia.server.access import secret_digest
from ossia.server.settings import ApiKey, Limits
from ossia.tokenizer import Tokenizer
from ossia.tools.browser import Browser
from ossia.tools.containers import Containers, Rules
from ossia.tools.python import Python

SEARCHES: Any = {"type": "web_search_20250305", "name": "web_search"}
FETCHES: Any = {"type": "web_fetch_20250910", "name": "web_fetch"}
RUNS: Any = {"type": "code_execution_20250522", "name": "code_execution"}
F: Any = {"name": "f", "description": "Of a.", "input_schema": {"type": "object"}}
SEARCH = '<|channel|>analysis to=browser.search code<|message|>{"query": "old capital"}<|call|>'
OPEN = '<|channel|>analysis to=browser.open code<|message|>{"id": 0, "cursor": 0}<|call|>'
FIND = '<|channel|>analysis to=browser.find code<|message|>{"pattern": "hills"}<|call|>'
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
KEYS = tuple(
    ApiKey(name, secret_digest(name), Limits(tools=tools))
    for name, tools in (("ann", None), ("bob", None), ("reader", frozenset({"browser"})))
)


@pytest.fixture(scope="module")
def server(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "rome.md").write_text("# Rome\n\nRome is an old capital.\nIt lies on seven hills.\n")
    with python_tool(containers=Containers(rules=Rules(expires_after=600.0))) as python:
        python.containers.new_owner = python.new_owner
        with running(tokenizer, python, folder) as made:
            yield made


def running(tokenizer: Tokenizer, python: Python, corpus: Path) -> Any:
    settings = Settings(model_name="nano", keys=KEYS)
    tools = [python, Browser(corpus)]
    return serving(tokenizer, settings, certain=True, builtin=tools, containers=python.containers)


def client(server: Server, name: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url="http://testserver", api_key=name, http_client=server.client, max_retries=0
    )


@pytest.fixture
def ann(server: Server) -> anthropic.Anthropic:
    return client(server, "ann")


def ask(ann: anthropic.Anthropic, tools: list[Any], said: Any = "Go.", **more: Any) -> Any:
    messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
    more = {"max_tokens": 500, "model": "nano", **more}
    return ann.messages.create(messages=messages, tools=tools, **more)


def streamed(ann: anthropic.Anthropic, tools: list[Any], **more: Any) -> Any:
    """What the client's own fold makes of the stream."""
    messages: Any = [{"role": "user", "content": "Go."}]
    with ann.messages.stream(
        messages=messages, tools=tools, max_tokens=500, model="nano", **more
    ) as stream:
        return stream.get_final_message()


def kinds(message: Any) -> list[str]:
    return [block.type for block in message.content]


def dumped(message: Any) -> list[dict[str, Any]]:
    return [block.model_dump(exclude_none=True) for block in message.content]


def continued(message: Any, blocks: list[dict[str, Any]]) -> list[Any]:
    """After a message that ends with a call: its result."""
    result = {"type": "tool_result", "tool_use_id": message.content[-1].id, "content": "2"}
    return [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": [result]},
    ]


def test_code_runs_streamed_and_not(server: Server, ann: anthropic.Anthropic) -> None:
    code = 'x = "a\\\\b"\nprint(6 * 7, "é")'
    for answer in (ask, streamed):
        server.says(CODE.format(code), FINAL.format("Done."))
        message = answer(ann, [RUNS])
        use, result, text = message.content
        assert (use.type, use.name, use.input) == (
            "server_tool_use",
            "code_execution",
            {"code": code},
        )
        assert (result.type, result.tool_use_id) == ("code_execution_tool_result", use.id)
        assert (result.content.stdout, result.content.return_code) == ("42 é\n", 0)
        assert text.text == "Done." and message.stop_reason == "end_turn"
        assert message.container.id.startswith("cntr_")
        assert message.container.expires_at.year > 2000


def test_a_container_is_used_again(server: Server, ann: anthropic.Anthropic) -> None:
    server.says(CODE.format("z = 41"), FINAL.format("Done."))
    first = ask(ann, [RUNS])
    server.says(CODE.format("print(z + 1)"), FINAL.format("Done."))
    second = ask(ann, [RUNS], container=first.container.id)
    assert second.content[1].content.stdout == "42\n"
    assert second.container.id == first.container.id
    for name, container in (("bob", first.container.id), ("ann", "cntr_none"), ("ann", "")):
        with pytest.raises(anthropic.BadRequestError) as refused:
            ask(client(server, name), [RUNS], container=container)
        assert "container" in str(refused.value)


def test_search_open_find_and_citations(server: Server, ann: anthropic.Anthropic) -> None:
    said = "Rome is old 【1†L4-L5】."
    for answer in (ask, streamed):
        server.says(THOUGHT + SEARCH, OPEN, FIND, FINAL.format(said))
        message = answer(ann, [SEARCHES, FETCHES])
        assert kinds(message) == [
            "server_tool_use", "web_search_tool_result",
            "server_tool_use", "web_fetch_tool_result",
            "server_tool_use", "web_fetch_tool_result",
            "text",
        ]  # fmt: skip
        search, found, opened, page, sought, match, text = message.content
        assert search.input == {"query": "old capital"}
        assert (found.content[0].title, found.content[0].page_age) == ("Rome", None)
        assert opened.name == "web_fetch" and opened.input == {"url": found.content[0].url}
        assert "seven hills" in page.content.content.source.data
        assert sought.input["pattern"] == "hills" and "hills" in match.content.content.source.data
        (citation,) = text.citations
        assert citation.type == "web_search_result_location"
        assert (citation.url, citation.title) == (found.content[0].url, "Rome")
        assert citation.cited_text == "Rome is an old capital.\nIt lies on seven hills."
        usage = message.usage.server_tool_use
        assert (usage.web_search_requests, usage.web_fetch_requests) == (1, 2)


def test_the_pages_of_earlier_turns_are_known(server: Server, ann: anthropic.Anthropic) -> None:
    """What was found and run before an answer is over; that pages were shown is not."""
    said = "Rome is old 【1†L4-L5】."
    server.says(SEARCH, OPEN, FINAL.format(said))
    tools = [SEARCHES, FETCHES]
    first = ask(ann, tools)
    history = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": dumped(first)},
        {"role": "user", "content": "And?"},
    ]
    again = '<|channel|>analysis to=browser.open code<|message|>{"cursor": 1}<|call|>'
    server.says(again, FINAL.format("Yes 【1†L5】."))
    second = ask(ann, tools, history)
    assert f"final<|message|>{said}<|end|>" in server.prompt
    assert second.content[1].content.url == first.content[3].content.url
    assert second.content[-1].citations[0].url == first.content[3].content.url


def test_what_comes_back_is_what_the_model_was_told(
    server: Server, ann: anthropic.Anthropic
) -> None:
    server.says(SEARCH, OPEN, CODE.format("print(5)"), CALL.format("functions.f", "{}"))
    tools = [SEARCHES, FETCHES, RUNS, F]
    first = ask(ann, tools)
    before = server.prompt
    server.says(FINAL.format("Done."))
    ask(ann, tools, continued(first, dumped(first)))
    assert server.prompt.startswith(before) and server.prompt.count("print(5)") == 1
    server.says(FINAL.format("Done."))
    # an id that is not remembered: the blocks alone have it
    blocks = dumped(first)
    first.content[-1].id = "toolu_another"
    blocks[-1]["id"] = "toolu_another"
    ask(ann, tools, continued(first, blocks))
    assert server.prompt.startswith(before)


def test_what_others_seal_is_left_out(server: Server, ann: anthropic.Anthropic) -> None:
    """Another caller's results, another server's, and ones that were changed."""
    server.says(SEARCH, CALL.format("functions.f", "{}"))
    first = ask(ann, [SEARCHES, F])
    blocks = dumped(first)
    history = continued(first, blocks)
    server.says(FINAL.format("Yes."))
    bob = client(server, "bob")
    ask(bob, [SEARCHES, F], history)
    assert "old capital" not in server.prompt and "functions.f" in server.prompt
    for odd in ("", "x", 3, [], None):
        blocks[1]["content"][0]["encrypted_content"] = odd
        server.says(FINAL.format("Yes."))
        ask(bob, [SEARCHES, F], history)
        assert "old capital" not in server.prompt
    for index in ("[" * 5000, "3", '["a", {}, -1, 1e9]', "", 7):
        citations = [{"type": "x", "encrypted_index": index}, 4]
        blocks[0] = {"type": "text", "text": "Hm.", "citations": citations}
        server.says(FINAL.format("Yes."))
        ask(ann, [SEARCHES, F], history)


def test_what_is_shown_is_read_without_its_seal(server: Server, ann: anthropic.Anthropic) -> None:
    """Some clients send back the fields that they know."""
    server.says(SEARCH, OPEN, CODE.format("print(5)"), CALL.format("functions.f", "{}"))
    tools = [SEARCHES, FETCHES, RUNS, F]
    first = ask(ann, tools)
    before = server.prompt
    first.content[-1].id = "toolu_another"  # of which nothing is remembered
    blocks = dumped(first)
    for result in (blocks[3], blocks[5]):
        del result["content"]["encrypted_content"]
    server.says(FINAL.format("Done."))
    ask(ann, tools, continued(first, blocks))
    told = before[before.index("to=browser.open") :]
    opened = told.replace('{"id": 0, "cursor": 0}', '{"id": "https://corpus/rome.md"}')
    assert opened in server.prompt


def test_uses_and_domains_are_limited(server: Server, ann: anthropic.Anthropic) -> None:
    once = SEARCHES | {"max_uses": 1}
    server.says(SEARCH, SEARCH, FINAL.format("Done."))
    message = ask(ann, [once])
    assert message.content[1].content[0].title == "Rome"
    assert message.content[3].content.error_code == "max_uses_exceeded"
    for limit in ({"allowed_domains": ["other.example"]}, {"blocked_domains": ["corpus"]}):
        # a second declaration does not loosen the first
        server.says(SEARCH, FINAL.format("Done."))
        message = ask(ann, [SEARCHES | limit, FETCHES])
        host = message.content[1].content
        assert host == [] or "allowed_domains" not in limit
    for wrong in ({"max_uses": 0}, {"max_uses": True}, {"allowed_domains": [3]}):
        with pytest.raises(anthropic.BadRequestError):
            ask(ann, [SEARCHES | wrong])


def test_a_call_can_be_asked_for(server: Server, ann: anthropic.Anthropic) -> None:
    server.says(CODE.format("print(1)"), FINAL.format("Done."))
    choice: Any = {"type": "tool", "name": "code_execution"}
    assert kinds(ask(ann, [RUNS, F], tool_choice=choice))[0] == "server_tool_use"


def test_functions_beside_them_are_the_clients(server: Server, ann: anthropic.Anthropic) -> None:
    server.says(CODE.format("print(1)"), CALL.format("functions.f", "{}"))
    message = ask(ann, [RUNS, F])
    assert kinds(message) == ["server_tool_use", "code_execution_tool_result", "tool_use"]
    assert message.stop_reason == "tool_use"
    server.says(FINAL.format("Done."))
    history = continued(message, dumped(message))
    assert ask(ann, [RUNS, F], history).content[0].text == "Done."
    assert "print(1)" in server.prompt


def test_a_key_may_not_use_every_tool(server: Server) -> None:
    server.says(FINAL.format("No."))
    message = ask(client(server, "reader"), [RUNS, SEARCHES])
    assert kinds(message) == ["text"] and "python" not in server.prompt.split("<|end|>")[0]
    assert message.model_extra["x-ossia"]["unavailable_tools"] == ["code_execution_20250522"]


def test_an_answer_that_is_cut_off_in_its_code(server: Server, ann: anthropic.Anthropic) -> None:
    server.says(CODE.format("print(" + "1 + " * 200))
    message = ask(ann, [RUNS], max_tokens=40)
    assert message.stop_reason == "max_tokens" and kinds(message) == ["server_tool_use"]
    assert message.content[0].input["code"].startswith("print(1 + ")


def test_files_are_sent_once_and_named(server: Server, ann: anthropic.Anthropic) -> None:
    """As Anthropic's client sends, names and deletes them: for code, and as documents."""
    sent = ann.beta.files.upload(file=("data.csv", b"a,b\n1,2\n"))
    assert (sent.filename, sent.size_bytes, sent.mime_type) == ("data.csv", 8, "text/csv")
    assert sent.id in [each.id for each in ann.beta.files.list(limit=1)]
    upload = {"type": "container_upload", "file_id": sent.id}
    said = [{"role": "user", "content": [upload, {"type": "text", "text": "Go."}]}]
    server.says(CODE.format("print(open('/mnt/data/data.csv').read())"), FINAL.format("Done."))
    message = ask(ann, [RUNS], said)
    assert message.content[1].content.stdout == "a,b\n1,2\n\n"
    assert "/mnt/data/data.csv" in server.prompt
    document = {"type": "document", "source": {"type": "file", "file_id": sent.id}}
    server.says(FINAL.format("Done."))
    ask(ann, [], [{"role": "user", "content": [document]}])
    assert '<document name="data.csv">\na,b\n1,2\n' in server.prompt
    for name, part, tools, why in (
        ("ann", upload, [], "code_execution"),
        ("bob", upload, [RUNS], "there is no file"),
        ("reader", document, [], "as base64"),
        ("ann", {"type": "container_upload"}, [RUNS], "no file"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=why):
            ask(client(server, name), tools, [{"role": "user", "content": [part]}])
    assert ann.beta.files.delete(sent.id).type == "file_deleted"
    with pytest.raises(anthropic.BadRequestError, match="there is no file"):
        ask(ann, [], [{"role": "user", "content": [document]}])


def test_chat_completions_name_files_too(server: Server, ann: anthropic.Anthropic) -> None:
    sent = ann.beta.files.upload(file=("note.txt", b"Remember 85."))
    part = {"type": "file", "file": {"file_id": sent.id}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    server.says(FINAL.format("Done."))
    answered = server.client.post("/v1/chat/completions", json=body, headers=bearer("ann"))
    assert answered.status_code == 200
    assert '<document name="note.txt">\nRemember 85.' in server.prompt
    refused = server.client.post("/v1/chat/completions", json=body, headers=bearer("bob"))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "messages[0].content[0].file.file_id"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
