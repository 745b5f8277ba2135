"""Forty dialogues with the browser: pages, search results, and calls. What the official tool of
gpt-oss (openai/gpt-oss, commit 7b58334) displays for them lies in
tests/tools/browser/official_displays.json, made by running that tool on these dialogues.

Imports nothing of the package, so that the official tool's environment can read it.
"""

from __future__ import annotations

import random
from typing import Any

SITE = "https://history.example.org"
WORDS = [
    "river",
    "stone",
    "harbour",
    "council",
    "winter",
    "market",
    "bridge",
    "letter",
    "garden",
    "archive",
    "engine",
    "valley",
    "copper",
    "well-known",
    "long-standing",
    "mother-in-law",
    "treaty",
    "island",
    "forest",
    "1848",
    "3.5",
    "lamp",
]


def sentences(seed: int, count: int) -> str:
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        words = [draw.choice(WORDS) for _ in range(draw.randint(4, 14))]
        made.append(" ".join(words).capitalize() + draw.choice([".", ".", "?", "!"]))
    return " ".join(made)


def chapter(number: int, size: int) -> str:
    link = f'<a href="/chapter/{number + 1}">the next chapter</a>'
    paragraphs = "\n".join(f"<p>{sentences(number * 100 + n, 6)}</p>" for n in range(size))
    return f"<h2>Chapter {number}</h2>\n{paragraphs}\n<p>See {link}, or not.</p>"


ARTICLE = """<!DOCTYPE html>
<html><head><title>The old harbour</title><style>p { color: red }</style></head><body>
<h1>The old harbour</h1>
<p>The <b>harbour</b> was built in <a href="/year/1848">1848</a> by the
<a href="https://council.example.net/about?x=1">council</a>, the
<a href="/year/1848">same year</a> as <a href="#notes">the notes</a> say.</p>
<ul><li>One</li><li>Two <a href="two.html">with a link</a><ul><li>Inner</li></ul></li></ul>
<ol start="3"><li>Three</li><li>Four</li></ol>
<pre>def f(x):
    return x + 1

print(f(2))</pre>
<table><tr><th>Year</th> <th>Ships</th></tr> <tr><td>1848</td> <td>12</td></tr></table>
<p>E = mc<sup>2</sup> and H<sub>2</sub>O and x<sup>a b</sup> <img src="a.png" alt="A ship"> and
<img src="b.png">.</p>
<blockquote>It was a long-standing plan.</blockquote>
<hr><p>Line one<br>line two <code>code()</code> <q>quoted</q> and 【brackets】 † here.</p>
<h3 id="notes">Notes</h3><p>Write to <a href="mailto:a@example.org">us</a>.</p>
<script>var hidden = "harbour";</script>
</body></html>"""
LONG = f"<html><head><title>A long book</title></head><h1>Book</h1>{chapter(1, 60)}</html>"
MANY = (
    "<html><head><title>Index</title></head><body><p>"
    + " ".join(
        f'<a href="https://host{n}.example.com/p/{n}?q={n}">Entry number {n}</a>,'
        for n in range(150)
    )
    + "</p></body></html>"
)
WIDE = (
    "<html><body><pre>"
    + "x" * 200
    + "\n\tindented\tby tabs\n"
    + "a-" * 90
    + "\n"
    + "word " * 50
    + "\n"
    + "   deep" * 20
    + "</pre><p>"
    + "漢字かな交じり文" * 40
    + "</p><p>"
    + "antidisestablishmentarianism-" * 12
    + "</p></body></html>"
)
PLAIN = "<p>short</p>"
DEFINITIONS = """<html><head><title>Words &amp; terms</title></head><body><h2>Terms</h2>
<dl><dt>Quay</dt><dd>A place for ships</dd><dt>Crane</dt><dd>Lifts things</dd></dl>
<div>Some <em>text</em> <i>here</i><div>inside</div></div><div>after</div>
<p>&copy; 2020 &lt;tag&gt; &amp; more &nbsp; text</p><p>soft&#8203;break</p>
<ol><li>a<ol><li>b<ul><li>c</li></ul></li></ol></li></ol></body></html>"""

PAGES = {
    f"{SITE}/harbour": ["", ARTICLE],
    f"{SITE}/year/1848": ["1848", f"<h1>1848</h1>{chapter(2, 3)}"],
    f"{SITE}/two.html": ["", "<title>Two</title><p>The second page, of harbour fame.</p>"],
    "https://council.example.net/about?x=1": ["The council", "<p>We are the council.</p>"],
    f"{SITE}/book": ["", LONG],
    f"{SITE}/index": ["", MANY],
    f"{SITE}/wide": ["Wide things", WIDE],
    f"{SITE}/plain": ["", PLAIN],
    f"{SITE}/terms": ["", DEFINITIONS],
    f"{SITE}/a%20b/%C3%BC?q=%22x%22": ["Encoded", "<p>An encoded address.</p>"],
    f"{SITE}/{'long/' * 300}end": ["Long address", "<p>Far away.</p>"],
}
SEARCHES = {
    "harbour history": [
        ["The old harbour", f"{SITE}/harbour", "The harbour was built in 1848."],
        ["A long book", f"{SITE}/book", "Everything about the river, the stone & the market"],
        ["The council † site", "https://council.example.net/about?x=1", ""],
    ],
    "wide": [["Wide things", f"{SITE}/wide", "Lines (long)."], ["Index", f"{SITE}/index", "Links"]],
    "words: 【x】": [["Words", f"{SITE}/terms", "Terms."]],
    "many": [
        [f"Title {n}", f"https://h{n}.example.com/{n}", f"Snippet {n}." + f" Or {n}." * 9]
        for n in range(20)
    ],
}
Call = tuple[str, dict[str, Any]]


