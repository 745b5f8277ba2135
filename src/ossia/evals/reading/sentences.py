"""Marked text in pieces: its sentences, and what stands between marks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ossia.evals.reading.plain import BOLD_END, BOX, BOX_END, without_marks

_FACTORIAL = re.compile(r"[\d)]!\s*[=+*/^≈-]")  # and no exclamation mark
_CLOSING = f"{BOLD_END}\"')]"


def between(
    text: str,
    first: str,
    last: str,
) -> Iterator[str]:
    """What stands between marks, of marks inside marks the outer ones."""
    depth = 0
    begin = 0
    for at, char in enumerate(text):
        if char == first:
            begin = at + 1 if depth == 0 else begin
            depth += 1
        elif char == last and depth:
            depth -= 1
            if depth == 0:
                yield without_marks(text[begin:at])


def sentences_of(text: str) -> Iterator[str]:
    """Lines, and in them what a full stop, a question or an exclamation mark ends. A box is never
    cut.
    """
    begin = 0
    depth = 0
    for at, char in enumerate(text):
        if char == BOX:
            depth += 1
        elif char == BOX_END:
            depth = max(0, depth - 1)
        elif depth:
            continue
        elif char == "\n":
            yield text[begin:at]
            begin = at + 1
        elif char in ".!?" and at >= begin:
            end = _past_closing(text, at + 1)
            if char == "!" and _FACTORIAL.match(text, max(0, at - 1)):
                continue
            if end >= len(text) or text[end].isspace():
                yield text[begin:end]
                begin = end
    yield text[begin:]


def _past_closing(text: str, at: int) -> int:
    """Behind the marks and quotes that close with a sentence."""
    while at < len(text) and text[at] in _CLOSING:
        at += 1
    return at
