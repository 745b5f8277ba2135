"""Stores of every kind, for one contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waited_store import Waited, waited

KINDS = ("file", "memory", pytest.param("postgres", marks=pytest.mark.slow))
Make = Callable[..., Waited]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """`make(ttl, limit, clock=)`: a store; again: another of the same file or database."""
    place: str | Path | None = {"file": tmp_path / "s.db", "memory": None}.get(request.param)
    if request.param == "postgres":
        place = request.getfixturevalue("new_database")
    made: list[Waited] = []

    def store(ttl: float, limit: int, **more: Any) -> Waited:
        made.append(waited(place, ttl, limit, **more))
        return made[-1]

    yield store
    for each in made:
        if not each.loop.is_closed():
            each.close()
