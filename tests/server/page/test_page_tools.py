"""The tools that the server runs, on the page, in headless Chromium: what is offered, cards of
calls, citations, files; real code and a real corpus, a model that says what it is told.
"""

# ruff: noqa: F401, F811  (fixtures are imported by their names)

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from pages import (
    Speaking,
    ask,
    done,
    expect,
    final,
    in_browser,
    lines,
    opened,
    says,
    serving,
    switch_on,
    thought,
)
from python_tools import python_tool

from ossia.server import Settings
from ossia.server.access import secret_digest
from ossia.server.settings import ApiKey, Limits
from ossia.tools.browser import Browser
from ossia.tools.containers import Containers, Rules
from ossia.tools.shell import Shell
from ossia.tools.shell_place import InContainers

pytestmark = in_browser

CODE = "<|channel|>analysis to=python code<|message|>{}<|call|>"
BROWSER = "<|channel|>analysis to=browser.{} code<|message|>{}<|call|>"
KEYS = tuple(
    ApiKey(name, secret_digest(name), Limits(tools=tools))
    for name, tools in (("sk-all", None), ("sk-reader", frozenset({"browser"})))
)
CORPUS = (
    ("https://pages.example/rome", "Rome <b>bold</b>", "Rome is an old capital."),
    ("https://pages.example/cats", "Cats", "Cats sleep in every capital."),
)


def code(text: str) -> str:
    return CODE.format(text)


def browse(function: str, **arguments: object) -> str:
    return BROWSER.format(function, json.dumps(arguments))


@pytest.fixture(scope="module")
def server(tokenizer, script, tmp_path_factory) -> Iterator[Speaking]:
    corpus = tmp_path_factory.mktemp("corpus") / "pages.jsonl"
    lines = [{"url": url, "title": title, "text": text} for url, title, text in CORPUS]
    corpus.write_text("\n".join(map(json.dumps, lines)))
    with python_tool(containers=Containers(rules=Rules(expires_after=600.0))) as python:
        python.containers.new_owner = python.new_owner
        tools = [python, Browser(corpus), Shell(InContainers(python))]
        settings = Settings(model_name="nano", keys=KEYS)
        made = Speaking(tokenizer, script, settings, builtin=tools, containers=python.containers)
        with serving(made.app) as made.url:
            yield made


@pytest.fixture
def page(server, opened):
    """With a key for everything, and all tools switched on."""
    page = opened(server.url)
    switch_on(page, "sk-all")
    return page


def shown(page, n: int = 0):
    """A card, opened."""
    card = page.locator("details.call").nth(n)
    card.locator("summary").click()
    return card


def sent_by(page, act) -> dict:
    with page.expect_request("**/v1/responses") as sent:
        act()
    return json.loads(sent.value.post_data)


# ---- what is offered ----


def test_without_tools_nothing_is_shown(says, opened):
    page = opened(says(final("ok")))
    expect(page.locator("#model")).to_have_text("nano")
    expect(page.locator("#offer")).to_be_hidden()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_text("Tools of this server")).to_be_hidden()


def test_tools_are_off_until_they_are_switched_on(server, opened):
    server.says(*[final("ok")] * 3)
    page = opened(server.url)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("API key").fill("sk-reader")
    page.keyboard.press("Tab")
    expect(page.get_by_role("switch", name="Search documents")).not_to_be_checked()
    expect(page.get_by_role("switch", name="Run Python")).to_have_count(0)  # it may not
    page.get_by_label("API key").fill("sk-all")
    page.keyboard.press("Tab")
    page.get_by_role("switch", name="Search documents").click()
    page.keyboard.press("Escape")
    chip = page.get_by_role("button", name="Run Python")
    expect(chip).to_have_attribute("aria-pressed", "false")
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "true")
    page.reload()
    expect(chip).to_have_attribute("aria-pressed", "true")
    body = sent_by(page, lambda: ask(page, "Hi"))
    own = ["function", "function"]
    assert [tool["type"] for tool in body["tools"]] == [*own, "web_search", "code_interpreter"]
    assert body["store"] is False and "reasoning.encrypted_content" in body["include"]
    done(page)
    page.get_by_role("switch", name="Tools").click()
    assert "tools" not in sent_by(page, lambda: ask(page, "Hi again"))


def test_a_tool_that_the_server_has_no_more(says, opened):
    page = opened(says(final("I cannot.")))
    expect(page.locator("#model")).to_have_text("nano")
    page.evaluate("() => { readOffer({ tools: ['python'] }); choose('python', true); }")
    ask(page, "Run it")
    done(page)
    expect(page.get_by_text("does not offer this any more: code_interpreter")).to_be_visible()
    page.keyboard.press("Control+k")
    expect(page.locator("#offer")).to_be_hidden()


