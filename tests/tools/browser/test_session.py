"""The tool: sessions, books, limits of what may be opened, actions and outputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from browser_dialogues import SITE
from browser_pages import FakeWeb, said

from ossia.errors import ToolError
from ossia.tools import SessionKey, Sessions, Toolbox
from ossia.tools.browser import Book, Browser, BrowserSession, Page
from ossia.tools.browser.backend import Domains
from ossia.tools.browser.session import full_url

pytestmark = pytest.mark.anyio
KEY = SessionKey("alice", "conv")


def action(session: BrowserSession, function: str, **arguments: Any) -> Any:
    return session.action(function, json.dumps(arguments))


async def test_actions_and_outputs() -> None:
    session = Browser(backend=FakeWeb()).session(KEY)
    query = "harbour history"
    shown = action(session, "search", query=query)
    assert shown == {"type": "search", "query": query, "queries": [query]}
    result = await session.call("search", json.dumps({"query": query}), None)
    assert (
        result.outputs[0]["url"] == f"{SITE}/harbour"
        and result.outputs[0]["title"] == "The old harbour"
        and len(result.outputs) == 3
    )
    url = f"{SITE}/book"
    assert action(session, "open", id=1) == {"type": "open_page", "url": url}
    result = await session.call("open", '{"id": 1}', None)
    page = {"type": "page", "cursor": 1, "url": url, "title": "A long book"}
    assert result.outputs == (page,)
    found = {"type": "find_in_page", "url": url, "pattern": "river"}
    assert action(session, "find", pattern="River") == found
    result = await session.call("find", '{"pattern": "River"}', None)
    assert result.outputs == (page | {"cursor": 2},), "a citation of a match leads to its page"
    assert action(session, "open", id=3) == {"type": "open_page", "url": url}
    assert action(session, "open", cursor=0)["url"] is None
    assert session.citable(2) == {"url": url, "title": "A long book"}
    assert session.citable(0) is None and session.citable(99) is None
    assert action(session, "open", id="example.org/a") == {
        "type": "open_page",
        "url": "https://example.org/a",
    }


async def test_two_callers_share_nothing_and_one_conversation_goes_on() -> None:
    browser = Browser(backend=FakeWeb())
    first = browser.session(KEY)
    await said(first, "open", id=f"{SITE}/plain")
    other = browser.session(SessionKey("bob", "conv"))
    assert await said(other, "open") == "No pages to access!"
    assert (await said(browser.session(KEY), "open")).startswith("[1] ")
    assert await said(browser.session(SessionKey()), "open") == "No pages to access!"
    await said(browser.session(SessionKey()), "open", id=f"{SITE}/plain")
    assert await said(browser.session(SessionKey()), "open") == "No pages to access!"


async def test_a_book_goes_on_elsewhere() -> None:
    fake = FakeWeb()
    session = BrowserSession(fake)
    for path in ("harbour", "book"):
        await said(session, "open", id=f"{SITE}/{path}")
    await said(session, "find", pattern="river")
    await said(session, "search", query="wide")
    saved = json.loads(json.dumps(session.book.saved()))
    browser = Browser(backend=fake)
    browser.seed(KEY, Book.restored(saved))
    again = browser.session(KEY)
    count = len(fake.asked)
    for arguments in (
        {"cursor": 0},
        {"cursor": 2, "id": 1},
        {"cursor": 1, "loc": 9},
        {"cursor": 3},
    ):
        assert await said(again, "open", **arguments) == await said(session, "open", **arguments)
    assert len(fake.asked) == count, "all texts were in the book"
    browser.seed(KEY, Book())
    assert (await said(browser.session(KEY), "open")).startswith("[8] "), "seeded once"


async def test_pages_without_text_are_fetched_again() -> None:
    fake = FakeWeb()
    session = BrowserSession(fake)
    await said(session, "open", id=f"{SITE}/harbour")
    await said(session, "open", id=f"{SITE}/book")
    await said(session, "find", pattern="river")
    saved = session.book.saved(characters=0)
    texts = [page.get("text") is None for page in saved["pages"].values()]
    assert texts == [True, True, False], "results of find are small and kept"
    again = BrowserSession(fake, Book.restored(saved))
    assert again.citable(0) == session.citable(0)
    for arguments in ({"cursor": 0, "id": 0}, {"cursor": 2, "id": 1}, {"cursor": 0}):
        assert await said(again, "open", **arguments) == await said(session, "open", **arguments)


@pytest.mark.parametrize(
    "saved",
    [{}, {"pages": 3}, {"pages": {"x": {}}}, {"pages": {"1": {}}}, {"pages": {"0": {"z": 1}}}],
)
def test_a_book_that_was_not_saved_is_refused(saved: Any) -> None:
    with pytest.raises(ToolError, match="the browser's pages cannot be read"):
        Book.restored(saved)


async def test_allowed_domains_bind_search_and_open() -> None:
    browser = Browser(backend=FakeWeb(), allowed_domains=["example.org"])
    session = browser.session(KEY)
    text = await said(session, "search", query="harbour history")
    assert "history.example.org" in text and "council" not in text
    await said(session, "open", id=f"{SITE}/harbour")
    for wanted in ({"id": 1}, {"id": "https://council.example.net/about?x=1"}):
        assert "only pages of example.org may be opened" in await said(session, "open", **wanted)
    assert "may be opened" in await said(session, "open", id="https://notexample.org/")
    none = browser.limited(allowed_domains=["example.net"]).session(KEY)
    assert "only pages of no site" in await said(none, "open", id=f"{SITE}/plain")


async def test_blocked_domains_bind_search_and_open() -> None:
    browser = Browser(backend=FakeWeb()).limited(blocked_domains=["*.Example.NET"])
    session = browser.session(KEY)
    text = await said(session, "search", query="harbour history")
    assert "history.example.org" in text and "council" not in text
    await said(session, "open", id=f"{SITE}/harbour")
    for wanted in ({"id": 1}, {"id": "https://council.example.net/about?x=1"}):
        told = await said(session, "open", **wanted)
        assert "pages of council.example.net may not be opened" in told


@pytest.mark.parametrize(
    ("domain", "hosts"),
    [
        ("bücher.example", ("xn--bcher-kva.example", "BÜCHER.example:443", "a.bücher。example")),
        ("xn--bcher-kva.example", ("bücher.example", "xn--bcher-kva.example.")),
        ("straße.example", ("xn--strae-oqa.example", "straße.example")),
        ("https://Example.com/", ("example.com", "a.\uff45xample.com", "example.com.:80")),
        ("http://example.com:8080", ("example.com",)),
        ("1.2.3.4", ("16909060", "0x1020304", "1.2.772", "01.02.03.04", "[::ffff:1.2.3.4]:80")),
        ("[2606:4700::1]", ("2606:4700:0:0::1", "[2606:4700::1]:443")),
    ],
)
def test_a_domain_is_the_same_however_it_is_written(domain: str, hosts: Sequence[str]) -> None:
    for host in hosts:
        assert Domains.of([domain]).allows(host), host
        assert not Domains.of(None, [domain]).allows(host), host
    assert Domains.of(None, [domain]).allows("other.example")
    assert not Domains.of([domain]).allows("other.example")


@pytest.mark.parametrize(
    "domain", ["", " ", "*", "*.", "https://", "a.example/b", "a b", "ftp://a.example", "a@b.c"]
)
def test_what_is_no_domain_is_refused(domain: str) -> None:
    for lists in (([domain], ()), (None, [domain])):
        with pytest.raises(ToolError, match="is not a domain"):
            Domains.of(*lists)


async def test_pages_of_an_earlier_request_are_bound_too() -> None:
    browser = Browser(backend=FakeWeb())
    session = browser.session(KEY)
    await said(session, "open", id=f"{SITE}/harbour")
    assert "council" in await said(session, "open", id=1)
    later = browser.limited(blocked_domains=["example.net"]).session(KEY)
    assert "may not be opened" in await said(later, "open", id=1, cursor=0)


def narrowed(one: Sequence[str] | None, other: Sequence[str] | None) -> Sequence[str] | None:
    return Domains.of(one).narrowed(Domains.of(other)).allowed


def test_domains_narrow() -> None:
    assert Domains.of([" *.Example.ORG. ", "b.c"]).allowed == ("example.org", "b.c")
    assert narrowed(None, None) is None
    assert narrowed(None, ("a",)) == ("a",) and narrowed(("a",), None) == ("a",)
    assert narrowed(("a.org", "x.b.org"), ("b.org", "y.a.org", "c.org")) == ("y.a.org", "x.b.org")
    assert narrowed(("a.org",), ("b.org",)) == ()
    both = Domains.of(["a.org"], ["x.a.org"]).narrowed(Domains.of(None, ["y.a.org"]))
    names = ("a.org", "x.a.org", "z.y.a.org", "z.a.org:80", "b.org")
    assert [name for name in names if both.allows(name)] == ["a.org", "z.a.org:80"]


async def test_without_the_web_only_known_pages_are_opened() -> None:
    browser = Browser(backend=FakeWeb())
    await said(browser.session(KEY), "open", id=f"{SITE}/harbour")
    session = browser.limited(external_web_access=False).session(KEY)
    assert "harbour" in await said(session, "open", cursor=0, loc=3)
    for function, arguments in (
        ("search", {"query": "wide"}),
        ("open", {"id": 0}),
        ("open", {"id": f"{SITE}/plain"}),
    ):
        assert "may not use the web" in await said(session, function, **arguments)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("example.org", "https://example.org"),
        ("example.org:443/x", "https://example.org:443/x"),
        ("http://a.org/?u=http://b.org", "http://a.org/?u=http://b.org"),
        ("view-source:https://a.org", "https://a.org"),
    ],
)
def test_models_leave_out_the_scheme(given: str, url: str) -> None:
    assert full_url(given) == url


@pytest.mark.parametrize("given", ["", "javascript:x", "file:///x", "ftp://a.org", "data:x", "//"])
def test_what_is_no_page_is_refused(given: str) -> None:
    with pytest.raises(ToolError, match="not the URL of a web page"):
        full_url(given)


async def test_it_is_a_tool() -> None:
    browser = Browser(backend=FakeWeb())
    box = Toolbox(builtin=(browser,))
    assert set(box.by_recipient) == {"browser.search", "browser.open", "browser.find"}
    assert "sources=web" in str(browser.namespace.description)
    sessions = Sessions(KEY)
    result = await sessions.call(browser, "open", json.dumps({"id": f"{SITE}/plain"}))
    assert result.text.endswith("L2: short")
    await sessions.close()
    await browser.close()
    with pytest.raises(ToolError, match="one of corpus, searx, backend and sources"):
        Browser(searx="http://x", backend=FakeWeb())


def test_a_find_page_is_written_down_whole() -> None:
    book = Book()
    book.add(Page("https://a.org/", "t", "x" * 10))
    book.add(Page("u", "find", "text", kind="find", found=(1, 2), of=0))
    assert Book.restored(json.loads(json.dumps(book.saved()))).pages == book.pages
