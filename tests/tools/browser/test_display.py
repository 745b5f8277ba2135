"""Lines and views."""

from __future__ import annotations

import textwrap

from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.tokenizer import Tokenizer
from ossia.tools.browser import display
from ossia.tools.browser.display import numbered, readable, view, wrap

PIECES = st.sampled_from(
    [
        "a",
        "word",
        "-",
        "--",
        "---",
        " ",
        "  ",
        "\t",
        "\n",
        "\r",
        "\x0b",
        "\u2028",
        "\xa0",
        "é漢",
        ".",
        "a-b",
        "3-4",
        "(b)",
        "!-x",
        "_",
        "🎉",
    ]
) | st.sampled_from(["x" * 79, "y" * 81, "w" * 200, "-" * 90])
TEXTS = st.lists(PIECES, max_size=60).map("".join)


def by_the_book(text: str) -> list[str]:
    lines: list[str] = []
    for line in text.split("\n"):
        lines += textwrap.wrap(line, 80, replace_whitespace=False, drop_whitespace=False) or [""]
    return lines


@given(TEXTS)
@settings(max_examples=examples(2000), deadline=None)
def test_lines_are_those_of_textwrap(text: str) -> None:
    assert wrap(text) == by_the_book(text)


def test_a_long_word_takes_time_by_its_length() -> None:
    """The standard library's way takes minutes for this."""
    lines = wrap("x" * 3_000_000 + "-" * 1_000_000)
    assert len(lines) == 50_000 and set(map(len, lines)) == {80}


@given(TEXTS, st.integers(0, 3), st.integers(-2, 5))
@settings(max_examples=examples(300), deadline=None)
def test_a_view_is_what_fits(text: str, start: int, count: int) -> None:
    lines = wrap(text * 30)
    start = min(start, len(lines) - 1)
    assert view(lines, start, count) == slow_view(lines, start, count)


def slow_view(lines: list[str], start: int, count: int) -> int:
    if count > 0:
        return min(start + count, len(lines))
    tokenizer = Tokenizer.o200k_harmony()
    text = numbered(lines, start, len(lines))
    ids = tokenizer.encode(text)
    if len(text) <= 1024 or len(ids) <= 1024:
        return len(lines)
    length = sum(len(tokenizer.token_bytes(each).decode("utf-8", "replace")) for each in ids[:1024])
    return min(start + text[:length].count("\n") + 1, len(lines))


def test_every_view_of_a_long_page_is_what_fits() -> None:
    lines = wrap(("many 漢字 and 🎉 words, " * 9 + "\n\n") * 60 + "0" * 9000)
    for start in range(0, len(lines), 37):
        assert view(lines, start, -1) == slow_view(lines, start, -1)


def test_a_view_reads_no_more_than_it_may_show() -> None:
    lines = ["a b c d e f g"] * 100_000
    text, is_cut = display._beginning(lines, 5, display.FIRST_TRY)
    assert is_cut and len(text) < 1.2 * display.FIRST_TRY


@given(st.text(max_size=50))
@settings(max_examples=examples(300), deadline=None)
def test_a_url_is_one_line(text: str) -> None:
    from urllib.parse import quote

    shown = readable("https://a.org/" + quote(text, safe=""))
    assert shown.isprintable() and "【" not in shown
