"""What the first process tells those beside it, where a model is spread over several (beside.py).

The first process has the requests, the pages and the draw. It tells the others of every runner that
it makes and of every step, in plain numbers; they keep runners of the same kind, with a cache for
their heads, and know nothing else. Nobody decides twice, so nothing can be decided differently.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from ossia.engine.forward import Forward
from ossia.engine.pages import PageCopy, PageTables
from ossia.model.processes import Spread


@dataclass(frozen=True)
class Made:
    """A runner, by its number, with so many pages by window."""

    number: int
    pages: dict[int | None, int]
    same_bits: bool = False


@dataclass(frozen=True)
class Copied:
    number: int
    copies: Sequence[PageCopy]


@dataclass(frozen=True)
class Computed:
    number: int
    forward: Forward


@dataclass(frozen=True)
class Dropped:
    number: int


@dataclass(frozen=True)
class Ended:
    pass


class Leading:
    """In the first process: what a runner does here, its likes do in the others."""

    def __init__(
        self, runner: object, tables: PageTables, spread: Spread, same_bits: bool = False
    ) -> None:
        self.spread = spread
        pages = {window: pool.total for window, pool in tables.pools.items()}
        with spread.lock:
            self.number = spread.next_number
            spread.next_number += 1
            self._tell(Made(self.number, pages, same_bits))
        # Said with the next message: a runner may be forgotten in the middle of a step.
        weakref.finalize(runner, spread.dropped.append, self.number).atexit = False

    def copying(self, copies: Sequence[PageCopy]) -> AbstractContextManager[None]:
        """Around the copies that this process makes."""
        return self._together(Copied(self.number, copies))

    def computing(self, forward: Forward) -> AbstractContextManager[None]:
        """Around what this process computes of a step."""
        return self._together(Computed(self.number, forward))

    @contextmanager
    def _together(self, what: object) -> Iterator[None]:
        """If this process's part fails, the others have done theirs, or wait for what will not
        come: nothing can be computed together any more.
        """
        with self.spread.lock:
            self._tell(what)
            try:
                yield
            except BaseException as error:
                self.spread.lose(error)
                raise

    def _tell(self, what: object) -> None:
        while self.spread.dropped:
            self.spread.tell(Dropped(self.spread.dropped.pop()))
        self.spread.tell(what)
