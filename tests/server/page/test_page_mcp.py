"""MCP servers on the page, in headless Chromium: calls, and those that the user has to approve; a
real server of the official package.
"""

# ruff: noqa: F401, F811  (fixtures are imported by their names)

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

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
    serving,
    switch_on,
    thought,
)

from ossia.server.hosted.mcp import McpServers
from ossia.tools.mcp import McpConfig, McpServer

pytestmark = in_browser

CALL = "<|channel|>commentary to=team.{} <|constrain|>json<|message|>{}<|call|>"
TEAM = (sys.executable, str(Path(__file__).with_name("team.py")))


def call(tool: str, **arguments: str) -> str:
    return CALL.format(tool, json.dumps(arguments))


@pytest.fixture(scope="module")
def server(tokenizer, script) -> Iterator[Speaking]:
    team = McpServer.connect(McpConfig("team", TEAM))
    try:
        made = Speaking(tokenizer, script, mcp=McpServers([team]))
        with serving(made.app) as made.url:
            yield made
    finally:
        team.close()


@pytest.fixture
def page(server, opened):
    page = opened(server.url)
    switch_on(page)
    return page


def question(page):
    return page.get_by_role("group", name="May the model use send of team?")


def pressed(page, name: str) -> None:
    question(page).get_by_role("button", name=name).click()


@pytest.mark.parametrize(
    ("written", "brief", "whole"),
    [
        ('{"n":9007199254740993,"e":1e400}', "9007199254740993, 1e400",
         '{\n  "n": 9007199254740993,\n  "e": 1e400\n}'),
        ('{"a":1,"a":[2,{}],"b":[]}', "[2,{}], []",
         '{\n  "a": 1,\n  "a": [\n    2,\n    {}\n  ],\n  "b": []\n}'),
        ('{"\\u0061":"\\u0072m -1.50, {x:1}"}', "rm -1.50, {x:1}",
         '{\n  "a": "rm -1.50, {x:1}"\n}'),
        ("[0.10, -0, true ,null]", "0.10, -0, true, null",
         "[\n  0.10,\n  -0,\n  true,\n  null\n]"),
        ("{no json", "{no json", "{no json"),
        ("", "", "{}"),
    ],
)  # fmt: skip
def test_arguments_are_shown_as_they_are_written(page, written, brief, whole):
    """In their own digits, and keys that come twice twice."""
    assert page.evaluate("written => argumentsOf(written)", written) == [brief, whole]


def test_calls_that_only_read(server, page):
    server.says(thought("Hm.") + call("greet", name="Ada"), final("Greeted."))
    ask(page, "Greet Ada")
    done(page)
    expect(lines(page)).to_have_text(["team2 tools", "team: greetAda= Hello, <b>Ada</b>!"])
    page.locator("details.call").last.locator("summary").click()
    expect(page.locator("details.call pre")).to_have_text(
        ['{\n  "name": "Ada"\n}', "Hello, <b>Ada</b>!"]
    )
    server.says(final("Again."))
    ask(page, "And?")
    done(page, 2)
    expect(lines(page)).to_have_count(2)  # the list is known


def test_a_call_waits_for_its_approval_also_over_a_reload(server, page):
    server.says(call("send", text="<i>hi</i>"))
    ask(page, "Send it")
    expect(question(page)).to_be_visible()
    expect(page.locator("#status")).to_have_text("The model asks for your approval.")
    expect(question(page).locator("pre")).to_have_text('{\n  "text": "<i>hi</i>"\n}')
    page.reload()
    server.says(final("Sent."))
    pressed(page, "Approve")
    expect(page.locator(".md")).to_have_text("Sent.")
    expect(lines(page).nth(1)).to_have_text("May it use team: send?<i>hi</i>approved")
    expect(lines(page).nth(2)).to_have_text("team: send<i>hi</i>= sent <i>hi</i>")
    assert "<|message|>sent <i>hi</i>" in server.prompt
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    done(page)
    page.reload()
    expect(lines(page)).to_have_count(3)


def test_a_call_that_is_refused(server, page):
    server.says(call("send", text="hi"))
    ask(page, "Send it")
    reason = question(page).get_by_label("Why not (optional)")
    reason.fill("Not today.")
    server.says(final("Then not."))
    reason.press("Enter")
    expect(page.locator(".md")).to_have_text("Then not.")
    expect(lines(page).last).to_have_text("May it use team: send?hirefused: Not today.")
    assert "The user did not approve this call. Not today." in server.prompt


def test_always_is_for_this_conversation(server, page):
    server.says(call("send", text="one"))
    ask(page, "Send it")
    expect(question(page)).to_be_visible()
    server.says(call("send", text=""), final("Sent one."))
    pressed(page, "Always in this conversation")
    expect(page.locator(".md")).to_have_text("Sent one.")
    expect(lines(page)).to_have_count(5)  # the list, and two calls with their questions
    failed = page.locator("details.call.failed")
    expect(failed.locator("summary")).to_contain_text("Error executing tool send")
    page.keyboard.press("Control+k")
    server.says(call("send", text="two"))
    ask(page, "Another")
    expect(question(page)).to_be_visible()
    server.says(final("Never mind."))
    ask(page, "Forget it")
    expect(page.locator(".md")).to_have_text("Never mind.")
    expect(question(page)).to_have_count(0)
    expect(lines(page).last).to_have_text("May it use team: send?twonot answered")
