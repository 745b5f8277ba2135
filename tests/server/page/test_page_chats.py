"""Versions, search, files, export: what surrounds an answer, in headless Chromium."""

# ruff: noqa: F401, F811  (fixtures are imported by their names)

from __future__ import annotations

import base64
import json

import pytest
from pages import (
    answers,
    ask,
    call,
    done,
    expect,
    final,
    in_browser,
    opened,
    prompt_of,
    says,
    thought,
)

from ossia.server import Settings

pytestmark = in_browser


def asked_by(page, act) -> dict:
    """The body of the request that `act` leads to."""
    with page.expect_request("**/v1/responses") as sent:
        act()
    return json.loads(sent.value.post_data)


def regenerate(page):
    page.get_by_role("button", name="Regenerate answer").last.click()


# Versions


def test_versions_of_an_answer_are_kept(says, opened):
    page = opened(says(final("first"), final("second"), final("third")))
    ask(page, "Say")
    done(page)
    expect(page.locator(".versions")).to_have_count(0)
    for n, text in enumerate(("second", "third"), 2):
        regenerate(page)
        expect(page.locator(".md")).to_have_text(text)
        done(page)
        expect(page.locator(".versions")).to_have_text(f"{n} / {n}")
    before = page.get_by_role("button", name="Version before")
    before.click()
    expect(page.locator(".md")).to_have_text("second")
    before.click()
    expect(page.locator(".md")).to_have_text("first")
    expect(before).to_be_disabled()
    page.reload()
    expect(page.locator(".md")).to_have_text("first")
    page.get_by_role("button", name="Version after").click()
    expect(page.locator(".md")).to_have_text("second")


def test_a_version_keeps_what_followed_it(says, opened, tokenizer):
    page = opened(says(*(final(text) for text in ("A1", "A2", "B1", "B2", "C2"))))
    for n, text in enumerate(("one", "two"), 1):
        ask(page, text)
        done(page, n)
    page.get_by_role("button", name="Edit message").first.click()
    page.get_by_role("textbox", name="Edit message").fill("uno")
    page.keyboard.press("Enter")
    expect(page.locator(".md")).to_have_text(["B1"])
    done(page)
    ask(page, "due")
    done(page, 2)
    regenerate(page)
    expect(page.locator(".md")).to_have_text(["B1", "C2"])
    done(page, 2)
    expect(page.locator(".versions")).to_have_text(["2 / 2", "2 / 2"])
    page.get_by_role("button", name="Version before").first.click()
    expect(page.locator(".said")).to_have_text(["one", "two"])
    expect(page.locator(".md")).to_have_text(["A1", "A2"])
    page.get_by_role("button", name="Version after").first.click()
    expect(page.locator(".md")).to_have_text(["B1", "C2"])
    page.get_by_role("button", name="Version before").last.click()
    expect(page.locator(".md")).to_have_text(["B1", "B2"])
    assert "user<|message|>one" not in prompt_of(says.engine, tokenizer)


def test_another_version_waits_for_the_end_of_the_answer(says, opened):
    page = opened(says(final("first"), final("word " * 2000), delay=0.005))
    ask(page, "Say")
    done(page)
    regenerate(page)
    expect(page.locator(".md")).to_contain_text("word word")
    page.get_by_role("button", name="Edit message").click()
    page.get_by_role("textbox", name="Edit message").press("Enter")
    expect(page.locator(".said")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.", exact=True).first).to_be_visible()
    expect(page.locator(".versions").first).to_have_text("2 / 2")


# Going on


def test_an_answer_that_was_cut_off_goes_on(says, opened, tokenizer):
    page = opened(
        says(thought("Hm.") + final("one two three four five six"), " and more<|return|>")
    )
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Most tokens").fill("14")
    page.keyboard.press("Escape")
    ask(page, "Count")
    done(page)
    said = page.locator(".md").inner_text()
    assert said and said != "one two three four five six seven"
    body = asked_by(page, page.get_by_role("button", name="Continue").click)
    assert body["continue_final_message"] is True
    thinking, message = body["input"][-2:]
    assert thinking["content"][0]["text"] == "Hm." and message["content"][0]["text"] == said
    expect(page.locator(".md")).to_have_text(f"{said} and more")
    prompt = prompt_of(says.engine, tokenizer)
    assert prompt.endswith(f"<|channel|>final<|message|>{said}") and "Hm." in prompt
    done(page)
    expect(page.get_by_role("button", name="Continue")).to_have_count(0)


def test_going_on_that_fails_loses_nothing(says, opened):
    page = opened(
        says(thought("Hm.") + final("one two three four five six"), " and more<|return|>")
    )
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Most tokens").fill("14")
    page.keyboard.press("Escape")
    ask(page, "Count")
    done(page)
    said = page.locator(".md").inner_text()
    page.route("**/v1/responses", lambda route: route.fulfill(status=429))
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("alert")).to_contain_text("busy")
    page.unroute("**/v1/responses")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".md")).to_have_text(f"{said} and more")


