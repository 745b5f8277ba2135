"""Which database a server keeps its store in, by what `--store` says."""

from __future__ import annotations

from pathlib import Path

from ossia.server.store.postgres import Postgres
from ossia.server.store.protocol import Database
from ossia.server.store.sqlite import Sqlite

SCHEMES = ("postgresql://", "postgres://")


def is_url(text: str) -> bool:
    return text.startswith(SCHEMES)


async def checked(url: str) -> None:
    """Whether it can be used; its tables are there then. Raises `OssiaError`."""
    database = Postgres(url)
    await database.open()
    await database.close()


def database_of(place: str | Path | None) -> Database:
    """`place`: a file, the URL of a database, or None: memory. Raises `StoreError`."""
    if isinstance(place, str) and is_url(place):
        return Postgres(place)
    return Sqlite(Path(place) if place is not None else None)
