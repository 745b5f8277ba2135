"""What the model sees of a page: numbered lines of 80 columns, and as many as fit a view.

Exactly the display that gpt-oss was trained with. Knows text and the o200k tokenizer; nothing of
calls or cursors.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import accumulate
from urllib.parse import unquote

from ossia.tokenizer import Tokenizer

WIDTH = 80
VIEW_TOKENS = 1024
LONGEST = 1024  # characters of a URL, or of a reason, that are shown
FIRST_TRY = 8192  # characters: more than most views have
MOST_IN_VIEW = 1 << 17  # no view has more: a line of 90 characters has several tokens
SLACK = 512  # tokens: those near the end of a text that was cut may not be the whole text's
TABS = 1 << 20  # characters: tabs of a longer line stay as they are
# where a line may break: the standard library's rules
_WORDS = textwrap.TextWrapper.wordsep_re


def wrap(text: str) -> list[str]:
    """The lines, none longer than WIDTH. Every blank is kept: the one at a break begins a line."""
    lines: list[str] = []
    for line in text.split("\n"):
        if len(line) <= WIDTH and "\t" not in line:
            lines.append(line)
        else:
            lines.extend(_wrapped(line))
    return lines


def _wrapped(line: str) -> Iterator[str]:
    """What `textwrap.wrap` makes of it, in time that grows with the length alone."""
    if len(line) <= TABS:
        line = line.expandtabs()
    parts: list[str] = []
    room = WIDTH
    for chunk in filter(None, _WORDS.split(line)):
        at = 0
        if len(chunk) > room and len(chunk) <= WIDTH:
            yield "".join(parts)
            parts.clear()
            room = WIDTH
        while len(chunk) - at > room:
            end = at + _fitting(chunk, at, room)
            yield "".join([*parts, chunk[at:end]])
            parts.clear()
            room = WIDTH
            at = end
        parts.append(chunk[at:])
        room -= len(chunk) - at
    if parts:
        yield "".join(parts)


def _fitting(chunk: str, at: int, room: int) -> int:
    """How many characters of a word that is too long stay on this line: up to a hyphen, if any."""
    hyphen = chunk.rfind("-", at, at + room)
    if hyphen > at and chunk[at:hyphen].strip("-"):
        return hyphen + 1 - at
    return room


def view(lines: Sequence[str], start: int, count: int) -> int:
    """The end of the view that begins at line `start`: `count` lines, or what fits."""
    if count > 0:
        return min(start + count, len(lines))
    text = ""
    for size in (FIRST_TRY, MOST_IN_VIEW):
        text, is_cut = _beginning(lines, start, size)
        if len(text) <= VIEW_TOKENS:
            return len(lines)
        tokenizer = Tokenizer.o200k_harmony()
        ids = tokenizer.encode(text)
        if not is_cut or len(ids) > VIEW_TOKENS + SLACK:
            break
    if len(ids) <= VIEW_TOKENS:
        return len(lines)
    # parts of a character count as one each, as they did in training
    shown = sum(
        len(tokenizer.token_bytes(each).decode("utf-8", "replace")) for each in ids[:VIEW_TOKENS]
    )
    return min(start + text.count("\n", 0, shown) + 1, len(lines))


def _beginning(lines: Sequence[str], start: int, size: int) -> tuple[str, bool]:
    """The numbered lines from `start`, so many characters of them; whether that leaves any out."""
    end = start
    for length in accumulate(len(line) + 5 for line in lines[start : start + size]):
        end += 1
        if length > size:
            break
    return numbered(lines, start, end), end < len(lines)


def numbered(lines: Sequence[str], start: int, end: int) -> str:
    return "\n".join(f"L{number}: {lines[number]}" for number in range(start, end))


def display(cursor: int, title: str, url: str, lines: Sequence[str], start: int, end: int) -> str:
    place = cut(readable(url))
    header = f"{title} ({place})" if place else title
    bar = f"**viewing lines [{start} - {end - 1}] of {len(lines) - 1}**"
    return f"[{cursor}] {header}\n{bar}\n\n{numbered(lines, start, end)}"


def readable(url: str) -> str:
    """Percent-decoded, unless that would write more than a line of plain characters."""
    decoded = unquote(url)
    return decoded if decoded.isprintable() and not set(decoded) & set("【】") else url


def cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return text[: LONGEST - 3] + "..."
