"""The page in headless Chromium: asking, answers, reasoning, tools, and what can go wrong."""

# ruff: noqa: F401, F811  (fixtures are imported by their names)

from __future__ import annotations

import hashlib
import json
import re
import time

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
    serving,
    thought,
)

from ossia.engine import Engine
from ossia.server import ScriptedEngine, Settings, create_app
from ossia.server.settings import ApiKey

pytestmark = in_browser


def test_an_answer_comes_word_by_word(says, opened):
    page = opened(says(final("one two three four five six seven eight nine ten"), delay=0.04))
    page.evaluate("""() => { window.seen = new Set(); setInterval(() => {
        const text = document.querySelector(".md")?.textContent;
        if (text) seen.add(text); }, 10); }""")
    ask(page, "Count")
    done(page)
    expect(answers(page)).to_contain_text("nine ten")
    seen = page.evaluate("() => [...seen]")
    assert len(seen) >= 5 and all(seen[-1].startswith(text) for text in seen)
    expect(page.locator(".stats")).to_have_text(
        re.compile(
            r"^\d+ tokens · [\d.]+ tokens/s · first token after \d\.\d\d s · prompt of \d+ tokens$"
        )
    )
    expect(page.locator("#status")).to_have_text("The answer is complete.")


def test_reasoning_is_open_while_it_comes_and_folded_after(says, opened):
    words = " ".join(f"step {n}" for n in range(30))
    page = opened(says(thought(words) + final("Done " * 20), delay=0.01))
    ask(page, "Think")
    details = page.locator("details.thought")
    expect(details).to_have_attribute("open", "")
    expect(details.locator("summary")).to_have_text(re.compile(r"^Thinking, \d\.\d s$"))
    expect(details).not_to_have_attribute("open", "")
    done(page)
    expect(details.locator("summary")).to_have_text(re.compile(r"^Thought for \d\.\d s$"))
    details.locator("summary").click()
    expect(details.locator(".thought-text")).to_have_text(words)
    expect(page.locator(".md")).not_to_contain_text("step")


def test_reasoning_that_the_user_opened_stays_open(says, opened):
    page = opened(says(thought("hm " * 10) + final("word " * 60), delay=0.01))
    ask(page, "Think")
    summary = page.locator("details.thought summary")
    expect(summary).to_contain_text("Thought for")
    summary.click()
    done(page)
    expect(page.locator("details.thought")).to_have_attribute("open", "")


def test_the_effort_is_what_is_asked_for(says, opened, tokenizer):
    page = opened(says(final("ok")))
    for n, effort in enumerate(("low", "high"), 1):
        page.get_by_label(f"Reasoning effort {effort}").check(force=True)
        ask(page, "Hi")
        done(page, n)
        assert f"Reasoning: {effort}" in prompt_of(says.engine, tokenizer)
    page.reload()
    expect(page.get_by_label("Reasoning effort high")).to_be_checked()


def test_a_call_is_run_and_its_result_sent_back(says, opened, tokenizer):
    page = opened(
        says(
            thought("A sum.") + call("calculator", expression="37 + 48"),
            thought("I see.") + final("It is 85."),
        )
    )
    ask(page, "What is 37 + 48?")
    done(page)
    shown = page.locator("details.call")
    expect(shown.locator("summary")).to_have_text("calculator37 + 48= 85")
    shown.locator("summary").click()
    expect(shown.locator("pre")).to_have_text(['{\n  "expression": "37 + 48"\n}', "85"])
    expect(page.locator(".md")).to_have_text("It is 85.")
    expect(page.locator("details.thought")).to_have_count(2)
    first, second = (prompt_of(says.engine, tokenizer, n) for n in (0, 1))
    assert "type calculator" in first and "type current_time" in first
    assert second.startswith(first) and "A sum." in second, (
        "why it called is part of the next prompt"
    )
    assert second.endswith(
        "<|start|>functions.calculator to=assistant<|channel|>commentary<|message|>85<|end|>"
        "<|start|>assistant"
    )
    assert len(says.engine.submitted) == 2


def test_switched_off_no_tool_is_offered(says, opened, tokenizer):
    page = opened(says(final("ok")))
    page.get_by_role("switch", name="Tools").click()
    ask(page, "Hi")
    done(page)
    assert "calculator" not in prompt_of(says.engine, tokenizer)


