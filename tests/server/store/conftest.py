"""Stores of every kind, for one contract."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres_server import Postgres, binaries, postgres
from waited_store import Waited, waited

KINDS = ("file", "memory", pytest.param("postgres", marks=pytest.mark.slow))
Make = Callable[..., Waited]
NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def database_server() -> Iterator[Postgres]:
    bin = binaries()
    if bin is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql (Debian)")
    with postgres(bin) as server:
        yield server


@pytest.fixture
def new_database(database_server: Postgres) -> str:
    """The URL of an empty one."""
    return database_server.make(f"store{next(NUMBERS)}")


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