OFFER = {
    "tools": ["browser"],
    "searches": "corpus",
    "sources": [{"name": "law", "searches": "corpus"}, {"name": "exa", "searches": "web"}],
}


def test_what_to_search_is_chosen(says, opened):
    """Where there is a choice; it is kept, and what the server has no more is not asked for."""
    page = opened(says(*[final("ok")] * 3))
    expect(page.locator("#model")).to_have_text("nano")
    page.evaluate("offer => readOffer(offer)", OFFER | {"sources": OFFER["sources"][:1]})
    page.get_by_role("button", name="Search documents").click()
    expect(page.get_by_label("What to search")).to_have_count(0)
    page.evaluate("offer => readOffer(offer)", OFFER)
    choice = page.locator("#offer").get_by_label("What to search")
    expect(choice.locator("option")).to_have_text(["documents: law", "the web, with Exa"])
    expect(choice).to_have_value("law")
    choice.select_option("exa")
    expect(page.get_by_role("button", name="Search the web")).to_have_attribute(
        "aria-pressed", "true"
    )
    expect(choice).to_be_focused()
    page.reload()
    expect(page.locator("#model")).to_have_text("nano")
    for left, source in (
        (OFFER["sources"], "exa"),
        ([*OFFER["sources"][:1], {"name": "b"}], "law"),
    ):
        page.evaluate("offer => readOffer(offer)", OFFER | {"sources": left})
        body = sent_by(page, lambda: ask(page, "Hi"))
        assert body["tools"][-1] == {"type": "web_search", "source": source}
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        # this server has no browser: the page hears so with the answer, and asks what there is
        page.wait_for_function("() => offered.length === 0")


# ---- code ----


def test_code_its_output_and_its_files(server, page):
    server.says(
        code("x = 41\nopen('/mnt/data/a b.txt', 'w').write('kept')\nprint('<i>', x + 1)"),
        final("See [the file](sandbox:/mnt/data/a%20b.txt) or [none](sandbox:/mnt/data/no.txt)."),
    )
    ask(page, "Run")
    done(page)
    expect(lines(page)).to_have_text("Ran Pythonx = 41= <i> 42")
    card = shown(page)
    expect(card.locator("code")).to_contain_text("x + 1")
    expect(card.locator("dd > pre")).to_have_text("<i> 42")
    for button in ("the file", "Save a b.txt"):
        with page.expect_download() as coming:
            page.get_by_role("button", name=button).or_(page.get_by_title(button)).first.click()
        assert coming.value.suggested_filename == "a b.txt"
        with open(coming.value.path(), "rb") as file:
            assert file.read() == b"kept"
    page.get_by_role("button", name="none").click()
    expect(page.get_by_text("There is no such file")).to_be_visible()
    page.evaluate("() => fetchFile('cntr_gone', 'cfile_gone', 'gone')")
    expect(page.get_by_text("does not have this file any more")).to_be_visible()


def test_a_conversation_goes_on_exactly_after_a_reload(server, page):
    server.says(thought("Hm.") + code("y = 20\nprint('first')"), final("Done."))
    ask(page, "Begin")
    done(page)
    expect(page.locator("#gauge span")).to_contain_text("tokens of context")
    page.reload()
    expect(lines(page)).to_have_text("Ran Pythony = 20= first")
    server.says(code("y + 1"), final("It is 21."))
    ask(page, "Go on")
    done(page, 2)
    expect(lines(page).last).to_have_text("Ran Pythony + 1= 21")
    assert "<|message|>21" in server.prompt


def test_what_was_carried_out_is_not_done_again(server, page):
    """After a connection that broke, `Try again` goes on behind the last call."""
    server.says(thought("Hm.") + code("print('once')"), final("Lost."))

    def broken(route):
        events = route.fetch().text().split("\n\n")
        ran = [n for n, event in enumerate(events) if '"code_interpreter_call"' in event]
        kept = "\n\n".join(events[: ran[-2] + 1])
        route.fulfill(content_type="text/event-stream", body=f"{kept}\n\n")

    page.route("**/v1/responses", broken, times=1)
    ask(page, "Begin")
    expect(page.get_by_role("alert")).to_contain_text("before the answer was complete")
    server.says(final("Done."))
    page.get_by_role("button", name="Try again").click()
    done(page)
    expect(lines(page)).to_have_text("Ran Pythonprint('once')= once")
    assert "Hm." in server.prompt and "<|message|>once\n" in server.prompt


def test_code_that_fails_and_code_that_is_stopped(server, page):
    server.says(code("1 / 0"), code("while True: pass"))
    ask(page, "Try")
    expect(lines(page)).to_have_count(2)
    expect(lines(page).last).to_contain_text("Running Python")
    expect(page.locator("details.call").last).to_have_attribute("open", "")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.", exact=True).first).to_be_visible()
    expect(lines(page)).to_have_text(
        [
            "Ran Python1 / 0ZeroDivisionError: division by zero",
            "Ran Pythonwhile True: passinterrupted",
        ]
    )
    server.says(code("'alive'"), final("It is."))
    page.get_by_role("button", name="Regenerate answer").click()
    done(page)
    expect(lines(page)).to_have_text("Ran Python'alive'= 'alive'")


