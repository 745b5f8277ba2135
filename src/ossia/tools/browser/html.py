"""An HTML document as what a model reads: a title, text, and links by number.

Links become `【0†text】`, those to another host `【0†text†host】`; images `[Image 0: alt]`. The
brackets of a document's own are replaced, so that nothing else reads as a link. Knows markup and
its traps; nothing of where documents come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

from ossia.tools.browser.layout import BLANKS, SCRIPTS, SMALL, Event, layout
from ossia.tools.browser.needed import needed

MOST_ELEMENTS = 300_000  # of a document; what comes after them is left out
LEFT_OUT = "\n\n[The rest of the page is left out.]"
LONGEST_TITLE = 1024
LONGEST_LINK = 4096  # characters of a link's URL
OURS = str.maketrans({"【": "〖", "】": "〗", "◼": "◾", "\u200b": None, "\0": None})
DAGGER = str.maketrans({"†": "‡"})
NOT_TEXT = frozenset({"script", "style", "template"})
# lone surrogates, and what XML has no place for
UNPRINTABLE = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass
class Readable:
    """`links[n]`: the target of the link with number n."""

    title: str = ""
    text: str = ""
    links: list[str] = field(default_factory=list)


def inert(text: str) -> str:
    """Text of others: none of it reads as a link of ours."""
    return UNPRINTABLE.sub("\ufffd", text).translate(OURS)


def one_line(text: str) -> str:
    return BLANKS.sub(" ", text)


def host_of(url: str) -> str:
    """Host and port, as shown beside links. "" for what cannot be opened."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https"):
        return ""
    return parts.netloc.rpartition("@")[2]


def read_html(html: str, url: str) -> Readable:
    """`url`: of the document, which its links are relative to. Raises nothing for any text."""
    root = _parsed(inert(html))
    if root is None:
        return Readable()
    return _Reading(root, url).result()


def _parsed(html: str) -> Any:
    """The tree's root; None for a document without elements."""
    etree = needed("lxml.etree")
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, no_network=True)
    data = html.encode("utf-8")
    try:
        return etree.fromstring(data, parser)
    except etree.XMLSyntaxError:  # "Document is empty"
        return None


class _Reading:
    def __init__(self, root: Any, url: str) -> None:
        self.root = root
        self.host = host_of(url)
        self.base = url
        self.numbers: dict[str, int] = {}
        self.images = 0
        self.cut = False
        base = root.find(".//base[@href]")
        if base is not None:
            self.base = _joined_url(url, base.get("href")) or url

    def result(self) -> Readable:
        text = layout(self._merged())
        if self.cut:
            text += LEFT_OUT
        title = self.root.find(".//title")
        words = one_line(title.text or "").strip() if title is not None else ""
        return Readable(words[:LONGEST_TITLE], text, list(self.numbers))

    def _merged(self) -> Iterator[Event]:
        """The walk's events, with texts that follow each other as one."""
        texts: list[str] = []
        for event in self._events():
            if event.kind == "text":
                texts.append(event.value)
                continue
            if texts:
                yield Event("text", "".join(texts))
                texts.clear()
            yield event
        if texts:
            yield Event("text", "".join(texts))

    def _events(self) -> Iterator[Event]:
        open_nodes: list[tuple[Any, str]] = []
        node = self.root
        seen = 0
        while node is not None:
            seen += 1
            tag = node.tag if isinstance(node.tag, str) else ""
            replaced = self._replaced(node, tag)
            child = None
            if replaced is None:
                yield Event("start", tag, node)
                if tag and node.text:
                    yield Event("text", node.text)
                child = node[0] if tag and len(node) else None
            elif replaced:
                yield Event("text", replaced)
            if seen >= MOST_ELEMENTS:
                self.cut = True
                return
            open_nodes.append((node, tag if replaced is None else "-"))
            node = child
            while node is None and open_nodes:
                done, its = open_nodes.pop()
                if its != "-":
                    yield Event("end", its)
                if done.tail and done is not self.root:
                    yield Event("text", done.tail)
                node = done.getnext() if open_nodes else None

    def _replaced(self, node: Any, tag: str) -> str | None:
        """The text that stands for the whole element; None if it is walked into."""
        match tag:
            case "a":
                return self._link(node)
            case "img":
                return self._image(node)
            case "sup" | "sub":
                simple = node.text or ""
                if not len(node) and SMALL.fullmatch(simple):
                    return SCRIPTS[tag] % simple
        return None

    def _image(self, node: Any) -> str:
        name = node.get("alt", node.get("title"))
        text = f"[Image {self.images}: {name}]" if name else f"[Image {self.images}]"
        self.images += 1
        return text

    def _link(self, node: Any) -> str | None:
        href = node.get("href")
        if href is None:
            return None
        is_place = href.startswith("#")
        target = "" if is_place else _joined_url(self.base, href)
        if not (is_place or target):
            return None
        text = one_line(" ".join(_texts(node))).translate(DAGGER)
        if not text or is_place:  # an image, or a place on this page
            return text or None
        number = self.numbers.setdefault(target, len(self.numbers))
        host = host_of(target)
        if host == self.host:
            return f"【{number}†{text}】"
        return f"【{number}†{text}†{host}】"


def _texts(node: Any) -> Iterator[str]:
    """The texts inside an element, without those of scripts and comments."""
    events = needed("lxml.etree").iterwalk(node, events=("start", "end", "comment", "pi"))
    for event, each in events:
        is_read = event == "start" and each.tag not in NOT_TEXT
        if is_read and each.text:
            yield each.text
        if event != "start" and each is not node and each.tail:
            yield each.tail


def _joined_url(base: str, href: str) -> str:
    """The absolute URL; "" for what is not a link of the web."""
    try:
        joined = urljoin(base, href.strip())
    except ValueError:
        return ""
    if len(joined) > LONGEST_LINK or not host_of(joined):
        return ""
    return joined
