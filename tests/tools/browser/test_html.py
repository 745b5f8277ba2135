"""Documents of all kinds become text, or are refused by name; hostile ones cost little."""

from __future__ import annotations

import re
import sys

import pytest
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from pdf_files import pdf

from ossia.errors import ToolError
from ossia.tools.browser import documents, html
from ossia.tools.browser.documents import decoded, read_document
from ossia.tools.browser.html import read_html
from ossia.tools.browser.needed import check_installed, extra

pytestmark = pytest.mark.anyio
URL = "https://a.org/x"
EMPTY = ["", " ", "\n", "<html></html>", "<!-- c -->", "<?xml version='1.0'?>", "\0", "<", "<p>"]


@pytest.mark.parametrize("text", EMPTY)
async def test_empty_documents_are_pages(text: str) -> None:
    page = await read_document(text.encode(), "text/html", URL)
    assert page.title == "a.org" and page.text is not None
    assert page.text.startswith(f"\nURL: {URL}")


def test_xml_declarations_and_nuls() -> None:
    declared = '<?xml version="1.0" encoding="utf-16"?><html><title>T\0</title><p>a\0b ü</p></html>'
    page = read_html(declared, URL)
    assert (page.title, page.text) == ("T", "ab ü")


def test_deep_documents() -> None:
    limit = sys.getrecursionlimit()
    for tag in ("div", "b", "ul><li", "blockquote", "table><tr><td", "font"):
        page = read_html(f"<{tag}>" * 3000 + "deep" + "<p>end", URL)
        assert "deep" in page.text
    assert sys.getrecursionlimit() == limit


def test_all_of_unicode_passes() -> None:
    """Every character but those that XML has no place for, surrogates, and ours."""
    for start in range(0, sys.maxunicode, 0x4000):
        block = "".join(map(chr, range(start, start + 0x4000)))
        text = read_html(f"<pre>{block.replace('<', '').replace('&', '')}</pre>", URL).text
        shown = set(text) | set("<&【】◼\u200b")
        for character in set(block) - shown:
            is_odd = html.UNPRINTABLE.match(character) or character.isspace() or character == "\0"
            assert is_odd, hex(ord(character))


@given(st.text(alphabet=st.characters(), max_size=200))
@settings(max_examples=examples(500), deadline=None)
def test_any_text_is_a_document_and_writes_no_link(text: str) -> None:
    page = read_html(text, URL)
    assert isinstance(page.text, str)
    numbers = [int(n) for n in re.findall(r"【(\d+)†", page.text)]
    assert all(n < len(page.links) for n in numbers)


MARKUP = st.lists(
    st.sampled_from(
        [
            "<p>",
            "</p>",
            "<a",
            "href='/x'>",
            "</a>",
            "text",
            "<ul>",
            "<li>",
            "</ul>",
            "<pre>",
            "</pre>",
            "<b>",
            "</b>",
            "<br>",
            "<table>",
            "<tr>",
            "<td>",
            "</table>",
            "<img",
            "alt='i'>",
            "<sup>2</sup>",
            "<blockquote>",
            "</blockquote>",
            "<!--",
            "c",
            "-->",
            "<hr>",
            "<h1>",
            "</h1>",
            "\n",
            "&amp;",
            "&#0;",
            "&#xd800;",
            "<script>",
            "</script>",
            "<math>",
            "</math>",
            "<dl><dd>",
            "【1†x】",
        ]
    ),
    max_size=40,
).map(" ".join)


@given(MARKUP)
@settings(max_examples=examples(1000), deadline=None)
def test_any_markup_has_a_text_without_runs_of_empty_lines(markup: str) -> None:
    page = read_html(markup, URL)
    assert not re.search(r"\n\s*\n\s*\n", page.text)
    assert page.text == page.text.strip()
    assert set(re.findall(r"【(\d+)†", page.text)) <= {str(n) for n in range(len(page.links))}


