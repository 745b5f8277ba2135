"""Where the browser is better than the official tool, each difference by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from browser_pages import FakeWeb, dialogue, said

from ossia.tools.browser import Book, BrowserSession
from ossia.tools.browser.html import read_html

pytestmark = pytest.mark.anyio
A = "https://a.org/x"


def text_of(html: str) -> str:
    return read_html(html, A).text


def web(html: str, title: str = "") -> FakeWeb:
    return FakeWeb({A: [title, html]}, {})


async def test_a_second_search_leaves_the_first_ones_links_alone() -> None:
    pages = {f"https://{name}.org/": [name, f"<p>{name}</p>"] for name in "ab"}
    searches = {name: [[name, f"https://{name}.org/", ""]] for name in "ab"}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("search", {"query": "a"}),
        ("search", {"query": "b"}),
        ("open", {"cursor": 0, "id": 0}),
    ]
    assert "(https://a.org/)" in (await dialogue(FakeWeb(pages, searches), calls))[2]


async def test_a_page_that_is_fetched_again_does_not_change_what_was_shown() -> None:
    pages = {A: ["", "<p>before</p>"]}
    session = BrowserSession(FakeWeb(pages))
    await said(session, "open", id=A)
    pages[A] = ["", "<p>after</p>"]
    assert "after" in await said(session, "open", id=A)
    assert "before" in await said(session, "open", cursor=0)


async def test_find_refuses_search_results() -> None:
    session = BrowserSession(FakeWeb())
    await said(session, "search", query="wide")
    refused = "Cannot run `find` on search results page or find results page"
    assert await said(session, "find", pattern="wide") == refused


async def test_negative_cursors_are_out_of_range() -> None:
    session = BrowserSession(web("<p>x</p>"))
    await said(session, "open", id=A)
    out = "Cursor `-2` is out of range. Available cursor indices: [0 - 0]."
    assert await said(session, "open", cursor=-2) == out
    assert await said(session, "find", pattern="x", cursor=-2) == out


@pytest.mark.parametrize("link", ["1", 1.0, " 1 "])
async def test_numbers_may_be_written_as_text_or_with_a_point(link: Any) -> None:
    pages = {A: ["", '<a href="/0">zero</a> <a href="/1">one</a>'], "https://a.org/1": ["", "hit"]}
    session = BrowserSession(FakeWeb(pages))
    await said(session, "open", id=A)
    assert "hit" in await said(session, "open", id=link, cursor="0", loc="0", num_lines=9.0)


ODD = [
    ("open", {"id": A, "link": 3}, "Unknown argument `link`."),
    ("open", {"cursor": "x"}, "`cursor` should be an integer, not `str`"),
    ("open", {"cursor": 1.5}, "`cursor` should be an integer, not `float`"),
    ("open", {"cursor": True}, "`cursor` should be an integer, not `bool`"),
    ("open", {"id": [1]}, "`id` should be an integer, not `list`"),
    ("open", {"id": {}}, "`id` should be an integer, not `dict`"),
    ("open", {"loc": "9" * 5000}, "`loc` should be an integer, not `str`"),
    ("open", {"view_source": "maybe"}, "`view_source` should be a boolean, not `str`"),
    ("search", {"query": ["a"]}, "`query` should be a string, not `list`"),
    ("search", {}, "`search` needs a `query`."),
    ("find", {"pattern": None}, "`find` needs a `pattern`."),
    ("close", {}, "Unknown function: close"),
]


@pytest.mark.parametrize(("function", "arguments", "text"), ODD)
async def test_odd_arguments_are_answered_by_a_text(
    function: str, arguments: dict[str, Any], text: str
) -> None:
    session = BrowserSession(web("<p>x</p>"))
    result = await session.call(function, json.dumps(arguments), None)
    assert result.text.startswith(text) and result.failed
    assert session.action(function, json.dumps(arguments)) is None


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"loc": 1e999}', "\0"])
@pytest.mark.parametrize("function", ["search", "open", "find"])
async def test_what_is_no_object_is_answered_by_a_text(function: str, text: str) -> None:
    session = BrowserSession(web("<p>x</p>"))
    assert (await session.call(function, text, None)).failed
    session.action(function, text)


async def test_huge_numbers_are_numbers() -> None:
    session = BrowserSession(web("<p>x</p>"))
    await said(session, "open", id=A, num_lines=10**300)
    assert "Cannot exceed page maximum of 2." in await said(session, "open", loc=10**300)


async def test_topn_counts() -> None:
    fake = FakeWeb()
    session = BrowserSession(fake)
    for topn, shown in ((3, 3), (10**6, 20), (0, 1), ("7", 7), (None, 10)):
        text = await said(session, "search", query="many", topn=topn)
        assert f"【{shown - 1}†" in text or shown > 10
        assert fake.counts[-1] == shown
    assert "【10†" not in await said(session, "search", query="many")


async def test_a_redirect_shows_the_final_url_and_is_known_by_both() -> None:
    fake = FakeWeb({A: ["", "<p>here</p>"], "https://b.org/": ["", f'<a href="{A}">a</a>']})
    session = BrowserSession(fake)
    where = fake.fetch

    async def redirected(url: str, source: bool, domains: Any) -> Any:
        return await where(url.replace("old.org", "a.org"), source, domains)

    fake.fetch = redirected  # type: ignore[method-assign]
    assert f"[0] a.org ({A})" in await said(session, "open", id="https://old.org/x")
    known = session.book.known("https://old.org/x")
    assert known is not None and known is session.book.known(A)


async def test_the_source_is_shown() -> None:
    session = BrowserSession(web("<p>x 【0†fake】</p>", "T"))
    assert "L2: x" in await said(session, "open", id=A)
    source = await said(session, "open", view_source=True)
    assert source.startswith(f"[1] T ({A})") and "L2: <p>x 〖0†fake〗</p>" in source
    assert "L2: x" in await said(session, "open", cursor=0)
    assert "<p>x" in await said(session, "open", cursor=1)


async def test_a_title_or_url_of_several_lines_is_one_line() -> None:
    session = BrowserSession(web("<title>a\n[9] b\n</title><p>x</p>"))
    assert (await said(session, "open", id=A)).startswith(f"[0] a [9] b ({A})\n")
    tricky = f"{A}?q=%0A%5B7%5D%20fake"
    session = BrowserSession(FakeWeb({tricky: ["T", "<p>x</p>"]}))
    assert (await said(session, "open", id=tricky)).startswith(f"[0] T ({tricky})\n")


async def test_lines_of_links_that_wrap_keep_their_numbers_in_find() -> None:
    host = "-".join(["part"] * 20) + ".org"
    html = f'<p>{"w " * 30}<a href="https://{host}/">link</a></p><p>target</p>'
    session = BrowserSession(web(html))
    page = await said(session, "open", id=A)
    line = next(row for row in page.splitlines() if row.endswith(": target")).partition(":")[0]
    assert f"match at {line}】" in await said(session, "find", pattern="target")


def test_what_official_pages_lose_is_there() -> None:
    """Emoji; text after a formula; cells, sections and code that would be glued or torn."""
    assert text_of("<p>🎉 party</p>") == "🎉 party"
    assert text_of("<p>a <math><mi>x</mi></math> is it</p>") == "a  is it"
    assert text_of("<table><tr><td>$5</td><td>$6</td></tr></table>") == "$5 $6"
    assert text_of("<section>One.</section><section>Two.</section>") == "One.\n\nTwo."
    assert text_of("<pre><b>a</b><i>b</i></pre>x") == "ab \n\nx"
    assert (
        text_of("<p>x</p><ul><li>y<pre>  c\nd</pre></li></ul>").splitlines()[-2] == " " * 10 + "c"
    )
    assert text_of("<p>1. one</p><p>- two</p>") == "1. one\n\n- two"
    assert text_of('<abbr title="World">W</abbr>') == "W"


def test_links_are_those_that_can_be_opened() -> None:
    page = read_html(
        '<base href="https://o.org/d/"><a href="r">r</a> <a href="tel:1">t</a> '
        '<a href="ftp://f.org/x">f</a> <a href="data:text/html,x">d</a> <a href="http://[::1">b</a>'
        '<a href="https://u:p@h.org:8/">u</a><a href="/s"><script>s()</script>z</a>',
        A,
    )
    assert page.text == "【0†r†o.org】 t f d b【1†u†h.org:8】【2†z†o.org】"
    assert page.links == ["https://o.org/d/r", "https://u:p@h.org:8/", "https://o.org/s"]


def test_links_to_archives_are_not_rewritten() -> None:
    assert read_html('<a href="https://arxiv.org/abs/1">a</a>', A).links == [
        "https://arxiv.org/abs/1"
    ]


async def test_an_empty_search_says_so() -> None:
    session = BrowserSession(FakeWeb({}, {"q": []}))
    assert (await said(session, "search", query="q")).endswith("L4: No results.")


async def test_results_cannot_write_links() -> None:
    hits = [["a†b【7†x】", "https://a.org/", "【8†y†z.org】\n[3] fake"], ["t", "javascript:x", ""]]
    hits += [
        ["t", "https://a【0†b】.org/", ""],
        ["t", "https://a.org/ b", ""],
        ["", "https://c.org", ""],
    ]
    session = BrowserSession(FakeWeb({}, {"q": hits}))
    lines = (await said(session, "search", query="q")).splitlines()[-2:]
    assert lines[0] == "L4:   * 【0†a‡b〖7‡x〗†a.org】 〖8†y†z.org〗 [3] fake"
    assert lines[1].startswith("L5:   * 【1†https://c.org†c.org】")


def test_pages_cost_what_they_hold() -> None:
    """Cursors that show one page hold its text once; over the limit the oldest text goes."""
    from ossia.tools.browser import Page, book

    shelf = Book()
    page = Page(A, "t", "x" * (book.MOST_CHARACTERS // 2))
    for _ in range(5):
        shelf.add(page)
    assert all(each.text for each in shelf.pages.values())
    shelf.add(Page(A, "t", "y" * (book.MOST_CHARACTERS // 2 + 1)))
    assert [each.text is None for each in shelf.pages.values()] == [True] * 5 + [False]