def opened(path: str, **more: Any) -> Call:
    return "open", {"id": f"{SITE}/{path}", **more}


def found(pattern: str, **more: Any) -> Call:
    return "find", {"pattern": pattern, **more}


def scrolled(**more: Any) -> Call:
    return "open", more


def searched(query: str) -> Call:
    return "search", {"query": query, "topn": 20}


DIALOGUES: list[list[Call]] = [
    [searched("harbour history"), scrolled(id=0), found("harbour"), scrolled(id=1), scrolled()],
    [searched("harbour history"), scrolled(id=1), scrolled(loc=40), scrolled(loc=100, num_lines=5)],
    [searched("harbour history"), scrolled(id=2), scrolled(id=0, cursor=0), scrolled(cursor=1)],
    [searched("wide"), scrolled(id=0), found("WORD"), scrolled(id=1, cursor=0)],
    [searched("words: 【x】"), scrolled(id=0), found("quay"), scrolled(id=0)],
    [searched("many"), scrolled(loc=3, num_lines=4), scrolled(cursor=0, loc=10)],
    [searched("unknown"), scrolled(), found("x")],
    [opened("harbour"), scrolled(id=0), scrolled(id=1, cursor=0), scrolled(id=2, cursor=0)],
    [
        opened("harbour", loc=5),
        opened("harbour", num_lines=3),
        opened("harbour", loc=2, num_lines=2),
    ],
    [opened("harbour"), scrolled(id=9), scrolled(cursor=7), scrolled(loc=999), scrolled(loc=20)],
    [opened("harbour"), found("nothing like it"), scrolled(cursor=0), found("1848", cursor=0)],
    [opened("harbour"), found("harbour"), found("built"), scrolled(id=0, cursor=1, loc=3)],
    [opened("harbour"), found("link"), scrolled(id=0, num_lines=2), scrolled(id=5, cursor=1)],
    [opened("book"), scrolled(loc=32), scrolled(loc=64), scrolled(loc=96), scrolled(loc=128)],
    [opened("book"), found("river"), scrolled(id=7), scrolled(id=49, cursor=1), found("stone")],
    [opened("book"), found("the"), scrolled(loc=30), scrolled(loc=200), scrolled(loc=240)],
    [opened("book", num_lines=200), scrolled(loc=1, num_lines=1), scrolled(loc=10**6)],
    [opened("book"), found("next chapter"), scrolled(id=0), scrolled(cursor=0, id=0)],
    [opened("index"), found("entry number 14"), scrolled(id=0), scrolled(id=149, cursor=0)],
    [opened("index", loc=30), found("host99"), found("number 99", cursor=0), scrolled(id=0)],
    [opened("index", num_lines=500), scrolled(loc=50)],
    [opened("wide"), found("xxx"), found("漢字", cursor=0), scrolled(id=0)],
    [opened("wide", loc=10), found("antidis"), found("a-a", cursor=0), found("indented", cursor=0)],
    [opened("plain"), scrolled(loc=2), scrolled(loc=3), found("SHORT"), scrolled(id=0)],
    [opened("plain"), opened("plain"), scrolled(cursor=0), scrolled(cursor=1), scrolled(cursor=2)],
    [opened("terms"), found("<tag>"), found("inside", cursor=0), found("after", cursor=0)],
    [opened("terms"), found("c", cursor=0), scrolled(id=3), scrolled(loc=4, num_lines=2)],
    [opened("a%20b/%C3%BC?q=%22x%22"), found("encoded"), found("a b/ü", cursor=0)],
    [opened("long/" * 300 + "end"), found("far"), scrolled(id=0)],
    [opened("missing"), scrolled(), opened("missing/" * 200)],
    [
        scrolled(),
        scrolled(id=3),
        found("x"),
        scrolled(cursor=0),
        opened("plain"),
        scrolled(cursor=1),
    ],
    [searched("harbour history"), opened("plain"), scrolled(cursor=0), scrolled(id=2, cursor=0)],
    [searched("harbour history"), searched("wide"), searched("nowhere"), scrolled(id=1)],
    [opened("harbour"), scrolled(id=0), scrolled(id=0), scrolled(id=0, cursor=0), found("chapter")],
    [opened("harbour"), found("`code()`"), found("[image", cursor=0), found("mc^{2}", cursor=0)],
    [opened("harbour"), found("〖brackets〗"), found("†", cursor=0), found("council", cursor=0)],
    [opened("book", loc=250), opened("book", loc=-5), opened("book", num_lines=0, loc=3)],
    [opened("year/1848"), found("chapter 2"), found("see the next", cursor=0), scrolled(id=0)],
    [searched("many"), scrolled(id=19), scrolled(id=20), scrolled(num_lines=3), scrolled(loc=25)],
    [opened("harbour"), found('"quoted" & 50%'), found("?q=#x", cursor=0), scrolled(cursor=1)],
]