def test_what_is_whole_does_not_go_on(says, opened):
    page = opened(says(final("ok")))
    ask(page, "Hi")
    done(page)
    expect(page.get_by_role("button", name="Continue")).to_have_count(0)


# Instructions, the gauge, what nano is


def test_a_conversation_has_instructions_of_its_own(says, opened, tokenizer):
    page = opened(says(final("ok")))
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System instructions").fill("Speak like a pirate.")
    page.get_by_label("Instructions for this conversation").fill("Speak like a poet.")
    page.keyboard.press("Escape")
    ask(page, "Hi")
    done(page)
    prompt = prompt_of(says.engine, tokenizer)
    assert "a poet" in prompt and "a pirate" not in prompt
    page.reload()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Instructions for this conversation")).to_have_value(
        "Speak like a poet."
    )
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    ask(page, "Hi")
    done(page)
    assert "a pirate" in prompt_of(says.engine, tokenizer)


def test_the_gauge_says_how_full_the_context_is(says, opened):
    page = opened(says(final("one two three")))
    expect(page.locator("#gauge")).to_be_hidden()
    ask(page, "Hi")
    done(page)
    expect(page.locator("#gauge span")).to_contain_text("tokens of context")
    used, of, length, *_ = page.locator("#gauge span").inner_text().replace(",", "").split()
    prompt = len(says.engine.submitted[-1])
    assert int(used) > prompt and of == "of" and int(length) > 1000
    assert page.locator("#gauge meter").evaluate("meter => meter.value") == int(used)


@pytest.mark.parametrize(("name", "is_shown"), [("nano", True), ("gpt-oss-20b", False)])
def test_a_newcomer_is_told_what_nano_is(says, opened, name, is_shown):
    page = opened(says(final("ok"), settings=Settings(model_name=name)))
    expect(page.locator("#model")).to_have_text(name)
    about = page.get_by_text("a 4 MB demonstration")
    expect(about).to_be_visible() if is_shown else expect(about).to_be_hidden()


# Finding, taking away, bringing back


def chats_of(page, says, *texts: str) -> None:
    for text in texts:
        ask(page, text)
        done(page)
        page.keyboard.press("Control+k")


def test_conversations_are_found_by_their_words(says, opened):
    page = opened(says(final("The **sink** takes it."), final("Rosen im Schnee."), final("ok")))
    chats_of(page, says, "Attention?", "A haiku", "Third")
    names = page.locator(".chat-name")
    find = page.get_by_label("Search conversations")
    for query, found in {
        "sink TAKES": ["Attention?"],
        "haiku schnee": ["A haiku"],
        "third": ["Third"],
        "": ["Third", "A haiku", "Attention?"],
    }.items():
        find.fill(query)
        expect(names).to_have_text(found)
    find.fill("sink schnee")
    expect(page.get_by_text("None has all these words.")).to_be_visible()


def saved(page, button: str) -> bytes:
    if not page.get_by_role("dialog").is_visible():
        page.get_by_role("button", name="Settings").click()
    with page.expect_download() as coming:
        page.get_by_role("button", name=button).click()
    with open(coming.value.path(), "rb") as file:
        return file.read()


def test_everything_can_be_taken_to_another_browser(says, opened, tmp_path):
    url = says(final("first"), final("second"), final("other"))
    page = opened(url)
    attach(page, "notes.txt", b"Ada lives in Rome.")
    ask(page, "Say")
    done(page)
    regenerate(page)
    done(page)
    page.keyboard.press("Control+k")
    chats_of(page, says, "Another")
    file = tmp_path / "kept.json"
    file.write_bytes(saved(page, "Export all"))
    there = opened(url)
    choose = there.locator("#import-file")
    choose.set_input_files(file)
    expect(there.locator(".chat-name")).to_have_text(["Another", "Say"])
    choose.set_input_files(file)
    expect(there.get_by_text("0 conversations were added.")).to_be_visible()
    there.get_by_role("button", name="Say", exact=True).click()
    expect(there.locator(".versions")).to_have_text("2 / 2")
    body = asked_by(there, lambda: regenerate(there))
    assert "Ada lives in Rome." in json.dumps(body["input"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "not JSON"),
        ("[]", "no conversations"),
        ('{"format": "ossia-conversations", "version": 3, "conversations": []}', "version 3"),
        (
            '{"format": "ossia-conversations", "version": 1, "conversations": [{"id": "a"}]}',
            "damaged; nothing was added",
        ),
    ],
)
def test_what_cannot_be_imported_is_named(says, opened, tmp_path, text, words):
    page = opened(says(final("ok")))
    file = tmp_path / "given.json"
    file.write_text(text)
    page.locator("#import-file").set_input_files(file)
    expect(page.locator("#toast")).to_contain_text(words)
    expect(page.locator(".chat-name")).to_have_count(0)


