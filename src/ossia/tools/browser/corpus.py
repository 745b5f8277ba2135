"""A corpus as the web: a folder of texts, or a JSONL file, searched by BM25. Offline, and the same
answers every time.

    notes/*.txt, *.md, *.html         their URLs are `base` and the path in the folder
    pages.jsonl                       {"url": ..., "title": ..., "text": ...} a line

Texts stay on disk; the index is in memory, or mapped from a folder that keeps it. Documents are the
operator's: HTML is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ossia.errors import ToolError
from ossia.tools.browser.backend import Domains, Hit
from ossia.tools.browser.book import Page
from ossia.tools.browser.documents import text_page, trusted_page
from ossia.tools.browser.html import host_of, one_line, read_html
from ossia.tools.browser.needed import extra
from ossia.tools.browser.results import without_marks
from ossia.tools.texts import read_json

BASE = "https://corpus/"
SUFFIXES = frozenset({".txt", ".md", ".html", ".htm"})
TITLE_WEIGHT = 3  # a word of a title counts as so many of a text
SNIPPET = 300  # characters
SEARCHED = 200_000  # characters of a document in which its snippet is looked for
LONGEST_FILE = 50_000_000  # bytes
# a word, or one character of a script that puts no blanks between words
WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Entry:
    """A document, and where it lies: a file, or a line of one from `start` on."""

    url: str
    title: str
    path: Path
    start: int = -1
    length: int = -1

    def raw(self) -> str:
        """The document as it was written; of a line its text."""
        if self.start < 0:
            return _read(self.path)
        with self.path.open("rb") as file:
            file.seek(self.start)
            return str(read_json(file.read(self.length))["text"])

    @property
    def is_html(self) -> bool:
        return self.start < 0 and self.path.suffix in (".html", ".htm")

    def text(self) -> str:
        raw = self.raw()
        return without_marks(read_html(raw, self.url).text) if self.is_html else raw


class Corpus:
    source = "web (default: web)"
    is_local = True
    searched = "corpus"

    def __init__(self, entries: Sequence[Entry], index: str | Path | None = None) -> None:
        self.entries = list(entries)
        self._index = _indexed(self.entries, None if index is None else Path(index))
        self._by_url = {_plain(entry.url): entry for entry in self.entries}

    @classmethod
    def open(cls, path: str | Path, base: str = BASE, index: str | Path | None = None) -> Corpus:
        """`index`: a folder that keeps the index, which is made again when a document has changed.
        Raises `ToolError` for a path without documents, and for lines that are none.
        """
        path = Path(path)
        if path.is_dir():
            entries = list(_folder(path, base))
        elif path.is_file():
            entries = list(_lines(path, base))
        else:
            raise ToolError(f"the corpus {path} does not exist")
        if not entries:
            raise ToolError(f"the corpus {path} has no .txt, .md or .html files, or no lines")
        return cls(entries, index)

    async def search(self, query: str, count: int, domains: Domains) -> list[Hit]:
        asked = words_of(query)
        found = []
        for number in self._ranked(asked):
            entry = self.entries[number]
            if domains.allows(host_of(entry.url)):
                found.append(entry)
            if len(found) == count:
                break
        return [Hit(each.title, each.url, snippet(each.text(), asked)) for each in found]

    async def fetch(self, url: str, source: bool, domains: Domains) -> Page:
        entry = self._by_url.get(_plain(url))
        if entry is None:
            raise ToolError("this page is not in the corpus; search for others")
        if entry.is_html and not source:
            return trusted_page(entry.raw(), entry.url, entry.title)
        return text_page(entry.raw(), entry.url, entry.title, source=source)

    async def close(self) -> None:
        """Nothing is open."""

    def _ranked(self, asked: Sequence[str]) -> Iterator[int]:
        """The documents that have any of the words, the best first; of equals the first first."""
        known = [word for word in asked if word in self._index.vocab_dict]
        if not known:
            return
        scores = self._index.get_scores(known)
        for number in (-scores).argsort(kind="stable"):
            if scores[number] <= 0:
                return
            yield int(number)


def words_of(text: str) -> list[str]:
    """Lower case, and English plurals as their singular."""
    return [_singular(word) for word in WORDS.findall(text.lower())]


def snippet(text: str, asked: Sequence[str]) -> str:
    """The part of a text in which most of the words are, on one line."""
    wanted = frozenset(asked)
    text = one_line(text[:SEARCHED])
    found = [
        (match.start(), word)
        for match in WORDS.finditer(text.lower())
        if (word := _singular(match[0])) in wanted
    ]
    start = 0
    most = 0
    first = 0
    for last, (end, _) in enumerate(found):
        while end - found[first][0] > SNIPPET:
            first += 1
        distinct = len({word for _, word in found[first : last + 1][-len(wanted) * 4 :]})
        if distinct > most:
            most = distinct
            start = found[first][0]
    start = _sentence(text, start)
    return text[start : start + SNIPPET].strip()


def _sentence(text: str, place: int) -> int:
    """Where the sentence around a place begins; a long one is cut."""
    first = max(0, place - SNIPPET // 2)
    end = text.rfind(". ", first, place)
    if end >= 0:
        return end + 2
    return 0 if first == 0 else place


def _indexed(entries: Sequence[Entry], folder: Path | None) -> Any:
    """The index: mapped from its folder if that is one of these documents, otherwise made."""
    with extra():
        import bm25s
    stamp = _stamp(entries)
    mark = None if folder is None else folder / "documents"
    if mark is not None and mark.exists() and mark.read_text(encoding="utf-8") == stamp:
        return bm25s.BM25.load(str(folder), mmap=True, load_corpus=False)
    made = bm25s.BM25()
    made.index([_words_in(entry) for entry in entries], show_progress=False)
    if mark is not None:
        mark.unlink(missing_ok=True)
        made.save(str(folder), show_progress=False)
        mark.write_text(stamp, encoding="utf-8")
    return made


def _stamp(entries: Sequence[Entry]) -> str:
    """Another one when a document changes."""
    digest = blake2b(f"{TITLE_WEIGHT} {WORDS.pattern}".encode(), digest_size=16)
    paths = dict.fromkeys(entry.path for entry in entries)
    for path in paths:
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def _words_in(entry: Entry) -> list[str]:
    return words_of(entry.title) * TITLE_WEIGHT + words_of(entry.text())


def _singular(word: str) -> str:
    is_plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if is_plural else word


def _plain(url: str) -> str:
    return url.partition("#")[0].rstrip("/")


def _folder(folder: Path, base: str) -> Iterator[Entry]:
    for path in sorted(folder.rglob("*")):
        if path.suffix not in SUFFIXES or not path.is_file():
            continue
        url = base + quote(path.relative_to(folder).as_posix())
        yield Entry(url, _title(path, url), path)


def _title(path: Path, url: str) -> str:
    text = _read(path)
    if path.suffix in (".html", ".htm"):
        return read_html(text, url).title or path.stem
    heading = HEADING.search(text[:SEARCHED]) if path.suffix == ".md" else None
    return heading[1] if heading else path.stem


def _read(path: Path) -> str:
    if path.stat().st_size > LONGEST_FILE:
        raise ToolError(f"{path} has more than {LONGEST_FILE // 1_000_000} MB; split it")
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _lines(path: Path, base: str) -> Iterator[Entry]:
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _entry(path, number, start, line, base)
            start += len(line)


def _entry(path: Path, number: int, start: int, line: bytes, base: str) -> Entry:
    try:
        value = read_json(line)
        text = value["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise ToolError(
            f"{path}, line {number}: expected an object with url, title and text"
        ) from error
    if not isinstance(text, str):
        raise ToolError(f"{path}, line {number}: its text is not a string")
    url = str(value.get("url") or f"{base}{number}")
    if not host_of(url):
        raise ToolError(f"{path}, line {number}: {url[:100]!r} is not an http or https URL")
    return Entry(url, str(value.get("title") or url), path, start, len(line))