SUMS = {
    "2 + 3 * 4": "14",
    "(2 + 3) * 4": "20",
    "-2^2": "-4",
    "2**3**2": "512",
    "7 / 2": "3.5",
    "7 // 2": "3",
    "-7 // 2": "-4",
    "-7 % 3": "2",
    "12 / 4": "3",
    "0.1 + 0.2": "0.3",
    "123456789 * 987654321": "121932631112635269",
    "2^100": str(2**100),
    "1,234,567 + 1": "1234568",
    "3 × 4 − 2": "10",
    "5!": "120",
    "sqrt(16) + max(1, 5, 3)": "9",
    "round(2.6)": "3",
    "sin(pi / 2)": "1",
    "1e3 + 1": "1001",
    "12*7=": "84",
    "(-3) // -2": "1",
    "7 % -3": "-2",
}
NO_SUMS = [
    "1 / 0",
    "2 +",
    "(1",
    "1)",
    "alert(1)",
    "constructor(1)",
    "__proto__",
    "x + 1",
    "9^9^9^9",
    "300!",
    "(" * 500,
    "1;2",
    "",
    "sqrt(-1)",
    "5 5",
    "0 % 0",
    "a" * 2000,
    "toString()",
    "min()",
]


def test_the_calculator_calculates_and_nothing_else(says, opened):
    page = opened(says(final("ok")))
    got = page.evaluate(
        "texts => texts.map(t => { try { return calculate(t); } catch (e) { return `error: "
        "${e.message}`; } })",
        [*SUMS, *NO_SUMS],
    )
    assert dict(zip(SUMS, got, strict=False)) == SUMS
    for text, result in zip(NO_SUMS, got[len(SUMS) :], strict=True):
        assert result.startswith("error: ") and "undefined" not in result, (text, result)


def test_calls_that_cannot_be_run_are_answered_too(says, opened, tokenizer):
    page = opened(
        says(
            call("calculator", expression="1 / 0"),
            call("current_time", timezone="Mars/Dust"),
            call("current_time"),
            final("ok"),
        )
    )
    ask(page, "Try")
    done(page)
    expect(page.locator(".call.failed .outcome")).to_have_text(
        ["= error: division by zero", re.compile("time zone “Mars/Dust” is not known")]
    )
    told = json.loads(page.locator(".call pre").last.text_content())
    assert (
        set(told) == {"local", "weekday", "timezone", "utc"}
        and str(time.gmtime().tm_year) in told["utc"]
    )
    assert "error: division by zero" in prompt_of(says.engine, tokenizer)


def test_a_model_that_only_calls_is_stopped(says, opened):
    page = opened(says(call("calculator", expression="1 + 1")))
    ask(page, "Go")
    expect(page.get_by_role("alert")).to_contain_text("16 times in a row")
    assert len(says.engine.submitted) == 16


@pytest.mark.parametrize("by", ["button", "key"])
def test_stop(says, opened, by):
    page = opened(says(final("word " * 2000), delay=0.01))
    ask(page, "Talk")
    expect(page.locator(".md")).to_contain_text("word word")
    if by == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.", exact=True).first).to_be_visible()
    until = time.monotonic() + 5
    while says.engine.has_work():
        assert time.monotonic() < until, "the server goes on"
        time.sleep(0.02)
    said = page.locator(".md").text_content()
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.reload()
    expect(page.locator(".md")).to_have_text(said.strip())


def test_regenerate_replaces_the_answer(says, opened, tokenizer):
    page = opened(says(final("first"), final("second")))
    ask(page, "Say")
    expect(page.locator(".md")).to_have_text("first")
    page.get_by_role("button", name="Regenerate answer").click()
    expect(page.locator(".md")).to_have_text("second")
    done(page)
    assert says.engine.submitted[0] == says.engine.submitted[1]


def test_an_edited_question_replaces_what_followed(says, opened, tokenizer):
    page = opened(says(final("A1"), final("A2"), final("B1")))
    for n, text in enumerate(("first question", "second question"), 1):
        ask(page, text)
        done(page, n)
    page.get_by_role("button", name="Edit message").first.click()
    area = page.get_by_role("textbox", name="Edit message")
    expect(area).to_be_focused()
    area.fill("another question")
    area.press("Enter")
    expect(page.locator(".md")).to_have_text(["B1"])
    expect(page.locator(".said")).to_have_text(["another question"])
    expect(page.locator("#title")).to_have_text("another question")
    assert "first question" not in prompt_of(says.engine, tokenizer) and "A1" not in prompt_of(
        says.engine, tokenizer
    )


def test_an_edit_can_be_left(says, opened):
    page = opened(says(final("A1")))
    ask(page, "question")
    done(page)
    page.get_by_role("button", name="Edit message").click()
    page.get_by_role("textbox", name="Edit message").fill("other")
    page.keyboard.press("Escape")
    expect(page.locator(".said")).to_have_text("question")
    assert len(says.engine.submitted) == 1