async def test_the_program_reads_what_is_read_here() -> None:
    text = "<title>T</title><p>One 🎉 <a href='https://b.org/é'>two</a> \ud800</p>"
    page = await read_document(text.encode("utf-8", "replace"), "text/html", URL)
    here = documents.trusted_page(text.replace("\ud800", "?"), URL)
    assert page == here


async def test_a_tag_of_a_million_attributes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser would take hours; the program that reads is ended."""
    monkeypatch.setattr(documents, "SECONDS", 0.5)
    many = b"<a " + b" ".join(b"a%d=1" % n for n in range(200_000)) + b">x</a>"
    with pytest.raises(ToolError, match="the page cannot be read: it takes too long"):
        await read_document(many, "text/html", URL)


def test_more_elements_than_a_page_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MOST_EVENTS", 50)
    text = read_html("<p>a</p>" * 100, URL).text
    assert text.endswith("[The rest of the page is left out.]") and text.count("a\n") < 50


async def test_long_texts_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LONGEST_TEXT", 100)
    page = await read_document(b"x" * 200, "text/plain", URL)
    assert page.text is not None and page.text.endswith("[The rest of the document is left out.]")


KINDS = [
    ("text/plain", b"a <b> \xe2\x82\xac", "a <b> €"),
    ("text/plain; charset=latin1", b"\x80\xe9", "€é"),
    ('text/html; charset="utf-16"', "<p>ü".encode("utf-16"), "ü"),
    ("text/html", b'<meta charset="shift_jis"><p>\x8a\xbf', "漢"),
    ("text/html", b"\xef\xbb\xbf<p>\xc3\xbc", "ü"),
    ("text/html; charset=idna", b"<p>\xc3\xbc", "ü"),
    ("text/html; charset=zip", b"<p>\xc3\xbc", "ü"),
    ("text/html; charset=no-such", b"<p>\xfc", "ü"),
    ("application/json", b'{"a": 1}', '{"a": 1}'),
    ("application/ld+json", b"[]", "[]"),
    ("text/xml", b'<?xml version="1.0" encoding="latin1"?><a>\xe9</a>', "<a>é</a>"),
    ("", b" <!DOCTYPE html><p>guessed", "guessed"),
    ("", b"plain", "plain"),
    ("text/markdown", b"\r\n# A\r\nb", "# A\nb"),
]


@pytest.mark.parametrize(("kind", "data", "text"), KINDS)
async def test_types_and_encodings(kind: str, data: bytes, text: str) -> None:
    page = await read_document(data, kind, URL)
    assert page.text is not None and page.text.endswith(text)


@pytest.mark.parametrize("kind", ["image/png", "application/zip", "video/mp4", "x" * 5000])
async def test_other_types_are_refused_by_name(kind: str) -> None:
    with pytest.raises(ToolError, match=f"its type is {kind[:100]}, which"):
        await read_document(b"\x89PNG\0", kind, URL)
    with pytest.raises(ToolError, match="octet-stream"):
        await read_document(b"\x89PNG\0", "", URL)


@given(st.binary(max_size=300), st.text(max_size=20))
@settings(max_examples=examples(300), deadline=None)
def test_any_bytes_decode(data: bytes, charset: str) -> None:
    assert isinstance(decoded(data, charset), str)


async def test_a_pdf_with_its_pages() -> None:
    pytest.importorskip("pypdf")
    data = pdf("First", "Second")
    page = await read_document(data, "application/octet-stream", URL, title="Paper")
    assert page.text == f"\nURL: {URL}\nFirst\n\n--- page 2 ---\n\nSecond"
    with pytest.raises(ToolError, match="the PDF cannot be read: it "):
        await read_document(data[:200], "application/pdf", URL)


def test_without_the_extra_the_error_says_what_to_install() -> None:
    with pytest.raises(ToolError, match=r"pip install 'ossia\[tools\]'"), extra():
        import no_such_package_of_anybody  # noqa: F401
    with pytest.raises(ToolError, match="needs the package no_such_package_of_anybody"):
        check_installed("no_such_package_of_anybody")
