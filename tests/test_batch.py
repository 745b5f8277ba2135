"""Batch: every query's key range, with and without a cache, against the plain definition."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from ossia.batch import TILE, Batch, KindSlots, Slots

windows = st.one_of(st.none(), st.integers(1, 200))


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), windows)
def test_packed_ranges_are_causal_windowed_and_within_the_document(
    lengths: list[int], window: int | None
) -> None:
    spans = Batch.packed(lengths).spans(window)
    begin = t = 0
    for n in lengths:
        for position in range(n):
            first = 0 if window is None else max(0, position - window + 1)
            assert (int(spans.lo_T[t]), int(spans.hi_T[t])) == (begin + first, begin + position + 1)
            t += 1
        begin += n


@given(
    st.lists(st.tuples(st.integers(1, 200), st.integers(0, 400)), min_size=1, max_size=6), windows
)
def test_tiles_cover_every_query_once_and_hold_its_keys(
    sequences: list[tuple[int, int]], window: int | None
) -> None:
    lengths, starts = zip(*sequences, strict=True)
    first = tuple(0 if window is None else max(0, start - window + 1) for start in starts)
    none = torch.empty(0, dtype=torch.int64)
    slots = Slots([], [], {window: KindSlots(none, none, first)})
    batch = Batch(tuple(lengths), tuple(starts), slots=slots)
    spans = batch.spans(window)
    seen = []
    for tile in spans.tiles:
        assert 0 < tile.q1 - tile.q0 <= TILE
        seen += range(tile.q0, tile.q1)
        assert int(spans.lo_T[tile.q0 : tile.q1].min()) >= tile.k0
        assert int(spans.hi_T[tile.q0 : tile.q1].max()) <= tile.k1
    assert seen == list(range(batch.num_tokens))
    kept = [start + n - f for n, start, f in zip(lengths, starts, first, strict=True)]
    assert int(spans.hi_T[-1]) == sum(kept)


def test_positions_follow_the_starts() -> None:
    assert Batch((3, 2), (5, 0)).positions().tolist() == [5, 6, 7, 0, 1]
