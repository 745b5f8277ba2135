"""What a server sent, as a page: HTML, PDF, and what is text already.

Knows types of content and their encodings; the reading itself is done by confined programs, or,
for documents that are trusted, here. Raises `ToolError` for what cannot be read.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ossia.errors import ToolError
from ossia.tools.browser.book import Kind, Page
from ossia.tools.browser.html import LONGEST_TITLE, Readable, host_of, inert, one_line, read_html
from ossia.tools.browser.needed import check_installed
from ossia.tools.confined import PDF, run_confined
from ossia.tools.texts import read_json

HTML = Path(__file__).with_name("reader.py")
SECONDS = 15.0  # of the clock, that a document may take to be read
LONGEST_TEXT = 4 << 20  # characters of a page
CUT = "\n\n[The rest of the document is left out.]"
HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
TEXT_TYPES = frozenset(
    {
        *("application/json", "application/xml", "application/javascript", "application/yaml"),
        *("application/x-ndjson", "application/toml", "application/x-sh", "application/sql"),
    }
)
TEXT_ENDINGS = ("+json", "+xml", "+yaml")
DECLARED = re.compile(
    rb"""<meta[^>]{0,200}charset\s{0,9}=\s{0,9}["']?\s{0,9}([\w:.-]{1,40})""", re.I
)
XML_DECLARED = re.compile(rb"""^\s{0,99}<\?xml[^>]{0,200}encoding=["']([\w:.-]{1,40})["']""")
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# names of encodings that the web uses for others, and codecs that are no encodings of text
RENAMED = {"iso-8859-1": "windows-1252", "latin1": "windows-1252", "us-ascii": "windows-1252"}
FIRST = 4096  # bytes in which a document says what its encoding is


async def read_document(
    data: bytes, content_type: str, url: str, *, title: str = "", source: bool = False
) -> Page:
    """The page. `title`: if it is known from elsewhere; `source`: the text as it was sent."""
    kind, charset = _content_type(content_type)
    kind = kind or _guessed(data)
    if kind == "application/pdf" or data.startswith(b"%PDF-"):
        return _page(await _pdf(data), title, url, "page")
    if kind not in HTML_TYPES and not _is_text(kind):
        raise ToolError(f"its type is {kind[:100]}, which the browser cannot show")
    text = decoded(data, charset)
    if source or kind not in HTML_TYPES:
        return _page(Readable(text=inert(text)), title, url, "source" if source else "page")
    return _page(await _html(text, url), title, url, "page")


def trusted_page(html: str, url: str, title: str = "") -> Page:
    """A document of the operator's own, read here and now."""
    return _page(read_html(html, url), title, url, "page")


def text_page(text: str, url: str, title: str = "", *, source: bool = False) -> Page:
    return _page(Readable(text=inert(text)), title, url, "source" if source else "page")


def decoded(data: bytes, charset: str = "") -> str:
    """By the mark at its beginning, what the server says, what it says itself, or what fits."""
    names = [name for mark, name in MARKS.items() if data.startswith(mark)]
    found = DECLARED.search(data[:FIRST]) or XML_DECLARED.search(data[:FIRST])
    declared = found[1].decode("ascii", "replace") if found else ""
    for name in (*names, charset, declared):
        encoding = _encoding(name)
        if encoding:
            return data.decode(encoding, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("windows-1252", "replace")


def _encoding(name: str) -> str:
    """The codec of that name, if it makes text of bytes."""
    name = name.strip().lower()
    name = RENAMED.get(name, name)
    try:
        info = codecs.lookup(name)
        b"a".decode(info.name, "replace")
    except (LookupError, ValueError, TypeError, AssertionError):
        return ""
    # idna, punycode and escapes are codecs too, slow or strange ones
    is_odd = info.name in ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "utf-7")
    return "" if is_odd else info.name


def _content_type(header: str) -> tuple[str, str]:
    kind, _, parameters = header.partition(";")
    found = re.search(r"charset\s{0,9}=\s{0,9}[\"']?([\w:.-]{1,40})", parameters[:500], re.I)
    return kind.strip().lower(), found[1] if found else ""


def _guessed(data: bytes) -> str:
    """The type of what came without one."""
    start = data[:FIRST].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "text/html"
    if b"\0" in start and not data.startswith(tuple(MARKS)):
        return "application/octet-stream"
    return "text/plain"


def _is_text(kind: str) -> bool:
    return kind.startswith("text/") or kind in TEXT_TYPES or kind.endswith(TEXT_ENDINGS)


async def _html(text: str, url: str) -> Readable:
    check_installed("lxml")
    data = text.encode("utf-8", "replace")
    written, why = await run_confined(HTML, data, SECONDS, url)
    if why:
        raise ToolError(f"the page cannot be read: {why}")
    title, body, links = read_json(written)
    return Readable(title, body, links)


async def _pdf(data: bytes) -> Readable:
    check_installed("pypdf")
    written, why = await run_confined(PDF, data, SECONDS)
    if why:
        raise ToolError(f"the PDF cannot be read: {why}")
    pages = written.decode("utf-8", "replace").split("\f")
    parts = [pages[0], *(f"--- page {n} ---\n\n{page}" for n, page in enumerate(pages[1:], 2))]
    return Readable(text=inert("\n\n".join(part.strip("\n") for part in parts)))


def _page(read: Readable, title: str, url: str, kind: Kind) -> Page:
    text = read.text.replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > LONGEST_TEXT:
        text = text[:LONGEST_TEXT] + CUT
    shown = one_line(inert(title)).strip()[:LONGEST_TITLE] or read.title or host_of(url)
    return Page(
        url=url,
        title=shown,
        text=f"\nURL: {url}\n{text.rstrip()}",
        links=tuple(read.links),
        kind=kind,
    )