def test_an_answer_can_be_asked_anew_while_it_comes(says, opened):
    page = opened(says(final("word " * 2000), final("short"), delay=0.005))
    ask(page, "Talk")
    expect(page.locator(".md")).to_contain_text("word word")
    page.get_by_role("button", name="Edit message").click()
    page.get_by_role("textbox", name="Edit message").press("Enter")
    expect(page.locator(".md")).to_have_text("short")
    done(page)


def test_instructions_and_sampling_reach_the_model(says, opened, tokenizer):
    page = opened(says(final("one two three four five six")))
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System instructions").fill("Speak like a pirate.")
    page.get_by_label("Most tokens").fill("5")
    page.get_by_label("Temperature").fill("7")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    ask(page, "Hi")
    done(page)
    expect(page.get_by_text("The answer was cut off")).to_be_visible()
    assert "Speak like a pirate." in prompt_of(says.engine, tokenizer)
    page.reload()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Most tokens")).to_have_value("5")
    expect(page.get_by_label("Temperature")).to_have_value("")  # 7 is none


def test_the_key_is_sent_and_not_kept(says, opened):
    page = opened(says(final("ok")))
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("API key").fill("sk-test")
    page.get_by_role("button", name="Close the settings").click()
    with page.expect_request("**/v1/responses") as asked:
        ask(page, "Hi")
    assert asked.value.headers["authorization"] == "Bearer sk-test"
    done(page)
    assert "sk-test" not in page.evaluate("() => JSON.stringify(localStorage)")
    page.reload()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("API key")).to_have_value("sk-test")


ERRORS = [
    (401, {}, "The server wants an API key."),
    (429, {"Retry-After": "7"}, "Try again in 7 seconds."),
    (400, {}, "The server does not accept the request. The server says: no <b>good</b>"),
    (500, {}, "The server failed (500). The server says: no <b>good</b>"),
]


@pytest.mark.parametrize(("status", "headers", "words"), ERRORS)
def test_errors_are_words_and_can_be_tried_again(says, opened, status, headers, words):
    page = opened(says(final("now it works")))
    body = json.dumps({"error": {"message": "no <b>good</b>", "type": "x"}})
    page.route(
        "**/v1/responses",
        lambda route: route.fulfill(status=status, headers=headers, body=body),
        times=1,
    )
    ask(page, "Hi")
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(page.get_by_role("button", name="Enter a key")).to_have_count(1 if status == 401 else 0)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".md")).to_have_text("now it works")
    expect(page.get_by_role("alert")).to_have_count(0)


BROKEN = [
    (
        'data: {"type": "response.created", "response": {}}\n\n',
        "The connection ended before the answer was complete.",
    ),
    ('data: {"type": "error", "message": "the engine is gone"}\n\n', "It says: the engine is gone"),
    ("data: {not json\n\n", "The connection broke before the answer was complete."),
]


@pytest.mark.parametrize(("body", "words"), BROKEN)
def test_broken_streams_are_told(says, opened, body, words):
    page = opened(says(final("whole")))
    page.route(
        "**/v1/responses",
        lambda route: route.fulfill(content_type="text/event-stream", body=body),
        times=1,
    )
    ask(page, "Hi")
    expect(page.get_by_role("alert")).to_contain_text(words)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".md")).to_have_text(["whole"])


def test_a_server_that_is_gone(says, opened):
    page = opened(says(final("back")))
    page.route("**/v1/responses", lambda route: route.abort(), times=1)
    ask(page, "Hi")
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")


def test_a_server_with_keys_lets_the_page_in_and_asks_for_one(tokenizer, script, opened):
    settings = Settings(
        model_name="nano", keys=(ApiKey("me", hashlib.sha256(b"sk-right").hexdigest()),)
    )
    with serving(create_app(ScriptedEngine([script(final("let in"))]), tokenizer, settings)) as url:
        page = opened(url)
        ask(page, "Hi")
        expect(page.get_by_role("alert")).to_contain_text("The server wants an API key.")
        page.get_by_role("button", name="Enter a key").click()
        expect(page.get_by_label("API key")).to_be_focused()
        page.keyboard.type("sk-right")
        page.keyboard.press("Escape")
        expect(page.locator("#model")).to_have_text("nano")
        page.get_by_role("button", name="Try again").click()
        expect(page.locator(".md")).to_have_text("let in")


@pytest.mark.slow  # chromium, nano and their processor time
def test_nano_answers(llm, opened):
    engine, settings = Engine(llm.model), Settings(model_name="nano", sampling=llm.sampling)
    with serving(create_app(engine, llm.tokenizer, settings)) as url:
        page = opened(url)
        ask(page, "What is 37 + 48?")
        expect(page.get_by_role("button", name="Regenerate answer")).to_have_count(1, timeout=60000)
        expect(page.locator(".md").last).to_contain_text("85")
        expect(page.locator("details.thought").first).to_be_attached()