def test_commands_of_the_shell(server, page):
    command = {"commands": ["echo '<i>' > /mnt/data/out.txt; cat /mnt/data/out.txt", "exit 3"]}
    server.says(
        "<|channel|>commentary to=functions.shell <|constrain|>json<|message|>"
        f"{json.dumps(command)}<|call|>",
        final("Done."),
    )
    ask(page, "Run")
    done(page)
    expect(lines(page)).to_have_text(f"Ran commands{command['commands'][0]}exit code 3")
    card = shown(page)
    expect(card.locator("dd > pre")).to_have_text("<i>")
    expect(page.get_by_title("Save out.txt")).to_be_visible()
    server.says(final("It printed <i>."))
    ask(page, "What?")
    done(page, 2)
    assert "<i>" in server.prompt


def test_attached_files_are_where_code_finds_them(server, page, tmp_path):
    """Whatever they are, and only while code may run; the page says so."""
    server.says(
        code("import os; print(sorted(os.listdir()), open('data.csv').read())"), final("Read.")
    )
    (tmp_path / "data.csv").write_text("a,b\n1,2")
    (tmp_path / "blob.xlsx").write_bytes(b"PK\0\xff")
    page.locator("#choose").set_input_files([tmp_path / "data.csv", tmp_path / "blob.xlsx"])
    expect(page.locator("#attached .file")).to_have_text(
        ["data.csvin /mnt/data", "blob.xlsxin /mnt/data"]
    )
    ask(page, "Read them")
    done(page)
    expect(lines(page)).to_contain_text("['blob.xlsx', 'data.csv'] a,b")
    expect(page.locator(".turn.user .file")).to_have_text(
        ["data.csvin /mnt/data", "blob.xlsxin /mnt/data"]
    )
    assert 'name="blob.xlsx" path="/mnt/data/blob.xlsx">\n(it is not text' in server.prompt
    expect(page.get_by_title("Save data.csv")).to_have_count(0)  # code did not make it
    page.get_by_role("switch", name="Tools").click()
    server.says(final("No."))
    ask(page, "And now?")
    done(page, 2)
    assert "a,b\n1,2" in server.prompt and "“blob.xlsx” is not text, and no code" in server.prompt
    page.locator("#choose").set_input_files(tmp_path / "blob.xlsx")
    expect(page.get_by_text("is neither text nor a PDF")).to_be_visible()


# ---- the browser ----


def test_searches_pages_and_citations(server, page):
    server.says(
        browse("search", query="old capital"),
        browse("open", id=0, cursor=0),
        browse("find", pattern="old"),
        browse("open", id=9, cursor=0),
        final("🏛 Rome is old【1†L2】, very old【1†L2-L3】. **Indeed**【7†L1】"),
    )
    ask(page, "Which?")
    done(page)
    expect(lines(page)).to_have_text(
        [
            "Searchedold capital2 results",
            "OpenedRome <b>bold</b>",
            "Looked for“old” in Rome <b>bold</b>",
            "BrowserInvalid link id `9`.failed",
        ]
    )
    found = shown(page).get_by_role("link")
    expect(found).to_have_text(["Rome <b>bold</b>", "Cats"])
    expect(found.first).to_have_attribute("href", CORPUS[0][0])
    cited = page.locator(".md a.cite")
    expect(cited).to_have_text(["1", "1"])
    expect(cited.first).to_have_attribute("rel", "noopener noreferrer nofollow")
    expect(cited.first).to_have_attribute("title", f"Rome <b>bold</b>\n{CORPUS[0][0]}")
    expect(page.locator(".md p")).to_have_text("🏛 Rome is old1, very old1. Indeed【7†L1】")
    expect(page.locator(".sources li")).to_have_text("Rome <b>bold</b>pages.example")
    server.says(final("As I said【1†L2】."))
    ask(page, "Sure?")
    done(page, 2)
    assert "Rome is old【1†L2】, very old【1†L2-L3】." in server.prompt
    expect(page.locator(".md").last.locator("a.cite")).to_have_text("1")


# ---- what comes from elsewhere ----

