"""The server's tools as clients use them: real code, a real corpus, the official client; the model
says what it is told.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from python_tools import python_tool
from responses_wire import CALL, CODE, FINAL, THOUGHT, Server, events_of, fold, nameless, serving

from ossia.server import Settings
from ossia.server.access import secret_digest
from ossia.server.settings import ApiKey, Limits
from ossia.server.store.sqlite import Sqlite
from ossia.server.store.store import Store
from ossia.server.store.thoughts import Thoughts
from ossia.tokenizer import Tokenizer
from ossia.tools.browser import Browser, Corpus
from ossia.tools.containers import Containers, Rules
from ossia.tools.python import Python
from ossia.tools.shell import Shell
from ossia.tools.shell_place import InContainers

INTERPRETER: Any = {"type": "code_interpreter", "container": {"type": "auto"}}
SEARCHES: Any = {"type": "web_search"}
GO: Any = {"role": "user", "content": "Go."}
OUTPUTS: Any = ["code_interpreter_call.outputs"]
SOURCES: Any = ["web_search_call.action.sources"]
SEALED: Any = ["reasoning.encrypted_content"]
SEARCH = '<|channel|>analysis to=browser.search code<|message|>{"query": "old capital"}<|call|>'
OPEN = '<|channel|>analysis to=browser.open code<|message|>{"id": 0, "cursor": 0}<|call|>'
KEYS = tuple(
    ApiKey(name, secret_digest(name), Limits(tools=tools))
    for name, tools in (
        ("ann", None),
        ("bob", None),
        ("reader", frozenset({"browser"})),
        ("clerk", frozenset({"browser:law"})),
        ("nobody", frozenset({"browser:gone"})),
    )
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "rome.md").write_text("# Rome\n\nRome is an old capital.\nIt lies on seven hills.\n")
    (folder / "cats.md").write_text("# Cats\n\nCats sleep.\n")
    return folder


@pytest.fixture(scope="module")
def python() -> Iterator[Python]:
    with python_tool(containers=Containers(rules=Rules(expires_after=600.0))) as tool:
        tool.containers.new_owner = tool.new_owner
        yield tool


@pytest.fixture(scope="module")
def server(tokenizer: Tokenizer, python: Python, corpus: Path) -> Iterator[Server]:
    settings = Settings(model_name="nano", keys=KEYS)
    tools = [python, Browser(corpus), Shell(InContainers(python))]
    with serving(
        tokenizer, settings, certain=True, builtin=tools, containers=python.containers
    ) as made:
        yield made


def client(server: Server, name: str) -> openai.OpenAI:
    return openai.OpenAI(
        base_url="http://testserver/v1", api_key=name, http_client=server.client, max_retries=0
    )


@pytest.fixture
def ann(server: Server) -> openai.OpenAI:
    return client(server, "ann")


def runs(server: Server, code: str, answer: str = "Done.") -> None:
    server.says(CODE.format(code), FINAL.format(answer))


def logs(response: Any) -> str:
    """What the first call of a response printed."""
    (call, *_) = (item for item in response.output if item.type == "code_interpreter_call")
    return "".join(each.logs for each in call.outputs or () if each.type == "logs")


def run(ann: openai.OpenAI, server: Server, code: str, **more: Any) -> Any:
    runs(server, code)
    given = {"input": "Go.", "tools": [INTERPRETER], "include": OUTPUTS, "model": "nano", **more}
    return ann.responses.create(**given)


# ---- python ----


def test_code_runs_and_gives_outputs_streamed_and_not(server: Server, ann: openai.OpenAI) -> None:
    plain = run(ann, server, "print(6 * 7)")
    call, message = plain.output
    assert (call.type, call.code, call.status) == (
        "code_interpreter_call",
        "print(6 * 7)",
        "completed",
    )
    assert logs(plain) == "42\n" and message.content[0].text == "Done."
    assert ann.containers.retrieve(call.container_id).status == "running"
    assert "<|message|>42\n<|end|>" in server.prompt
    runs(server, "print(6 * 7)")
    body = {"input": "Go.", "tools": [INTERPRETER], "include": OUTPUTS, "stream": True}
    headers = {"Authorization": "Bearer ann"}
    answer = server.client.post("/v1/responses", json=body, headers=headers)
    folded = fold(events_of(answer.text))
    assert nameless(folded["output"]) == nameless(plain.to_dict()["output"])


def test_commands_and_code_share_their_files(server: Server, ann: openai.OpenAI) -> None:
    shell: Any = {"type": "shell", "environment": {"type": "container_auto"}}
    tools = [INTERPRETER, shell]
    commands = CALL.format("functions.shell", '{"commands":["echo hi > a.txt","cat b.txt"]}')
    server.says(commands, FINAL.format("Done."))
    first = ann.responses.create(input="Go.", model="nano", tools=tools)
    called, printed, message = first.output
    assert (called.type, printed.type, message.type) == (
        "shell_call",
        "shell_call_output",
        "message",
    )
    assert [each.outcome.exit_code for each in printed.output] == [0, 1]
    assert "No such file" in printed.output[1].stderr
    more: Any = {"tools": tools, "store": False}
    history = [item.to_dict() for item in first.output]
    second = run(ann, server, "print(open('a.txt').read())", input=[*history, GO], **more)
    assert logs(second) == "hi\n\n"
    assert second.output[0].container_id == called.environment.container_id
    shell["environment"] = {
        "type": "container_reference",
        "container_id": called.environment.container_id,
    }
    server.says(CALL.format("functions.shell", '{"commands":["cat a.txt"]}'), FINAL.format("."))
    third = ann.responses.create(input="Go.", model="nano", tools=[shell])
    assert third.output[1].output[0].stdout == "hi\n"
    shell["environment"]["container_id"] = "cntr_0"
    with pytest.raises(openai.NotFoundError):
        ann.responses.create(input="Go.", model="nano", tools=[shell])


def test_the_next_response_finds_the_variables(server: Server, ann: openai.OpenAI) -> None:
    first = run(ann, server, "x = 41; open('/mnt/data/a.txt', 'w').write('hi')")
    second = run(ann, server, "x + 1", previous_response_id=first.id)
    third = run(ann, server, "print(x, open('a.txt').read())", previous_response_id=second.id)
    assert logs(second) == "42\n" and logs(third) == "41 hi\n"
    assert first.output[0].container_id == third.output[0].container_id


def test_a_client_that_keeps_everything_finds_them_too(server: Server, ann: openai.OpenAI) -> None:
    first = run(ann, server, "y = 5", store=False)
    items = [item.to_dict() for item in first.output]
    given = [{"role": "user", "content": "Go."}, *items, {"role": "user", "content": "On."}]
    second = run(ann, server, "y + 1", store=False, input=given)
    assert logs(second) == "6\n"


def test_a_client_that_refers_to_stored_items_finds_the_pages(
    server: Server, ann: openai.OpenAI
) -> None:
    """By reference, and with the items themselves, as they were without their seals."""
    bob = client(server, "bob")
    server.says(SEARCH, OPEN, FINAL.format("Yes."))
    first = ann.responses.create(input="Go.", tools=[SEARCHES], model="nano")
    referred: Any = [{"type": "item_reference", "id": item.id} for item in first.output]
    sent: Any = [item.to_dict() for item in first.output]
    for who, items, cited in ((ann, referred, 1), (ann, sent, 1), (bob, sent, 0)):
        server.says(FINAL.format("Rome is old 【1†L4】."))
        given = [{"role": "user", "content": "Go."}, *items, {"role": "user", "content": "On."}]
        second = who.responses.create(input=given, tools=[SEARCHES], model="nano")
        assert len(second.output[-1].content[0].annotations) == cited


def test_two_callers_and_two_threads_never_share(server: Server, ann: openai.OpenAI) -> None:
    bob = client(server, "bob")
    hers = run(ann, server, "secret = 'hers'; open('/mnt/data/s', 'w').write('hers')")
    container = hers.output[0].container_id
    for who, more in (
        (ann, {}),
        (bob, {}),
        (bob, {"previous_response_id": None, "input": [hers.output[0].to_dict()]}),
    ):
        found = run(who, server, "import os; print('secret' in dir(), os.listdir())", **more)
        assert logs(found) == "False []\n"
    with pytest.raises(openai.NotFoundError):
        run(bob, server, "1", tools=[{**INTERPRETER, "container": container}])
    with pytest.raises(openai.BadRequestError):
        run(bob, server, "1", previous_response_id=hers.id)
    named = run(ann, server, "secret", tools=[{**INTERPRETER, "container": container}])
    assert logs(named) == "'hers'\n"


def test_a_container_of_the_client(server: Server, ann: openai.OpenAI) -> None:
    made = ann.containers.create(name="mine")
    ann.containers.files.create(made.id, file=("n.txt", b"17"))
    tools = [{"type": "code_interpreter", "container": made.id}]
    said = "See [it](sandbox:/mnt/data/out.txt)."
    server.says(CODE.format("open('out.txt','w').write(open('n.txt').read())"), FINAL.format(said))
    found: Any = ann.responses.create(model="nano", input="Go.", tools=tools)  # type: ignore[arg-type]
    call, message = found.output
    assert call.container_id == made.id and call.outputs is None
    (cited,) = message.content[0].annotations
    assert (cited.type, cited.container_id, cited.filename) == (
        "container_file_citation",
        made.id,
        "out.txt",
    )
    content = ann.containers.files.content.retrieve(cited.file_id, container_id=made.id)
    assert content.read() == b"17"
    ann.containers.delete(made.id)
    with pytest.raises(openai.BadRequestError) as gone:
        ann.responses.create(model="nano", input="Go.", tools=tools)  # type: ignore[arg-type]
    assert gone.value.code == "container_expired"


@pytest.mark.parametrize(
    ("container", "param"),
    [
        (3, "tools[0].container"),
        ({"type": "other"}, "tools[0].container.type"),
        ({"type": "auto", "file_ids": ["file-1"]}, "tools[0].container.file_ids"),
        ({"type": "auto", "memory_limit": "9g"}, "tools[0].container.memory_limit"),
        (
            {"type": "auto", "network_policy": {"type": "allowlist"}},
            "tools[0].container.network_policy.type",
        ),
    ],
)
def test_containers_that_make_no_sense(
    ann: openai.OpenAI, server: Server, container: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        run(ann, server, "1", tools=[{"type": "code_interpreter", "container": container}])
    assert refused.value.param == param


# ---- files of a request ----

READ = "import os; print(sorted(os.listdir())); print(open('data.csv').read())"


def attached(data: bytes, name: str) -> dict[str, Any]:
    encoded = base64.b64encode(data).decode()
    return {
        "type": "input_file",
        "filename": name,
        "file_data": f"data:text/csv;base64,{encoded}",
    }


def test_attached_files_are_where_code_finds_them(server: Server, ann: openai.OpenAI) -> None:
    """In each turn once, whoever keeps the conversation; what code made of them stays."""
    parts = [attached(b"a,b\n1,2\n", "data.csv"), attached(b"\0\xff", "x/blob.bin")]
    given: Any = [{"role": "user", "content": [*parts, {"type": "input_text", "text": "Go."}]}]
    first = run(ann, server, READ, input=given)
    assert logs(first) == "['blob.bin', 'data.csv']\na,b\n1,2\n\n"
    prompt = server.prompt
    assert '<document name="data.csv" path="/mnt/data/data.csv">\na,b\n1,2\n' in prompt
    assert '<document name="x/blob.bin" path="/mnt/data/blob.bin">\n(it is not text' in prompt
    change = "open('data.csv', 'w').write('mine')"
    run(ann, server, change, previous_response_id=first.id)
    kept = run(ann, server, READ, previous_response_id=first.id)
    assert logs(kept) == "['blob.bin', 'data.csv']\nmine\n"
    items = [item.to_dict() for item in kept.output]
    sent = run(ann, server, READ, input=[*given, *items, GO], store=False)
    assert logs(sent) == logs(kept)


def test_files_that_were_sent_before(server: Server, ann: openai.OpenAI) -> None:
    """By the declaration, and in a message; the same file is one."""
    made = ann.files.create(file=("data.csv", b"x" * 50_000), purpose="user_data")
    tools = [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": [made.id]}}]
    size = "import os; print(os.listdir(), os.path.getsize('data.csv'))"
    assert logs(run(ann, server, size, tools=tools)) == "['data.csv'] 50000\n"
    parts = [{"type": "input_file", "file_id": made.id}, {"type": "input_text", "text": "Go."}]
    given = [{"role": "user", "content": parts}]
    assert logs(run(ann, server, size, tools=tools, input=given)) == "['data.csv'] 50000\n"
    assert "[... 48000 more characters: open the file with code]" in server.prompt
    assert len(server.prompt) < 10_000
    server.says(FINAL.format("Read."))
    small = ann.files.create(file=("a.txt", b"of a file"), purpose="user_data")
    part = {"type": "input_file", "file_id": small.id}
    found: Any = [{"role": "user", "content": [part]}]
    first = ann.responses.create(model="nano", input=found)
    assert '<document name="a.txt">\nof a file\n</document>' in server.prompt
    ann.files.delete(small.id)  # the conversation goes on without it
    ann.responses.create(model="nano", input="And?", previous_response_id=first.id)
    assert "<document>\n(this file has been deleted)\n</document>" in server.prompt
    with pytest.raises(openai.BadRequestError) as refused:
        client(server, "bob").responses.create(model="nano", input=found)
    assert refused.value.param == "input[0].content[0].file_id"


def test_files_of_one_name_are_all_there(server: Server, ann: openai.OpenAI) -> None:
    parts = [attached(text, "data.csv") for text in (b"1", b"2", b"1")]
    code = "import glob; print([(each, open(each).read()) for each in sorted(glob.glob('*'))])"
    found = run(ann, server, code, input=[{"role": "user", "content": parts}])
    assert logs(found) == "[('data-2.csv', '2'), ('data.csv', '1')]\n"


def test_files_that_a_container_cannot_hold(server: Server, ann: openai.OpenAI) -> None:
    id = ann.containers.create(name="full").id
    containers = server.client.app.state.service.containers  # type: ignore[attr-defined]
    containers.rules = replace(containers.rules, quota=1000)
    tools = [{"type": "code_interpreter", "container": id}]
    given = [{"role": "user", "content": [attached(b"x" * 2000, "a.csv")]}]
    try:
        with pytest.raises(openai.APIStatusError) as refused:
            run(ann, server, "1", tools=tools, input=given)
    finally:
        containers.rules = replace(containers.rules, quota=256 << 20)
    assert (refused.value.status_code, refused.value.code) == (413, "container_too_large")


def test_a_restart_says_so(server: Server, ann: openai.OpenAI, python: Python) -> None:
    first = run(ann, server, "z = 1; open('/mnt/data/z', 'w').write('kept')")
    python.close()
    second = run(
        ann, server, "print(open('z').read(), 'z' in dir())", previous_response_id=first.id
    )
    assert logs(second) == "kept False\n"
    assert "[ERROR] The session was restarted (" in server.prompt


def test_code_of_an_answer_that_is_stopped_is_interrupted(
    server: Server, ann: openai.OpenAI, python: Python
) -> None:
    first = run(ann, server, "kept = 3")
    container = python.containers.get("ann", first.output[0].container_id)
    server.says(CODE.format("import time; open('/mnt/data/on', 'w').close(); time.sleep(100)"))
    pending: Any = ann.responses.create(
        model="nano",
        input="Go.",
        tools=[INTERPRETER],
        background=True,
        previous_response_id=first.id,
    )
    while "on" not in [file.path for file in container.area.files()]:
        assert ann.responses.retrieve(pending.id).status == "in_progress"
    stopped = ann.responses.cancel(pending.id)
    assert stopped.status == "cancelled"
    after = run(ann, server, "print(kept)", previous_response_id=first.id)
    assert logs(after) == "3\n"


def test_a_turn_that_the_client_keeps_sealed_goes_on_exactly(
    server: Server, ann: openai.OpenAI
) -> None:
    function = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    tools: Any = [INTERPRETER, function]
    server.says(
        THOUGHT.format("I count.") + CODE.format("print('first')"),
        CALL.format("functions.f", "{}"),
    )
    given: Any = [{"role": "user", "content": "Go."}]
    found: Any = ann.responses.create(
        model="nano", input=given, tools=tools, store=False, include=SEALED
    )
    code = found.output[1]
    assert code.outputs is None and code.to_dict()["encrypted_content"]
    service: Any = server.client.app.state.service  # type: ignore[attr-defined]
    service.thoughts = Thoughts(Store(Sqlite(None), 1e6, 1 << 20))  # as after an hour
    given += [item.to_dict() for item in found.output]
    call_id = found.output[-1].call_id
    given.append({"type": "function_call_output", "call_id": call_id, "output": "4"})
    before = server.prompt
    server.says(FINAL.format("Four."))
    ann.responses.create(model="nano", input=given, tools=tools, store=False)
    assert server.prompt.startswith(before.removesuffix("<|start|>assistant"))
    given[2]["encrypted_content"] = "AAAA"
    ann.responses.create(model="nano", input=given, tools=tools, store=False)
    assert "print('first')" not in server.prompt, "what cannot be opened is left out"


# ---- browser ----


@pytest.fixture(scope="module")
def library(tokenizer: Tokenizer, corpus: Path, tmp_path_factory: Any) -> Iterator[Server]:
    """With two corpora, of which requests choose one."""
    law = tmp_path_factory.mktemp("law")
    (law / "capital.md").write_text("# Of the old capital\n\nIt is bound by law.\n")
    browser = Browser(sources={"notes": Corpus.open(corpus), "law": Corpus.open(law)})
    with serving(tokenizer, Settings(model_name="nano", keys=KEYS), builtin=[browser]) as made:
        yield made


def found_by(library: Server, name: str, **tool: Any) -> list[str]:
    """The pages that a search of this key finds."""
    library.says(SEARCH, FINAL.format("Yes."))
    tools: Any = [{**SEARCHES, **tool}]
    asked: Any = {"model": "nano", "input": "Which?", "tools": tools, "include": SOURCES}
    response: Any = client(library, name).responses.create(**asked)
    return [each.url for each in response.output[0].action.sources]


def test_a_request_chooses_what_is_searched(library: Server) -> None:
    rome = ["https://corpus/rome.md"]
    law = ["https://corpus/capital.md"]
    assert found_by(library, "ann") == rome
    assert found_by(library, "ann", source="law") == law
    assert found_by(library, "reader", source="notes") == rome
    with pytest.raises(openai.BadRequestError) as refused:
        found_by(library, "ann", source="web")
    assert refused.value.param == "tools[0].source"
    assert "there are notes, law" in str(refused.value)


def test_a_key_may_search_some_of_it(library: Server) -> None:
    law = ["https://corpus/capital.md"]
    assert found_by(library, "clerk") == found_by(library, "clerk", source="law") == law
    with pytest.raises(openai.BadRequestError, match="there are law"):
        found_by(library, "clerk", source="notes")
    offers = {}
    for name in ("ann", "clerk", "nobody"):
        model: Any = client(library, name).models.retrieve("nano")
        offers[name] = (model.tools, [each["name"] for each in model.sources])
    assert offers == {
        "ann": (["browser"], ["notes", "law"]),
        "clerk": (["browser"], ["law"]),
        "nobody": ([], []),
    }
    with pytest.raises(openai.PermissionDeniedError):
        chat(library, "nobody", tools=[SEARCHES])


def chat(library: Server, name: str, **more: Any) -> str:
    """What the model reads of a search that a chat begins."""
    library.says(SEARCH, FINAL.format("Yes."))
    said: Any = [{"role": "user", "content": "Which?"}]
    client(library, name).chat.completions.create(model="nano", messages=said, **more)
    return library.prompt


def test_a_chat_chooses_too(library: Server) -> None:
    """What its options and its tools say holds together."""
    assert "【0†Rome†corpus】" in chat(library, "ann", web_search_options={})
    law: Any = {"source": "law"}
    capital = "【0†Of the old capital†corpus】"
    assert capital in chat(library, "ann", web_search_options=law)
    limited = {**SEARCHES, "filters": {"allowed_domains": ["other.example"]}}
    found = chat(library, "ann", web_search_options=law, tools=[limited])
    assert capital not in found and "# Search Results" in found


def test_a_search_is_cited(server: Server, ann: openai.OpenAI) -> None:
    said = "Rome is old【1†L2-L3】."
    server.says(SEARCH, OPEN, FINAL.format(said))
    asked: Any = {"model": "nano", "input": "Which?", "tools": [SEARCHES], "include": SOURCES}
    plain: Any = ann.responses.create(**asked)
    search, opened, message = plain.output
    assert search.action.query == "old capital"
    (source,) = search.action.sources
    assert source.to_dict() == {"type": "url", "url": "https://corpus/rome.md", "title": "Rome"}
    assert (opened.action.type, opened.action.url) == ("open_page", "https://corpus/rome.md")
    link = " ([corpus](https://corpus/rome.md)) "
    assert message.content[0].text == f"Rome is old{link}."
    (cited,) = message.content[0].annotations
    assert (cited.url, cited.title) == ("https://corpus/rome.md", "Rome")
    server.says(SEARCH, OPEN, FINAL.format(said))
    texts = []
    with ann.responses.stream(**asked) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                texts.append(event.delta)
        final: Any = stream.get_final_response()
    last = final.output[-1].content[0]
    assert "".join(texts) == last.text == message.content[0].text
    assert last.annotations == message.content[0].annotations


def test_cursors_go_on_and_the_model_reads_its_own_marks(
    server: Server, ann: openai.OpenAI
) -> None:
    server.says(SEARCH, OPEN, FINAL.format("Rome【1†L2】."))
    first = ann.responses.create(model="nano", input="Which?", tools=[SEARCHES])
    server.says(OPEN, FINAL.format("Still【1†L2】, and【2†L3】."))
    second: Any = ann.responses.create(
        model="nano", input="Sure?", tools=[SEARCHES], previous_response_id=first.id
    )
    assert "Rome【1†L2】." in server.prompt and "[2] Rome" in server.prompt
    assert len(second.output[-1].content[0].annotations) == 2


def test_after_a_restart_old_marks_stay_true(
    tokenizer: Tokenizer, corpus: Path, server: Server, ann: openai.OpenAI
) -> None:
    server.says(SEARCH, OPEN, FINAL.format("Rome【1†L2】."))
    first: Any = ann.responses.create(model="nano", input="Which?", tools=[SEARCHES], store=False)
    items = [item.to_dict() for item in first.output]
    given = [{"role": "user", "content": "Which?"}, *items, {"role": "user", "content": "Sure?"}]
    with serving(tokenizer, builtin=[Browser(corpus)]) as other:
        other.says(SEARCH, FINAL.format("Yes【1†L2】."))
        found = other.create(input=given, tools=[SEARCHES])
        assert "[2] old capital" in other.prompt, "cursors go on behind those that were cited"
    (cited,) = found["output"][-1]["content"][0]["annotations"]
    assert cited["url"] == "https://corpus/rome.md"


def test_a_request_may_ask_for_less_of_the_web(server: Server, ann: openai.OpenAI) -> None:
    server.says(SEARCH, FINAL.format("Nothing."))
    tools: Any = [{"type": "web_search", "filters": {"allowed_domains": ["other.example"]}}]
    found: Any = ann.responses.create(model="nano", input="?", tools=tools, include=SOURCES)
    assert found.output[0].action.sources == []
    tools[0]["filters"]["allowed_domains"] = [3]
    with pytest.raises(openai.BadRequestError) as refused:
        ann.responses.create(model="nano", input="?", tools=tools)
    assert refused.value.param == "tools[0].filters.allowed_domains[0]"


# ---- Chat Completions ----


def test_chat_completions_cite_too(server: Server, ann: openai.OpenAI) -> None:
    preamble = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
    said = preamble + SEARCH, OPEN, FINAL.format("Rome is old【1†L2】.")
    asked: Any = {"model": "nano", "messages": [{"role": "user", "content": "Which?"}]}
    asked |= {"extra_body": {"web_search_options": {}}}
    server.says(*said)
    message = ann.chat.completions.create(**asked).choices[0].message
    link = " ([corpus](https://corpus/rome.md)) "
    assert message.content == f"I look.\n\nRome is old{link}."
    (cited,) = message.annotations or ()
    place = cited.url_citation
    assert message.content[place.start_index : place.end_index] == link
    server.says(*said)
    chunks = list(ann.chat.completions.create(**asked, stream=True))
    assert "".join(each.choices[0].delta.content or "" for each in chunks) == message.content
    last = chunks[-1].choices[0].delta.to_dict()
    assert last["annotations"] == [cited.to_dict()]
    server.says(FINAL.format("Fine."))
    asked["messages"] += [message.to_dict(), {"role": "user", "content": "Sure?"}]
    ann.chat.completions.create(**asked)
    assert "Rome is old【1†L2】." in server.prompt


# ---- who may what ----


def test_a_key_without_a_tool(server: Server) -> None:
    reader = client(server, "reader")
    server.says(FINAL.format("No."))
    found = reader.responses.create(model="nano", input="Go.", tools=[INTERPRETER, SEARCHES])
    assert [tool.type for tool in found.tools] == ["web_search"]
    assert found.to_dict()["x-ossia"] == {"unavailable_tools": ["code_interpreter"]}
    assert "python" not in server.prompt.split("<|end|>")[0]
    with pytest.raises(openai.PermissionDeniedError) as refused:
        reader.chat.completions.create(
            model="nano",
            messages=[{"role": "user", "content": "Go."}],
            tools=[{"type": "python"}],  # type: ignore[list-item]
        )
    assert refused.value.code == "tool_not_allowed"
    told = reader.models.retrieve("nano").to_dict()
    assert (told["tools"], told["searches"]) == (["browser"], "corpus")
    assert client(server, "ann").models.retrieve("nano").to_dict()["tools"] == [
        "browser",
        "python",
        "shell",
    ]


def test_calls_are_counted(server: Server, ann: openai.OpenAI) -> None:
    run(ann, server, "1")
    text = server.client.get("/metrics", headers={"Authorization": "Bearer ann"}).text
    labels = '{model_name="nano",outcome="ok",tool="python"}'
    (line,) = (
        each for each in text.splitlines() if each.startswith(f"ossia:tool_calls_total{labels}")
    )
    assert float(line.split()[-1]) >= 1
    assert 'ossia:tool_seconds_count{model_name="nano",tool="python"}' in text
