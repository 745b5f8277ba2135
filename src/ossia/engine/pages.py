"""Pages of key-value slots, and who holds them. Plain Python; the tensors behind the slots belong
to the runner.

Layers with the same window share a pool. A sequence has a run of pages for each kind of layer: for
full attention every page since position 0, for a window only those that a later token can still
see. Positions and pages:

    position   0 ..... 15 | 16 .... 31 | 32 .... 47 | 48 ....
    page       (freed)    | (freed)    | pages[0]   | pages[1]      first_page = 2

Pages are reference-counted: several sequences may hold one, and so may the prefix cache, which
counts apart, because what only the cache holds can be had back at any time. A page is never written
while somebody else holds it: who has to write gets a copy (`PageCopy`). What is in a page, and
which sequence may share whose, is not known here.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ossia.config import PAGE


@dataclass(frozen=True)
class PageCopy:
    """To be done before the forward pass: the slots of page `src` to page `dst`, in all layers with
    this window.

    The copies of a step may be done one by one in their order, or with all reads before all writes.
    """

    window: int | None
    src: int
    dst: int


class PagePool:
    """The pages of one kind of layer. Free ones are used again last freed first."""

    def __init__(self, pages: int) -> None:
        self.total = pages
        self.kept = 0  # pages that the prefix cache holds,
        self.idle = 0  # and of these the ones that no sequence does
        self._free = list(range(pages - 1, -1, -1))
        self._runs = [0] * pages  # how many sequences hold it
        self._keeps = [0] * pages  # how many entries of the prefix cache hold it

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def available(self) -> int:
        """Pages that can be had without taking one from a sequence."""
        return len(self._free) + self.idle

    def holders(self, page: int) -> int:
        return self._runs[page] + self._keeps[page]

    def is_idle(self, page: int) -> bool:
        return self._keeps[page] > 0 and self._runs[page] == 0

    def allocate(self) -> int:
        """A free page, now held by one sequence."""
        assert self._free, "allocate() without a free page"
        page = self._free.pop()
        self._runs[page] = 1
        return page

    def hold(self, pages: Iterable[int]) -> None:
        """One more sequence holds these pages, which somebody holds already."""
        for page in pages:
            assert self.holders(page) > 0, f"page {page} is free"
            self.idle -= self._runs[page] == 0
            self._runs[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """One sequence fewer holds them."""
        for page in pages:
            assert self._runs[page] > 0, f"no sequence holds page {page}"
            self._runs[page] -= 1
            if self._runs[page] == 0:
                if self._keeps[page]:
                    self.idle += 1
                else:
                    self._free.append(page)

    def keep(self, pages: Iterable[int]) -> None:
        """One more entry of the prefix cache holds these pages, which somebody holds already."""
        for page in pages:
            assert self.holders(page) > 0, f"page {page} is free"
            self.kept += self._keeps[page] == 0
            self._keeps[page] += 1

    def drop(self, pages: Iterable[int]) -> None:
        """One entry of the prefix cache fewer holds them."""
        for page in pages:
            assert self._keeps[page] > 0, f"the cache does not hold page {page}"
            self._keeps[page] -= 1
            if self._keeps[page] == 0:
                self.kept -= 1
                if self._runs[page] == 0:
                    self.idle -= 1
                    self._free.append(page)

    def check(self, runs: Mapping[int, int], keeps: Mapping[int, int]) -> None:
        """Asserts that the counts are those of the holders found, and that all other pages are
        free, once.
        """
        assert self._runs == [runs.get(page, 0) for page in range(self.total)], (
            "sequences' references are off"
        )
        assert self._keeps == [keeps.get(page, 0) for page in range(self.total)], (
            "the cache's references are off"
        )
        unheld = [page for page in range(self.total) if self.holders(page) == 0]
        assert sorted(self._free) == unheld, "a page is lost, or free twice, or free and held"
        assert self.kept == sum(n > 0 for n in self._keeps)
        assert self.idle == sum(map(self.is_idle, range(self.total)))


@dataclass
class PageRun:
    """The pages of one sequence in one pool: an array of int32, which a batch's page table takes
    over as it is.
    """

    pages: array[int] = field(default_factory=lambda: array("i"))
    first_page: int = 0  # number of the page that pages[0] is, counted from position 0

    def slots(self, begin: int, end: int) -> list[int]:
        """Slots of the positions [begin, end)."""
        return [
            self.pages[p // PAGE - self.first_page] * PAGE + p % PAGE for p in range(begin, end)
        ]


class PageTables:
    """The pages of every sequence ("owner"), for every kind of layer (by window; None for full
    attention).
    """

    def __init__(self, pages_by_window: Mapping[int | None, int]) -> None:
        self.pools = {window: PagePool(pages) for window, pages in pages_by_window.items()}
        self._runs: dict[int, dict[int | None, PageRun]] = {}

    @property
    def owners(self) -> set[int]:
        return set(self._runs)

    def run(self, owner: int, window: int | None) -> PageRun:
        return self._runs[owner][window]

    def missing(self, owner: int, window: int | None, begin: int, end: int) -> int:
        """Pages to be had before `owner` can write the positions [begin, end): new ones, and copies
        of shared ones.
        """
        run = self._runs[owner][window] if owner in self._runs else PageRun()
        new = pages_of(end) - run.first_page - len(run.pages)
        return max(0, new) + len(self._shared(run, window, begin, end))

    def reach(self, owner: int, begin: int) -> int:
        """The `end` up to which `owner` can write from `begin` on with the pages that are available
        now.
        """
        ends = []
        for window, pool in self.pools.items():
            run = self._runs[owner][window] if owner in self._runs else PageRun()
            copies = len(self._shared(run, window, begin, PAGE * (run.first_page + len(run.pages))))
            ends.append(PAGE * (run.first_page + len(run.pages) + pool.available - copies))
        return min(ends)

    def grow(self, owner: int, begin: int, end: int) -> list[PageCopy]:
        """Give `owner` pages of its own for the positions [begin, end); older ones may be shared.
        Needs free pages: `missing` tells how many.
        """
        runs = self._runs.setdefault(owner, {window: PageRun() for window in self.pools})
        copies = []
        for window, run in runs.items():
            pool = self.pools[window]
            for n in self._shared(run, window, begin, end):
                src, run.pages[n] = run.pages[n], pool.allocate()
                pool.release([src])
                copies.append(PageCopy(window, src, run.pages[n]))
            while run.first_page + len(run.pages) < pages_of(end):
                run.pages.append(pool.allocate())
        return copies

    def needed(self, owner: int, end: int) -> dict[int | None, PageRun]:
        """The pages of `owner` that a sequence needs which has the same tokens before `end` and
        goes on from there.
        """
        found = {}
        for window, run in self._runs[owner].items():
            first = _first_kept(end, window)
            assert first >= run.first_page, f"page {first} has been forgotten"
            found[window] = PageRun(
                run.pages[first - run.first_page : pages_of(end) - run.first_page], first
            )
        return found

    def adopt(self, owner: int, runs: Mapping[int | None, PageRun]) -> None:
        """`owner`, which has none, holds these pages from now on, with those who hold them already."""
        assert owner not in self._runs and runs.keys() == self.pools.keys()
        self._runs[owner] = {
            window: PageRun(run.pages[:], run.first_page) for window, run in runs.items()
        }
        for window, run in runs.items():
            self.pools[window].hold(run.pages)

    def forget_behind_windows(self, owner: int, computed: int) -> None:
        """Release the pages that no token can see which comes after the last full page before
        `computed`.

        Tokens from `computed` on could do with up to one page less, but then no snapshot could be
        taken there.
        """
        for window, run in self._runs[owner].items():
            unseen = _first_kept(computed, window) - run.first_page
            if unseen > 0:
                self.pools[window].release(run.pages[:unseen])
                del run.pages[:unseen]
                run.first_page += unseen

    def release(self, owner: int) -> None:
        for window, run in self._runs.pop(owner, {}).items():
            self.pools[window].release(run.pages)

    def check(self, keeps: Mapping[int | None, Mapping[int, int]]) -> None:
        """Asserts that every page is free or has as many references as holders. `keeps`: the
        cache's, by window.
        """
        for window, pool in self.pools.items():
            held = Counter(page for runs in self._runs.values() for page in runs[window].pages)
            pool.check(held, keeps.get(window, {}))

    def _shared(self, run: PageRun, window: int | None, begin: int, end: int) -> list[int]:
        """Which of run.pages cover [begin, end) and have other holders too."""
        pool, first = self.pools[window], begin // PAGE - run.first_page
        last = min(pages_of(end) - run.first_page, len(run.pages))
        return [n for n in range(first, last) if pool.holders(run.pages[n]) > 1]


def pages_of(end: int) -> int:
    """Pages that the positions below `end` fill or begin."""
    return (end + PAGE - 1) // PAGE


def first_seen(position: int, window: int | None) -> int:
    """The oldest position that a token at `position` attends to."""
    return 0 if window is None else max(0, position - window + 1)


def fewest_pages(window: int) -> int:
    """Pages with which a sequence of any length gets on in layers with this window, one token at a
    time.
    """
    return pages_of(window - 1) + 1


def _first_kept(end: int, window: int | None) -> int:
    return first_seen(end // PAGE * PAGE, window) // PAGE
