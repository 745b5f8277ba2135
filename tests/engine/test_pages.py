"""Pages: whatever is allocated, shared, forgotten and released, nobody writes what others read, and
none is lost.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.config import PAGE
from ossia.engine.pages import PageCopy, PagePool, PageTables, fewest_pages, first_seen


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=60), st.integers(1, 50))
def test_no_slot_has_two_owners(actions: list[tuple[int, int]], window: int) -> None:
    tables = PageTables({None: 20, window: 12})
    end: dict[int, int] = {}
    for owner, amount in actions:
        begin = end.get(owner, 0)
        if amount == 0:
            tables.release(owner)
            end.pop(owner, None)
        elif tables.reach(owner, begin) >= begin + amount:
            end[owner] = begin + amount
            assert tables.grow(owner, begin, end[owner]) == []
            tables.forget_behind_windows(owner, end[owner])
        tables.check({})
        for kind, pool in tables.pools.items():
            slots = [
                s for o, e in end.items() for s in tables.run(o, kind).slots(first_seen(e, kind), e)
            ]
            assert len(slots) == len(set(slots)) and all(0 <= s < pool.total * PAGE for s in slots)
            assert pool.free + sum(len(tables.run(o, kind).pages) for o in end) == pool.total


@given(st.integers(1, 120), st.integers(1, 40), st.integers(1, 50))
def test_a_fork_shares_until_one_of_both_writes(size: int, more: int, window: int) -> None:
    tables = PageTables({None: 40, window: 40})
    tables.grow(0, 0, size)
    shared = tables.needed(0, size)
    tables.forget_behind_windows(0, size)
    tables.adopt(1, shared)
    free = {kind: pool.free for kind, pool in tables.pools.items()}
    missing = {kind: tables.missing(1, kind, size, size + more) for kind in free}
    copies = tables.grow(1, size, size + more)
    assert {kind: free[kind] - pool.free for kind, pool in tables.pools.items()} == missing
    if size % PAGE:
        assert [c.window for c in copies] == list(tables.pools), (
            "the page that both were in the middle of"
        )
        for c in copies:
            assert c.src in tables.run(0, c.window).pages and c.dst in tables.run(1, c.window).pages
    else:
        assert copies == []
    assert tables.grow(0, size, size + more) == [], "the other one is alone with it now"
    tables.check({})
    for kind in tables.pools:
        mine, other = (set(tables.run(o, kind).slots(size, size + more)) for o in (0, 1))
        assert not mine & other
    for owner in (0, 1):
        tables.release(owner)
    assert all(pool.free == pool.total for pool in tables.pools.values())


def test_what_the_cache_holds_is_copied_too_and_is_available_when_no_sequence_holds_it() -> None:
    tables = PageTables({None: 3})
    pool = tables.pools[None]
    tables.grow(0, 0, 20)
    first, second = tables.run(0, None).pages
    pool.keep([first, second])
    assert (pool.free, pool.idle, pool.kept, pool.available) == (1, 0, 2, 1)
    assert tables.grow(0, 20, 21) == [PageCopy(None, second, tables.run(0, None).pages[1])]
    assert (pool.free, pool.idle, pool.available) == (0, 1, 1)
    tables.release(0)
    assert (pool.free, pool.idle, pool.available) == (1, 2, 3)
    tables.check({None: {first: 1, second: 1}})
    pool.drop([first, second])
    assert (pool.free, pool.idle, pool.kept) == (3, 0, 0)


@given(st.integers(1, 70))
def test_with_the_fewest_pages_a_window_moves_on_for_ever(window: int) -> None:
    tables = PageTables({window: fewest_pages(window)})
    for position in range(200):
        assert tables.reach(0, position) > position
        tables.grow(0, position, position + 1)
        tables.forget_behind_windows(0, position + 1)
        tables.run(0, window).slots(first_seen(position + 1, window), position + 1)


@given(st.integers(0, 100), st.integers(0, 5), st.integers(2, 40))
def test_reach_is_how_far_grow_can_go(begin: int, taken: int, window: int) -> None:
    tables = PageTables({None: 12, window: 9})
    for position in range(begin):
        tables.grow(0, position, position + 1)
        tables.forget_behind_windows(0, position + 1)
    tables.grow(1, 0, taken * PAGE)
    end = tables.reach(0, begin)
    assert end >= begin
    assert any(
        tables.missing(0, w, begin, end + 1) > pool.available for w, pool in tables.pools.items()
    )
    tables.grow(0, begin, end)
    tables.check({})


def test_check_finds_what_is_wrong() -> None:
    def broken(change: str) -> PagePool:
        pool = PagePool(4)
        held = [pool.allocate(), pool.allocate()]
        pool.check({page: 1 for page in held}, {})
        exec(change, {"pool": pool, "page": held[0]})
        return pool

    for change in (
        "pool._free.append(page)", "pool._free.pop()", "pool._free.append(pool._free[0])",
        "pool.hold([page])",
        "pool.release([page])", "pool.keep([page])", "pool.idle += 1", "pool.kept += 1",
    ):  # fmt: skip
        with pytest.raises(AssertionError):
            broken(change).check({0: 1, 1: 1}, {})


def test_references_cannot_be_given_back_twice() -> None:
    pool = PagePool(2)
    page = pool.allocate()
    pool.release([page])
    for wrong in (pool.release, pool.drop, pool.hold, pool.keep):
        with pytest.raises(AssertionError):
            wrong([page])


def test_ranges_of_free_pages() -> None:
    pool = PagePool(8)
    assert list(pool.free_ranges()) == [(0, 8)]
    taken = [pool.allocate() for _ in range(8)]
    assert list(pool.free_ranges()) == []
    pool.release([taken[n] for n in (7, 2, 0, 3)])
    assert list(pool.free_ranges()) == [(0, 1), (2, 4), (7, 8)]
