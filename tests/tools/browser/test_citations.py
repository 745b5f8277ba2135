"""Marks become links with annotations, however the text is cut."""

from __future__ import annotations

import re

import pytest
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.tools.browser import Citations, Cited
from ossia.tools.browser.citations import LONGEST_MARK, cite

PAGES = {
    0: {"url": "https://a.org/x", "title": "A"},
    3: {"url": "https://b.org:8080/(y)?q=[1]", "title": "B"},
    12: {"url": "https://c.org/", "title": ""},
}
MARKS = ["【3†L5】", "【0†L1-L2】", "【9†L1】", "【3†x†b.org】", "【12†", "【【", "†L", "【0"]
PARTS = ["【", "】", "†", "0", "3", "12", "L", "5", "-", "text ", "\n", "🎉"]
PIECES = st.lists(st.sampled_from(MARKS) | st.sampled_from(PARTS), max_size=25)
SHOWN = {True: r"【\d+†.*】", False: r" \(\[.*\]\(.*\)\) "}


def streamed(pieces: list[str], keep_marks: bool) -> tuple[str, list[Cited]]:
    citations = Citations(PAGES.get, keep_marks=keep_marks)
    shown = ""
    found: list[Cited] = []
    for piece in pieces:
        more, cited = citations.feed(piece)
        shown += more
        found += cited
        assert all(each.end <= len(shown) for each in found)
    rest, cited = citations.end()
    return shown + rest, found + cited


def test_a_mark_becomes_a_link() -> None:
    text, (first, second) = cite("Old【0†L5-L9】 and【3†L7】.", PAGES.get)
    assert text == (
        "Old ([a.org](https://a.org/x))  and ([b.org:8080](https://b.org:8080/%28y%29?q=[1])) ."
    )
    assert text[first.start : first.end] == " ([a.org](https://a.org/x)) "
    assert first.annotation() == {
        "type": "url_citation",
        "url": "https://a.org/x",
        "title": "A",
        "start_index": 3,
        "end_index": 31,
        "cursor": 0,
        "lines": [5, 9],
    }
    assert second.lines == (7, 7) and second.url == "https://b.org:8080/(y)?q=[1]"


@pytest.mark.parametrize("text", ["【9†L1】", "【†L1】", "【0†】", "【x†L1】", "【0L1】", "【0†L1"])
def test_other_marks_stay(text: str) -> None:
    assert cite(f"a{text}b", PAGES.get) == (f"a{text}b", [])


def test_marks_can_be_kept() -> None:
    text, (cited,) = cite("a【0†L1】b", PAGES.get, keep_marks=True)
    assert text == "a【0†L1】b" and text[cited.start : cited.end] == "【0†L1】"


def test_only_what_may_become_a_mark_is_held_back() -> None:
    citations = Citations(PAGES.get)
    assert citations.feed("a 【") == ("a ", [])
    assert citations.feed("0†L1") == ("", [])
    assert citations.feed("x, no") == ("", [])
    assert citations.feed("【b")[0] == "【0†L1x, no【b"
    assert citations.feed("【3")[0] == ""
    assert citations.feed(" x")[0] == "【3 x"
    citations.feed("【3†")
    assert citations.feed("y" * LONGEST_MARK)[0] == "【3†" + "y" * LONGEST_MARK
    citations.feed("【3")
    assert citations.end() == ("【3", [])


@given(PIECES, st.booleans())
@settings(max_examples=examples(2000), deadline=None)
def test_deltas_add_up(pieces: list[str], keep_marks: bool) -> None:
    whole = cite("".join(pieces), PAGES.get, keep_marks=keep_marks)
    assert streamed(pieces, keep_marks) == whole
    assert streamed(list("".join(pieces)), keep_marks) == whole
    text, found = whole
    if keep_marks:
        assert text == "".join(pieces)
    for cited in found:
        part = text[cited.start : cited.end]
        is_mark = re.fullmatch(SHOWN[keep_marks], part)
        assert is_mark and cited.url == PAGES[cited.cursor]["url"]


@given(st.text(alphabet="【】†0L-3 a", max_size=300))
@settings(max_examples=examples(1000), deadline=None)
def test_text_is_lost_nowhere(text: str) -> None:
    """Without known pages nothing changes; little is held back."""
    citations = Citations(lambda cursor: None)
    shown = "".join(citations.feed(each)[0] for each in text)
    assert len(shown) >= len(text) - LONGEST_MARK
    assert shown + citations.end()[0] == text
