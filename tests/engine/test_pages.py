"""Pages: whatever is allocated, forgotten and released, slots are never shared and none is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ossia.engine.pages import PAGE, PageTables, first_seen


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=60), st.integers(1, 50))
def test_no_slot_has_two_owners(actions: list[tuple[int, int]], window: int) -> None:
    tables = PageTables({None: 20, window: 12})
    end: dict[int, int] = {}
    for owner, amount in actions:
        if amount == 0:
            tables.release(owner)
            end.pop(owner, None)
        elif tables.can_grow(owner, end.get(owner, 0) + amount):
            end[owner] = end.get(owner, 0) + amount
            tables.grow(owner, end[owner])
            tables.forget_behind_windows(owner, end[owner])
        for kind, pool in tables.pools.items():
            slots = [s for o, e in end.items() for s in tables.run(o, kind).slots(first_seen(e, kind), e)]
            assert len(slots) == len(set(slots)) and all(0 <= s < pool.total * PAGE for s in slots)
            assert pool.free + sum(len(tables.run(o, kind).pages) for o in end) == pool.total
