"""Pages of key-value slots, and their holders. Plain Python; the tensors of the slots belong to the
runner.

Layers with the same window share a pool. A sequence has a run of pages for each kind of layer: for
full attention every page since position 0, for a window only the pages that a later token can still
see. Positions and pages:

    position   0 ..... 15 | 16 .... 31 | 32 .... 47 | 48 ....
    page       (freed)    | (freed)    | pages[0]   | pages[1]      first_page = 2

Pages are reference-counted: several sequences may hold one, and so may the prefix cache, which is
counted separately, because pages that only the cache holds can be taken back at any time. A page is
never written while it has another holder: the writer gets a copy (`PageCopy`). This module does not
know the content of pages, or which sequences may share them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ossia.config import PAGE


@dataclass(frozen=True)
class PageCopy:
    """Copy the slots of page `src` to page `dst` before the forward pass, in all layers with this
    window.

    The copies of a step may be done one by one in their order, or with all reads before all writes.
    """

    window: int | None
    src: int
    dst: int


class PagePool:
    """The pages of one kind of layer. The page freed last is used again first.

    Numbers are in arrays: as objects, made anew with every page that comes and goes, a few of them
    would hold each piece of memory that a busy hour has taken.
    """

    def __init__(self, pages: int) -> None:
        self.total = pages
        self.kept = 0  # pages that the prefix cache holds
        self.idle = 0  # pages that only the prefix cache holds
        self._free = array("i", range(pages - 1, -1, -1))
        self._runs = array("i", bytes(4 * pages))  # how many sequences hold it
        self._keeps = array("i", bytes(4 * pages))  # how many entries of the prefix cache hold it

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def available(self) -> int:
        """Pages that can be obtained without taking one from a sequence."""
        return len(self._free) + self.idle

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        """Begin and end of each."""
        begin = end = -1
        for page in sorted(self._free):
            if page != end:
                if end > begin:
                    yield begin, end
                begin = page
            end = page + 1
        if end > begin:
            yield begin, end

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
        """One more sequence holds these pages, which already have a holder."""
        for page in pages:
            assert self.holders(page) > 0, f"page {page} is free"
            if self._runs[page] == 0:
                self.idle -= 1
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
        """One more entry of the prefix cache holds these pages, which already have a holder."""
        for page in pages:
            assert self.holders(page) > 0, f"page {page} is free"
            if self._keeps[page] == 0:
                self.kept += 1
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
        """Asserts that the counts are those of the holders, by page: sequences in `runs`, entries
        of the cache in `keeps`; and that each of the other pages is free, once.
        """
        pages = range(self.total)
        counted_runs = array("i", [runs.get(page, 0) for page in pages])
        counted_keeps = array("i", [keeps.get(page, 0) for page in pages])
        assert self._runs == counted_runs, "sequences' references are off"
        assert self._keeps == counted_keeps, "the cache's references are off"
        unheld = [page for page in pages if self.holders(page) == 0]
        assert sorted(self._free) == unheld, "a page is lost, or free twice, or free and held"
        assert self.kept == sum(n > 0 for n in self._keeps)
        assert self.idle == sum(self.is_idle(page) for page in pages)


@dataclass
class PageRun:
    """The pages of one sequence in one pool: an array of int32, which a batch's page table uses
    unchanged.
    """

    pages: array[int] = field(default_factory=lambda: array("i"))
    first_page: int = 0  # the number of pages[0] in the sequence, counted from position 0

    @property
    def end_page(self) -> int:
        """The number of the first page that it does not have yet."""
        return self.first_page + len(self.pages)

    def slots(self, begin: int, end: int) -> list[int]:
        """Slots of the positions [begin, end)."""
        pages = self.pages
        first = self.first_page
        return [pages[p // PAGE - first] * PAGE + p % PAGE for p in range(begin, end)]


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
        """How many pages `owner` needs before it can write the positions [begin, end): new ones,
        and copies of shared ones.
        """
        run = self._run_or_empty(owner, window)
        new = pages_of(end) - run.end_page
        return max(0, new) + len(self._shared(run, window, begin, end))

    def reach(self, owner: int, begin: int) -> int:
        """The `end` up to which `owner` can write from `begin` on with the pages that are available
        now.
        """
        ends = []
        for window, pool in self.pools.items():
            run = self._run_or_empty(owner, window)
            copies = len(self._shared(run, window, begin, PAGE * run.end_page))
            ends.append(PAGE * (run.end_page + pool.available - copies))
        return min(ends)

    def _run_or_empty(self, owner: int, window: int | None) -> PageRun:
        if owner not in self._runs:
            return PageRun()
        return self._runs[owner][window]

    def grow(self, owner: int, begin: int, end: int) -> list[PageCopy]:
        """Give `owner` pages of its own for the positions [begin, end); older ones may be shared.
        Needs as many free pages as `missing` says. Returns the copies to be made.
        """
        runs = self._runs.setdefault(owner, {window: PageRun() for window in self.pools})
        copies = []
        for window, run in runs.items():
            pool = self.pools[window]
            for n in self._shared(run, window, begin, end):
                shared = run.pages[n]
                own = pool.allocate()
                run.pages[n] = own
                pool.release([shared])
                copies.append(PageCopy(window, shared, own))
            while run.end_page < pages_of(end):
                run.pages.append(pool.allocate())
        return copies

    def needed(self, owner: int, end: int) -> dict[int | None, PageRun]:
        """The pages of `owner` that another sequence needs to continue at `end`, if it has the same
        tokens before.
        """
        found = {}
        for window, run in self._runs[owner].items():
            first_page = _first_kept(end, window)
            assert first_page >= run.first_page, f"page {first_page} has been released"
            begin = first_page - run.first_page
            pages = run.pages[begin : pages_of(end) - run.first_page]
            found[window] = PageRun(pages, first_page)
        return found

    def adopt(self, owner: int, runs: Mapping[int | None, PageRun]) -> None:
        """Share pages with `owner`, which has none: it becomes one more holder."""
        assert owner not in self._runs
        assert runs.keys() == self.pools.keys()
        own = {}
        for window, run in runs.items():
            own[window] = PageRun(run.pages[:], run.first_page)
            self.pools[window].hold(run.pages)
        self._runs[owner] = own

    def forget_behind_windows(self, owner: int, computed: int) -> None:
        """Release the pages that no token after the last full page before `computed` can see.

        Tokens from `computed` on could do with up to one page less, but then no snapshot could be
        taken at that full page.
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
        """Asserts that every page is free or has as many references as holders. `keeps`: how often
        the cache holds each page, by window.
        """
        for window, pool in self.pools.items():
            held = Counter(page for runs in self._runs.values() for page in runs[window].pages)
            pool.check(held, keeps.get(window, {}))

    def _shared(self, run: PageRun, window: int | None, begin: int, end: int) -> list[int]:
        """The indices in run.pages of the pages that cover [begin, end) and have other holders."""
        pool = self.pools[window]
        first = begin // PAGE - run.first_page
        last = min(pages_of(end) - run.first_page, len(run.pages))
        return [n for n in range(first, last) if pool.holders(run.pages[n]) > 1]


def pages_of(end: int) -> int:
    """Pages that the positions below `end` fill or begin."""
    return (end + PAGE - 1) // PAGE


def first_seen(position: int, window: int | None) -> int:
    """The oldest position that a token at `position` attends to."""
    return 0 if window is None else max(0, position - window + 1)


def fewest_pages(window: int) -> int:
    """How many pages are enough for a sequence of any length in layers with this window, one token
    at a time.
    """
    return pages_of(window - 1) + 1


def _first_kept(end: int, window: int | None) -> int:
    """The first page that a sequence keeps once `end` tokens are computed."""
    return first_seen(end // PAGE * PAGE, window) // PAGE