def test_a_conversation_is_saved_as_markdown(says, opened):
    page = opened(says(thought("secret") + final("It is **two**.")))
    ask(page, "1 + 1?")
    done(page)
    text = saved(page, "Save this one as Markdown").decode()
    assert text == "# 1 + 1?\n\n## You\n\n1 + 1?\n\n## Answer\n\nIt is **two**.\n"


# Files


def attach(page, name: str, contents: bytes) -> None:
    page.locator("#choose").set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": contents}
    )
    page.locator("#attached .file", has_text=name).wait_for()


def test_a_text_file_goes_along(says, opened, tokenizer):
    page = opened(says(final("ok")))
    attach(page, "notes.md", "Zoë lives in Łódź.\n".encode())
    attach(page, "wide.txt", "Ada wohnt in Köln.".encode("utf-16"))
    page.get_by_role("button", name="Take wide.txt away").click()
    attach(page, "wide.txt", "Ada wohnt in Köln.".encode("utf-16"))
    ask(page, "Where?")
    done(page)
    prompt = prompt_of(says.engine, tokenizer)
    for words in ("File “notes.md”", "Zoë lives in Łódź.", "Ada wohnt in Köln.", "Where?"):
        assert words in prompt
    assert prompt.index("wohnt in") < prompt.index("Where?") and prompt.count("Köln") == 1
    expect(page.locator("#attached")).to_be_hidden()
    expect(page.locator(".turn.user .file")).to_have_text(["notes.md", "wide.txt"])
    page.reload()
    body = asked_by(page, lambda: regenerate(page))
    assert "Łódź" in body["input"][0]["content"][0]["text"]


def test_a_pdf_is_sent_as_a_file(says, opened):
    page = opened(says(final("ok")))
    contents = b"%PDF-1.4\nnot really\n%%EOF"
    attach(page, "paper.pdf", contents)
    body = asked_by(page, lambda: ask(page, "What does it say?"))
    part = body["input"][0]["content"][0]
    head, data = part["file_data"].split(",")
    assert (part["type"], part["filename"]) == ("input_file", "paper.pdf")
    assert head == "data:application/pdf;base64" and base64.b64decode(data) == contents


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n\x00", "neither text nor a PDF"),
        ("empty.txt", b" \n", "is empty"),
        ("long.txt", b"x" * (2**21 + 1), "larger than 2 MB"),
    ],
)
def test_what_cannot_be_attached_is_named(says, opened, name, contents, words):
    page = opened(says(final("ok")))
    page.locator("#choose").set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": contents}
    )
    expect(page.locator("#toast")).to_contain_text(words)
    expect(page.locator("#attached")).to_be_hidden()


def test_a_file_that_is_gone_is_said_to_be(says, opened, tokenizer):
    page = opened(says(final("ok")))
    attach(page, "notes.txt", b"Ada lives in Rome.")
    ask(page, "Where?")
    done(page)
    page.evaluate("""async () => {
        for (const file of await inStore("readonly", files => files.getAll()))
            await inStore("readwrite", files => files.delete(file.id)); }""")
    ask(page, "And now?")
    done(page, 2)
    prompt = prompt_of(says.engine, tokenizer)
    assert "File “notes.txt” is not there any more." in prompt
    regenerate_first = page.get_by_role("button", name="Regenerate answer").first
    regenerate_first.click()
    expect(page.get_by_role("alert")).to_contain_text("Attach it again")


def test_files_that_no_conversation_names_are_forgotten(says, opened):
    page = opened(says(final("ok")))
    attach(page, "kept.txt", b"kept")
    ask(page, "Hi")
    done(page)
    attach(page, "left.txt", b"left")
    names = """async before => { await forgetFiles(before);
        return (await inStore("readonly", files => files.getAll())).map(file => file.name); }"""
    assert sorted(page.evaluate(names, 4e12)) == ["kept.txt", "left.txt"]  # it is still attached
    page.get_by_role("button", name="Take left.txt away").click()
    assert sorted(page.evaluate(names, 0)) == ["kept.txt", "left.txt"]
    assert page.evaluate(names, 4e12) == ["kept.txt"]


def test_counters_have_units(says, opened):
    page = opened(says(final("one two three")))
    ask(page, "Hi")
    done(page)
    expect(page.locator(".stats")).to_contain_text("first token after")
    prompt = len(says.engine.submitted[-1])
    expect(page.locator(".stats")).to_contain_text(f"prompt of {prompt} tokens")
