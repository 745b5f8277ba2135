"""Stop strings in a text that comes piece by piece: which one has come, and how much could be the
beginning of one.

Knows strings and how many of them a request may name; nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from ossia.server.wire.errors import bad

MAX_STOPS = 16  # of a request: they are looked for with every token. OpenAI takes 4


def check_stops(stops: Sequence[str], param: str) -> None:
    """Raises `ApiError` for too many."""
    if len(stops) > MAX_STOPS:
        raise bad(f"{param} has {len(stops)} strings; at most {MAX_STOPS} are looked for", param)


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Where the first of them begins in the text, and which it is."""
    places = {stop: at for stop in stops if (at := text.find(stop)) >= 0}
    if not places:
        return None
    stop = min(places, key=lambda stop: places[stop])
    return places[stop], stop


def begun(text: str, stops: Sequence[str]) -> int:
    """Characters at the text's end that could be the beginning of one. No longer than the text,
    however long they are: this is asked with every token.
    """
    longest = 0
    for stop in stops:
        lengths = range(min(len(stop) - 1, len(text)), longest, -1)
        longest = next((n for n in lengths if text.endswith(stop[:n])), longest)
    return longest
