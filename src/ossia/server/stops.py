"""How many stop strings a request may name. Looking for them in an answer is `turn/stops.py`'s."""

from __future__ import annotations

from collections.abc import Sequence

from ossia.server.wire.errors import bad
from ossia.turn.stops import first_stop
from ossia.turn.stops import partial_stop_length as begun

__all__ = ["MAX_STOPS", "begun", "check_stops", "first_stop"]
MAX_STOPS = 16  # of a request: they are looked for with every token. OpenAI takes 4


def check_stops(stops: Sequence[str], param: str) -> None:
    """Raises `ApiError` for too many."""
    if len(stops) > MAX_STOPS:
        raise bad(f"{param} has {len(stops)} strings; at most {MAX_STOPS} are looked for", param)
