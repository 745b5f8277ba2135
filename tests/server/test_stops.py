"""Stop strings: which has come, what could be the beginning of one, and that long ones cost
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from steps import steps

from ossia.server.stops import MAX_STOPS, begun, first_stop

TEXTS = st.text("ab", max_size=8)
MANY = [f"stop {n}" for n in range(MAX_STOPS + 1)]


@given(TEXTS, st.lists(st.text("ab", min_size=1, max_size=8), max_size=4))
def test_what_is_found_and_what_is_begun(text: str, stops: list[str]) -> None:
    begins = [text.find(stop) for stop in stops if stop in text]
    found = first_stop(text, stops)
    assert (found is None) == (not begins)
    if found is not None:
        at, stop = found
        assert at == min(begins) and text.startswith(stop, at) and stop in stops
    ends = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    assert begun(text, stops) == max(ends, default=0)


def test_a_long_stop_string_costs_no_more_than_a_short_one() -> None:
    """However long: no more of it is looked at than the text has."""
    text = "some text that is held"
    short, long = (("x" * n,) * MAX_STOPS for n in (len(text) + 1, 1_000_000))
    assert begun(text, long) == 0
    assert steps(lambda: begun(text, long)) == steps(lambda: begun(text, short))


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, "stop"),
        ("/v1/completions", {"prompt": "hi"}, "stop"),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
            "stop_sequences",
        ),
    ],
)
async def test_too_many_are_refused(
    client_for: Callable[..., Any], path: str, body: dict[str, Any], field: str
) -> None:
    async with client_for("<|channel|>final<|message|>Hi<|return|>") as client:
        fine = await client.post(path, json={**body, field: MANY[1:]})
        assert fine.status_code == 200, fine.text
        refused = await client.post(path, json={**body, field: MANY})
        assert refused.status_code == 400 and refused.json()["error"]["message"].startswith(
            f"{field} has 17"
        )
