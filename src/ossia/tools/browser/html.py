"""An HTML document as what a model reads: a title, text, and links by number.

Links become `【0†text】`, those to another host `【0†text†host】`; images `[Image 0: alt]`. The
brackets of a document's own are replaced, so that nothing else reads as a link. Knows markup and
its traps; nothing of where documents come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from ossia.tools.browser.layout import BLANKS, SCRIPTS, SMALL, Event, layout
from ossia.tools.browser.needed import extra

MOST_EVENTS = 1_000_000  # elements begun, ended, and texts; what comes after them is left out
LEFT_OUT = "\n\n[The rest of the page is left out.]"
LONGEST_TITLE = 1024
LONGEST_LINK = 4096  # characters of a link's URL
OURS = str.maketrans({"【": "〖", "】": "〗", "◼": "◾", "\u200b": None, "\0": None})
DAGGER = str.maketrans({"†": "‡"})
READ = frozenset({"a", "img", "base", "ol"})  # whose attributes matter
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
    return _Reading(_parsed(inert(html)), url).result()


class _Events:
    """What the parser finds, in order. No tree is built: the parser gives up on deep ones."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.texts: list[str] = []  # the parts of the last event, if that is a text
        self.cut = False

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        kept = dict(attributes) if tag in READ else {}
        self._add(Event("start", tag, kept))

    def end(self, tag: str) -> None:
        self._add(Event("end", tag))

    def data(self, text: str) -> None:
        last = self.events[-1] if self.events else None
        if last is not None and last.kind == "text" and not self.cut:
            self.texts.append(text)
        else:
            self._add(Event("text", ""))
            self.texts = [text]

    def comment(self, text: str) -> None:
        self._add(Event("start", ""))
        self._add(Event("end", ""))

    def pi(self, target: str, data: str | None = None) -> None:
        self.comment("")

    def _add(self, event: Event) -> None:
        self._finish()
        self.cut = self.cut or len(self.events) >= MOST_EVENTS
        if not self.cut:
            self.events.append(event)

    def _finish(self) -> None:
        """A text may come in many parts."""
        if self.events and self.events[-1].kind == "text":
            self.events[-1].value = "".join(self.texts)

    def close(self) -> _Events:
        self._finish()
        return self


def _parsed(html: str) -> _Events:
    with extra():
        from lxml import etree
    target = _Events()
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, no_network=True, target=target)
    data = html.encode("utf-8")
    try:
        etree.fromstring(data, parser)
    except etree.XMLSyntaxError:  # "Document is empty"
        return target
    return target


class _Reading:
    def __init__(self, found: _Events, url: str) -> None:
        self.events = found.events
        self.cut = found.cut
        self.host = host_of(url)
        self.base = url
        self.title = ""
        self.numbers: dict[str, int] = {}
        self.images = 0
        self.ends, self.texts = _places(self.events)
        self._read_head(url)

    def result(self) -> Readable:
        text = layout(self._merged())
        if self.cut:
            text += LEFT_OUT
        return Readable(self.title[:LONGEST_TITLE], text, list(self.numbers))

    def _read_head(self, url: str) -> None:
        """The first title, and the first base of links."""
        title: int | None = None
        base: str | None = None
        for at, event in enumerate(self.events):
            if event.kind != "start":
                continue
            if event.value == "title" and title is None:
                title = at
            if event.value == "base" and base is None:
                base = event.attributes.get("href")
        if title is not None:
            self.title = one_line("".join(self._inside(title))).strip()
        if base is not None:
            self.base = _joined_url(url, base) or url

    def _merged(self) -> Iterator[Event]:
        """The document's events with texts for links, images and small print; texts that follow
        each other are one.
        """
        texts: list[str] = []
        for event in self._replaced():
            if event.kind == "text":
                texts.append(event.value)
                continue
            if texts:
                yield Event("text", "".join(texts))
                texts.clear()
            yield event
        if texts:
            yield Event("text", "".join(texts))

    def _replaced(self) -> Iterator[Event]:
        at = 0
        while at < len(self.events):
            event = self.events[at]
            text = self._standing_for(at, event) if event.kind == "start" else None
            if text is None:
                yield event
                at += 1
            else:
                if text:
                    yield Event("text", text)
                at = self.ends[at] + 1

    def _standing_for(self, at: int, event: Event) -> str | None:
        """The text that stands for a whole element; None if it is read on."""
        match event.value:
            case "a":
                return self._link(at, event)
            case "img":
                return self._image(event)
            case "sup" | "sub":
                inside = self.events[at + 1] if self.ends[at] == at + 2 else event
                if inside.kind == "text" and SMALL.fullmatch(inside.value):
                    return SCRIPTS[event.value] % inside.value
        return None

    def _image(self, event: Event) -> str:
        name = event.attributes.get("alt", event.attributes.get("title"))
        text = f"[Image {self.images}: {name}]" if name else f"[Image {self.images}]"
        self.images += 1
        return text

    def _link(self, at: int, event: Event) -> str | None:
        href = event.attributes.get("href")
        if href is None or self.texts[at] == self.texts[min(self.ends[at], len(self.events) - 1)]:
            return None  # an anchor, or around an image
        is_place = href.startswith("#")
        target = "" if is_place else _joined_url(self.base, href)
        if not (is_place or target):
            return None
        text = one_line(" ".join(self._inside(at))).translate(DAGGER)
        if is_place:
            return text
        number = self.numbers.setdefault(target, len(self.numbers))
        host = host_of(target)
        if host == self.host:
            return f"【{number}†{text}】"
        return f"【{number}†{text}†{host}】"

    def _inside(self, at: int) -> Iterator[str]:
        """The texts in an element, without those of scripts."""
        end = self.ends[at]
        at += 1
        while at < end:
            event = self.events[at]
            if event.kind == "text":
                yield event.value
            is_skipped = event.kind == "start" and event.value in NOT_TEXT
            at = self.ends[at] if is_skipped else at + 1


def _places(events: Sequence[Event]) -> tuple[list[int], list[int]]:
    """For every event, where its element ends, and how many texts that are read come before it."""
    ends = [len(events)] * len(events)
    texts = []
    count = 0
    scripts = 0
    opened: list[int] = []
    for at, event in enumerate(events):
        texts.append(count)
        if event.kind == "text":
            count += not scripts
        elif event.kind == "start":
            opened.append(at)
            scripts += event.value in NOT_TEXT
        elif opened:
            ends[opened.pop()] = at
            scripts -= event.value in NOT_TEXT
    return ends, texts


def _joined_url(base: str, href: str) -> str:
    """The absolute URL; "" for what is not a link of the web."""
    try:
        joined = urljoin(base, href.strip())
    except ValueError:
        return ""
    if len(joined) > LONGEST_LINK or not host_of(joined):
        return ""
    return joined
