"""What the store asks of a database, and how it may fail.

All rules (whose a row is, how long it stays, how much there may be) stand above, in SQL that both
databases read: `$1` marks a value, `ON CONFLICT` and `RETURNING` are known to both. A database adds
connections, transactions, its tables, and names for its errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from ossia.errors import DISK_FULL, STORE_FULL, STORE_UNREACHABLE, OssiaError

Row = tuple[Any, ...]


class StoreError(OssiaError):
    """The store cannot be used, or failed."""


class DiskFull(StoreError):
    """There is no room on the disk: nothing can be kept, nor deleted, until there is some."""

    code = DISK_FULL


class StoreFull(StoreError):
    """There is no room for it in all that the store may have."""

    code = STORE_FULL


class StoreUnreachable(StoreError):
    """The database does not answer now. It is asked again at the next request."""

    code = STORE_UNREACHABLE


class Statements(Protocol):
    """Values are text, bytes, numbers and None."""

    async def all(self, query: str, *values: Any) -> list[Row]: ...

    async def one(self, query: str, *values: Any) -> Row | None:
        """The first row."""
        ...

    async def run(self, query: str, *values: Any) -> int:
        """How many rows it changed."""
        ...

    async def many(self, query: str, rows: Sequence[Row]) -> None:
        """The same for each row of values."""
        ...


class Database(Protocol):
    """Every method raises `StoreError`."""

    @property
    def is_shared(self) -> bool:
        """Whether other servers use it at the same time."""
        ...

    @property
    def packs(self) -> bool:
        """Whether what is kept takes memory of this process, so that it is kept compressed."""
        ...

    async def open(self) -> None:
        """To be awaited before anything else, in the event loop that uses it."""
        ...

    async def close(self) -> None: ...

    async def scrub(self) -> None:
        """What has been deleted is in none of the files any more, as far as the database can."""
        ...

    def clock(self) -> float:
        """Seconds since 1970, the same for all who share it."""
        ...

    def session(self) -> AbstractAsyncContextManager[Statements]:
        """Each statement for itself."""
        ...

    def transaction(self, *, durably: bool = False) -> AbstractAsyncContextManager[Statements]:
        """All or nothing, and nobody else writes meanwhile. `durably`: a power cut does not take
        it.
        """
        ...
