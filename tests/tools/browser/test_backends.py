"""A corpus, and search services as they answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser_pages import said

from ossia.errors import ToolError
from ossia.tools import SessionKey
from ossia.tools.browser import Browser, Corpus, Exa, PlainWeb, Searx, YouCom
from ossia.tools.browser import corpus as corpus_module
from ossia.tools.browser.backend import Domains
from ossia.tools.browser.corpus import snippet, words_of

httpx2 = pytest.importorskip("httpx2", reason="needs httpx2")
pytest.importorskip("bm25s", reason="needs bm25s")
pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "guide").mkdir()
    (tmp_path / "guide" / "in stall.md").write_text("Text\n\n# Installing #\n\nRun make install.\n")
    (tmp_path / "bees.html").write_text(
        "<title>On bees</title><p>Bees make <a href='guide/in%20stall.md'>honey</a>.</p>"
    )
    (tmp_path / "plain.txt").write_text("The queen of all bees lives here. " * 30 + "Rare word.")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    return tmp_path


async def test_a_folder(folder: Path) -> None:
    session = Browser(corpus=folder, external_web_access=False).session(SessionKey())
    text = await said(session, "search", query="making honey bees")
    assert "【0†On bees†corpus】 Bees make honey." in text and "【1†plain†corpus】" in text
    assert "[1] On bees (https://corpus/bees.html)" in await said(session, "open", id=0)
    text = await said(session, "open", id=0)
    assert text.startswith("[2] Installing (https://corpus/guide/in stall.md)")
    assert "Run make install." in text
    assert "L2: <title>On bees" in await said(session, "open", cursor=1, view_source=True)
    assert "not in the corpus" in await said(session, "open", id="https://corpus/photo.png")
    assert (await said(session, "search", query="zzz")).endswith("No results.")
    assert (await said(session, "search", query="")).endswith("No results.")
    assert "Rare word." in await said(session, "search", query="rare")


async def test_answers_are_the_same_every_time(folder: Path) -> None:
    twice = [
        await Corpus.open(folder).search("bees make the queen", 10, Domains()) for _ in range(2)
    ]
    assert twice[0] == twice[1] and len(twice[0]) == 3
    assert await Corpus.open(folder).search("bees", 10, Domains(("other.org",))) == []
    based = Corpus.open(folder, base="https://docs.org/")
    assert (await based.search("honey", 1, Domains(("docs.org",))))[
        0
    ].url == "https://docs.org/bees.html"


async def test_an_index_is_kept_until_a_document_changes(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path_factory.mktemp("index")
    first = await Corpus.open(folder, index=kept).search("bees queen", 10, Domains())
    read: list[str] = []
    words_in = corpus_module._words_in

    def noted(entry: Any) -> list[str]:
        read.append(entry.title)
        return words_in(entry)

    monkeypatch.setattr(corpus_module, "_words_in", noted)
    assert await Corpus.open(folder, index=kept).search("bees queen", 10, Domains()) == first
    assert not read
    (folder / "plain.txt").write_text("Wasps.")
    assert len(await Corpus.open(folder, index=kept).search("wasp", 10, Domains())) == 1
    assert len(read) == 3


async def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "pages.jsonl"
    rows = [
        {"url": f"https://s{n}.org/é", "title": f"T{n}", "text": f"word{n} é\n二"} for n in range(3)
    ]
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    corpus = Corpus.open(path)
    assert [hit.url for hit in await corpus.search("word2 二", 2, Domains())] == [
        "https://s2.org/é",
        "https://s0.org/é",
    ]
    page = await corpus.fetch("https://s1.org/é#part", False, Domains())
    assert page.title == "T1" and str(page.text).endswith("word1 é\n二")


@pytest.mark.parametrize(
    "line",
    ["x", "[]", '{"url": "https://a.org"}', '{"text": 3}', '{"text": "", "url": "file:///"}'],
)
def test_lines_that_are_none_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "pages.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ToolError, match=r"pages\.jsonl, line 2: "):
        Corpus.open(path)


def test_a_corpus_without_documents(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="does not exist"):
        Corpus.open(tmp_path / "none")
    with pytest.raises(ToolError, match=r"has no \.txt"):
        Corpus.open(tmp_path)


def test_words_and_snippets() -> None:
    assert words_of("Houses' 漢字 BUS glass, x_1") == ["house", "漢", "字", "bus", "glass", "x_1"]
    text = "Nothing here. " * 100 + "The treaty of 1848 was signed. " + "More follows. " * 100
    assert snippet(text, words_of("treaty 1848")).startswith("Nothing") is False
    assert "treaty of 1848" in snippet(text, words_of("treaty 1848"))
    assert snippet("", ["x"]) == "" and snippet("abc", []) == "abc"
    assert snippet("Rome is an old capital.", words_of("capital")) == "Rome is an old capital."
    assert snippet("word " * 400 + "capital", words_of("capital")) == "capital"


Handler = Callable[[Any], Any]


def answering(handler: Handler) -> Any:
    return httpx2.MockTransport(handler)


async def test_searxng() -> None:
    def handler(request: Any) -> Any:
        assert request.url.path == "/sub/search"
        assert dict(request.url.params) == {"q": "a b", "format": "json"}
        rows = [
            {"title": "T &amp; <b>x</b>", "url": "https://a.org/", "content": "the <em>word</em>"},
            {"title": "no url"},
            "odd",
        ]
        return httpx2.Response(200, json={"results": rows})

    searx = Searx("http://localhost:8080/sub/", transport=answering(handler))
    (hit,) = await searx.search("a b", 10, Domains())
    assert (hit.title, hit.snippet) == ("T & x", "the word")
    await searx.close()


ANSWERS = [
    (lambda r: httpx2.Response(403), r"formats: \[html, json\]"),
    (lambda r: httpx2.Response(429), "limiter: false"),
    (lambda r: httpx2.Response(500), "answered 500"),
    (lambda r: httpx2.Response(302, headers={"location": "http://x/"}), "answered 302"),
    (lambda r: httpx2.Response(200, content=b"<html>"), "did not answer with JSON"),
    (lambda r: httpx2.Response(200, content=b"[" * 100_000), "did not answer with JSON"),
    (lambda r: httpx2.Response(200, content=b" " * 10_000_001), "sent too much"),
]


@pytest.mark.parametrize(("answer", "why"), ANSWERS)
async def test_searxng_says_what_is_wrong_with_it(answer: Handler, why: str) -> None:
    with pytest.raises(ToolError, match=why):
        await Searx("http://s", transport=answering(answer)).search("q", 10, Domains())


async def test_a_service_that_is_not_there() -> None:
    def handler(request: Any) -> Any:
        raise httpx2.ConnectError("no")

    with pytest.raises(ToolError, match=r"cannot be reached \(ConnectError\)"):
        await Searx("http://s", transport=answering(handler)).search("q", 10, Domains())


@pytest.mark.parametrize("odd", [[], {"results": {}}, {"results": [1, None]}, 3, "x"])
async def test_odd_answers_are_no_results(odd: Any) -> None:
    searx = Searx("http://s", transport=answering(lambda r: httpx2.Response(200, json=odd)))
    assert await searx.search("q", 10, Domains()) == []


async def test_exa_and_you_com(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def handler(request: Any) -> Any:
        asked.append((request.url.path, request.headers["x-api-key"]))
        row = {"title": "T", "url": "https://a.org/", "summary": "s", "snippets": ["s", "t"]}
        answers = {
            "/search": {"results": [row]},
            "/contents": {"results": [{"text": "<p>hi</p>", "title": "T"}]},
            "/v1/search": {"results": {"web": [row], "news": [row | {"description": "n"}]}},
            "/v1/contents": [{"html": "<p>hi</p>", "title": "T"}],
        }
        return httpx2.Response(200, json=answers[request.url.path])

    exa = Exa("k1", answering(handler))
    you = YouCom("k2", answering(handler))
    assert [hit.snippet for hit in await exa.search("q", 5, Domains(("a.org",)))] == ["s"]
    assert [hit.snippet for hit in await you.search("q", 5, Domains())] == ["s t", "n"]
    for service in (exa, you):
        page = await service.fetch("https://a.org/", False, Domains())
        assert page.title == "T" and str(page.text).endswith("\nhi")
        source = await service.fetch("https://a.org/", True, Domains())
        assert str(source.text).endswith("<p>hi</p>")
        await service.close()
    assert {key for _, key in asked} == {"k1", "k2"}
    monkeypatch.delenv("EXA_API_KEY", raising=False)
    with pytest.raises(ToolError, match="set EXA_API_KEY"):
        Exa()
    nothing = YouCom("k", answering(lambda r: httpx2.Response(200, json=[])))
    with pytest.raises(ToolError, match="no contents"):
        await nothing.fetch("https://a.org/", False, Domains())


async def test_plain_http_has_no_search() -> None:
    session = Browser(backend=PlainWeb()).session(SessionKey())
    text = await said(session, "search", query="x")
    assert text == "Error during search for `x`: there is no search here; open pages by their URL"