EVIL = "<img src=x onerror=alert(1)>"
HOSTILE = [
    {"type": "web_search_call", "status": "completed", "action": {
        "type": "search", "query": EVIL, "sources": [
            {"url": "javascript:alert(1)", "title": EVIL}, {"url": "data:text/html,x"},
            {"url": "mailto:a@b.example"}, {"url": "sandbox:/mnt/data/x"}, None, 3]}},
    {"type": "web_search_call", "status": "completed", "action": {
        "type": "open_page", "url": "javascript:alert(1)", "title": EVIL}},
    {"type": "web_search_call", "action": 7},
    {"type": "code_interpreter_call", "status": "completed", "code": EVIL, "outputs": [
        {"type": "logs", "logs": EVIL}, {"type": "image", "url": "https://evil.example/x.png"},
        {"type": "image", "url": "data:text/html,<b>"}, None]},
    {"type": "mcp_call", "status": "completed", "server_label": EVIL, "name": EVIL,
     "arguments": "[not json", "output": EVIL, "error": {"content": 3}},
    {"type": "mcp_list_tools", "server_label": EVIL, "tools": [None, {"name": EVIL}]},
    {"type": "shell_call", "call_id": "c", "action": {"commands": [EVIL, 3]}},
    {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": EVIL}, None]},
    {"type": "apply_patch_call", "operation": {"type": "update_file", "path": EVIL, "diff": "-a"}},
    {"type": "mcp_approval_request", "server_label": EVIL, "name": EVIL, "arguments": EVIL},
    {"type": "something_new", "html": EVIL},
    {"type": "message", "role": "assistant", "content": [{"text": "Seen 1 and 2.", "annotations": [
        {"type": "url_citation", "start_index": 0, "end_index": 4, "url": "javascript:alert(1)"},
        {"type": "url_citation", "start_index": 5, "end_index": 900, "url": "https://a.example/"},
        {"type": "url_citation", "start_index": "x", "url": 5}, None]}]},
]  # fmt: skip


def test_whatever_a_tool_says_is_text(says, opened, tmp_path):
    items = [{"id": f"i{n}", **item} for n, item in enumerate(HOSTILE)]
    turns = [
        {"role": "user", "text": "Hi"},
        {"role": "assistant", "state": "asking", "steps": [{"items": items, "times": {}}]},
    ]
    chat = {"id": "evil", "title": "Evil", "changed": 1, "turns": turns}
    chat["allowed"] = [f"{EVIL}.{EVIL}"]
    given = {"format": "ossia-conversations", "version": 2, "conversations": [chat]}
    file = tmp_path / "given.json"
    file.write_text(json.dumps(given))
    page = opened(says(final("ok")), viewport={"width": 360, "height": 640})
    page.locator("#import-file").set_input_files(file)
    page.evaluate("() => openChat('evil')")
    assert page.evaluate("() => current.allowed === undefined")
    cards = page.locator("details.call")
    expect(cards).to_have_count(8)
    for card in cards.all():
        card.evaluate("card => { card.open = true; }")
    expect(page.get_by_role("group", name=f"May the model use {EVIL} of {EVIL}?")).to_be_visible()
    assert page.locator("#log img, #log dd button:not([data-copy])").count() == 0
    hrefs = page.locator("#log a").evaluate_all("links => links.map(link => link.href)")
    assert set(hrefs) == {"https://a.example/"}
    for what in ("document.querySelector('#scroll')", "document.querySelector('#log')"):
        assert page.evaluate(f"() => {what}.scrollWidth <= {what}.clientWidth"), what
    ask(page, "Go on")
    done(page, 2)
    expect(page.get_by_role("button", name="Approve")).to_have_count(0)


def test_what_an_earlier_page_kept_is_read(says, opened, tmp_path):
    made = {"id": "c1", "name": "calculator", "arguments": '{"expression": "1 + 1"}', "result": "2"}
    step = {"thought": "Hm.", "text": "", "calls": [made], "finish": "tool_calls", "tokens": 9,
            "prompt": 50, "thoughtMs": 1200, "earlier": 0}  # fmt: skip
    last = {**step, "thought": "", "text": "It is 2.", "calls": [], "finish": "stop"}
    turns = [
        {"role": "user", "text": "1 + 1?"},
        {"role": "assistant", "state": "done", "steps": [step, last]},
    ]
    chat = {"id": "old", "title": "Old", "changed": 1, "turns": turns}
    given = {"format": "ossia-conversations", "version": 1, "conversations": [chat]}
    file = tmp_path / "given.json"
    file.write_text(json.dumps(given))
    page = opened(says(final("As I said.")))
    page.locator("#import-file").set_input_files(file)
    page.get_by_role("button", name="Old", exact=True).click()
    expect(lines(page)).to_have_text("calculator1 + 1= 2")
    expect(page.locator("details.thought summary")).to_have_text("Thought for 1.2 s")
    expect(page.locator("#gauge span")).to_contain_text("59 of")
    body = sent_by(page, lambda: ask(page, "Sure?"))
    kinds = [item["type"] for item in body["input"]]
    assert kinds == [
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        *["message"] * 2,
    ]
    done(page, 2)
