"""Pages of key-value slots, and who owns them. Plain Python; the tensors behind the slots belong to the runner.

Layers with the same window share a pool. A sequence owns a run of pages for each kind of layer: for full attention
every page since position 0, for a window only those that a later token can still see. Positions and pages:

    position   0 ..... 15 | 16 .... 31 | 32 .... 47 | 48 ....
    page       (freed)    | (freed)    | pages[0]   | pages[1]      first_page = 2
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

PAGE = 16  # slots


class PagePool:
    """Free pages, last freed first."""

    def __init__(self, pages: int) -> None:
        self._free = list(range(pages - 1, -1, -1))
        self.total = pages

    @property
    def free(self) -> int:
        return len(self._free)

    def allocate(self) -> int:
        assert self._free, "allocate() without can_grow()"
        return self._free.pop()

    def release(self, pages: Iterable[int]) -> None:
        self._free.extend(pages)
        assert len(self._free) <= self.total


@dataclass
class PageRun:
    """The pages of one sequence in one pool."""

    pages: list[int] = field(default_factory=list)
    first_page: int = 0  # number of the page that pages[0] is, counted from position 0

    def slots(self, begin: int, end: int) -> list[int]:
        """Slots of the positions [begin, end)."""
        return [self.pages[p // PAGE - self.first_page] * PAGE + p % PAGE for p in range(begin, end)]


class PageTables:
    """The pages of every sequence, for every kind of layer (by window; None for full attention)."""

    def __init__(self, pages_by_window: dict[int | None, int]) -> None:
        self.pools = {window: PagePool(pages) for window, pages in pages_by_window.items()}
        self._runs: dict[int, dict[int | None, PageRun]] = {}

    def run(self, owner: int, window: int | None) -> PageRun:
        return self._runs[owner][window]

    def can_grow(self, owner: int, end: int) -> bool:
        """Whether `owner` can be given slots for all positions below `end`."""
        runs = self._runs.get(owner, {})
        return all(pool.free >= _missing(runs.get(w, PageRun()), end) for w, pool in self.pools.items())

    def grow(self, owner: int, end: int) -> None:
        runs = self._runs.setdefault(owner, {window: PageRun() for window in self.pools})
        for window, run in runs.items():
            run.pages.extend(self.pools[window].allocate() for _ in range(_missing(run, end)))

    def forget_behind_windows(self, owner: int, computed: int) -> None:
        """Release the pages that no token from position `computed` on can see."""
        for window, run in self._runs[owner].items():
            if window is None:
                continue
            unseen = first_seen(computed, window) // PAGE - run.first_page
            if unseen > 0:
                self.pools[window].release(run.pages[:unseen])
                del run.pages[:unseen]
                run.first_page += unseen

    def release(self, owner: int) -> None:
        for window, run in self._runs.pop(owner, {}).items():
            self.pools[window].release(run.pages)


def first_seen(position: int, window: int | None) -> int:
    """The oldest position that a token at `position` attends to."""
    return 0 if window is None else max(0, position - window + 1)


def _missing(run: PageRun, end: int) -> int:
    return max(0, (end + PAGE - 1) // PAGE - run.first_page - len(run.pages))
