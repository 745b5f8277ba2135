"""A browser, and servers for it: what the tests of the page share."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import uvicorn

from ossia.server import ScriptedEngine, Settings, create_app

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
in_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
]
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-back-forward-cache",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

FINAL = "<|channel|>final<|message|>{}<|return|>"
THOUGHT = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
CALL = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}<|call|>"


USUAL = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}


def final(text: str) -> str:
    return FINAL.format(text)


def thought(text: str) -> str:
    return THOUGHT.format(text)


def call(name: str, **arguments: object) -> str:
    return CALL.format(name, json.dumps(arguments))


# Servers and pages


@contextmanager
def serving(app) -> Iterator[str]:
    """The address of a server that runs in a thread."""
    config = uvicorn.Config(
        app, port=0, log_level="warning", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + 10
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until, "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)


class Speaking:
    """An application with tools of its own. `says(...)`: what its model says from now on, one text
    a sample; calls are shown as they come. `url`: where it is, once it is served.
    """

    def __init__(self, tokenizer, script, settings: Settings | None = None, **tools) -> None:
        self.tokenizer = tokenizer
        self.script = script
        self.scripts: list[list[int]] = []
        self.engine = ScriptedEngine(lambda prompt: self.scripts.pop(0))
        self.engine.enforces_constraints = True
        settings = settings or Settings(model_name="nano")
        self.app = create_app(self.engine, tokenizer, settings, **tools)
        self.url = ""

    def says(self, *texts: str) -> None:
        self.scripts = [self.script(text) for text in texts]

    @property
    def prompt(self) -> str:
        """What the model was asked last."""
        return self.tokenizer.decode(self.engine.submitted[-1])


def switch_on(page, key: str = "") -> None:
    """All tools that the server offers to the key."""
    page.evaluate(
        """async key => { forTab("key", key); await findModel();
            for (const { name } of offeredTools()) choose(name, true); }""",
        key,
    )


def lines(page):
    """What the cards of calls say in a line."""
    return page.locator("details.call summary")


@pytest.fixture
def says(tokenizer, script) -> Iterator:
    """`url = says(text, ...)`: a server whose model says these. `says.engine` is its engine."""
    with ExitStack() as stack:

        def start(*texts: str, delay: float = 0.0, settings: Settings | None = None) -> str:
            start.engine = ScriptedEngine([script(text) for text in texts], delay=delay)
            app = create_app(start.engine, tokenizer, settings or Settings(model_name="nano"))
            return stack.enter_context(serving(app))

        yield start


class Tab:
    """A page in a profile of its own; `wrong` is whatever goes wrong in it, what the browser's
    policy forbids included.
    """

    def __init__(self, browser, **options: object) -> None:
        self.context = browser.new_context(**USUAL | options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(8000)
        self.url = ""
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._said)
        self.page.on("request", self._sent)

    def _said(self, said) -> None:
        # Chromium writes a line for every answer that is not a 200, too
        if said.type == "error" and not said.text.startswith("Failed to load resource"):
            self.wrong.append(said.text)

    def _sent(self, request) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.wrong.append(request.url)

    def open(self, url: str):
        self.url = url
        self.page.goto(url)
        return self.page

    def forget(self) -> None:
        """Become as a new tab in a new profile: a server may have its address for many tests.

        What it shows then is of the same site, for any other would be given another process; and
        not from the server, which may have ended.
        """
        self.page.unroute_all()
        self.page.route("**/*", lambda route: route.fulfill(body=""))
        self.page.goto(self.url)
        self.page.unroute_all()
        self.page.evaluate("sessionStorage.clear()")
        everything = {"origin": self.url.rstrip("/"), "storageTypes": "all"}
        session = self.context.new_cdp_session(self.page)
        session.send("Storage.clearDataForOrigin", everything)
        session.detach()
        self.page.emulate_media(color_scheme=USUAL["color_scheme"])
        self.page.mouse.move(0, 0)


@pytest.fixture
def opened(browser, tabs) -> Iterator:
    """`page = opened(url, ...)`: a page in a profile of its own. Whatever goes wrong in it fails
    the test.

    A new page costs Chromium a process, five times what a test costs: the first page of a test is
    that of the test before, unless options are given or that test failed.
    """
    again, own, wrong = [], [], []

    def start(url: str, **options: object):
        is_first = not own and not again
        tab = tabs.pop() if is_first and not options and tabs else Tab(browser, **options)
        (own if options else again).append(tab)
        tab.wrong = wrong
        return tab.open(url)

    start.wrong = wrong
    yield start
    for tab in own:
        tab.context.close()
    for tab in again:
        tab.forget()
    assert wrong == []
    tabs.extend(again)


def ask(page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def answers(page):
    return page.get_by_role("article", name="Answer")


def done(page, count: int = 1) -> None:
    """The last of `count` answers is there."""
    again = page.get_by_role("button", name="Regenerate answer")
    again.nth(count - 1).wait_for()
    expect(again).to_have_count(count)


def sent(engine: ScriptedEngine, tokenizer, n: int = -1) -> str:
    """A prompt, as text."""
    return tokenizer.decode(engine.submitted[n])


def prompt_of(engine: ScriptedEngine, tokenizer, n: int = -1) -> str:
    return tokenizer.decode(engine.submitted[n])


def clipboard(page) -> str:
    return page.evaluate("() => navigator.clipboard.readText()")
