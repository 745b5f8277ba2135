"""Stop strings: which has come, what could be the beginning of one, and that long ones cost
nothing.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from steps import steps

from ossia.turn.stops import first_stop, partial_stop_length

TEXTS = st.text("ab", max_size=8)


@given(TEXTS, st.lists(st.text("ab", min_size=1, max_size=8), max_size=4))
def test_what_is_found_and_what_is_partial_stop_length(text: str, stops: list[str]) -> None:
    begins = [text.find(stop) for stop in stops if stop in text]
    found = first_stop(text, stops)
    assert (found is None) == (not begins)
    if found is not None:
        at, stop = found
        assert at == min(begins) and text.startswith(stop, at) and stop in stops
    ends = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    assert partial_stop_length(text, stops) == max(ends, default=0)


def test_a_long_stop_string_costs_no_more_than_a_short_one() -> None:
    """However long: no more of it is looked at than the text has."""
    text = "some text that is held"
    short, long = (("x" * n,) * 16 for n in (len(text) + 1, 1_000_000))
    assert partial_stop_length(text, long) == 0
    long_steps = steps(lambda: partial_stop_length(text, long))
    assert long_steps == steps(lambda: partial_stop_length(text, short))
