"""Stop strings in a text that comes piece by piece: which one has come, and how much of the end
could be the beginning of one.

Knows strings; nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Where the first of them begins in the text, and which it is."""
    places = {stop: at for stop in stops if (at := text.find(stop)) >= 0}
    if not places:
        return None
    stop = min(places, key=lambda stop: places[stop])
    return places[stop], stop


def partial_stop_length(text: str, stops: Sequence[str]) -> int:
    """How many characters at the text's end could be the beginning of one.

    Takes time in the length of the text, however long the stop strings are: this is asked with
    every token.
    """
    longest = 0
    for stop in stops:
        lengths = range(min(len(stop) - 1, len(text)), longest, -1)
        longest = next((n for n in lengths if text.endswith(stop[:n])), longest)
    return longest
