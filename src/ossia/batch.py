"""Batch: which token stands where. The one argument in which training, prefill and decode differ.

A batch is a flat row of T tokens made of whole or partial sequences laid end to end. Two facts
about each sequence say everything: how many new tokens it has here, and the position of the first
of them. With `slots` the sequences go on from keys and values that earlier batches left in a cache;
without, they begin here (packed documents, scoring).

Every query attends to one contiguous range of the keys that a layer sees, so attention needs two
integers a query. They are worked out here, once a batch and kind of layer, as `Spans`. Knows no
weights and no devices beyond a torch.device.

T tokens, S sequences, N keys of all sequences end to end, K key-value heads, h head width.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")
TILE = 64  # queries that attention handles together: a window layer's tile sees TILE + window keys
SHARED_SPAN = 256  # short sequences may share a tile as long as it needs no more keys than this


@dataclass(frozen=True)
class Tile:
    """Queries [q0, q1) and the keys [k0, k1) that hold all they may see."""

    q0: int
    q1: int
    k0: int
    k1: int


@dataclass(frozen=True)
class Spans:
    """The key range [lo_T, hi_T) of every query, both non-decreasing, and a cut of the queries into
    tiles.
    """

    lo_T: Tensor
    hi_T: Tensor
    tiles: tuple[Tile, ...]
    _made: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` returns the first time."""
        return _once(self._made, key, make)


@dataclass(frozen=True)
class KindSlots:
    """Cache slots for one kind of layer (those with the same window)."""

    write_T: Tensor  # int64: where each new token's key and value go
    # int64: the slots of all kept keys, new ones included, sequence after sequence, oldest first
    read_N: Tensor
    first_kept: tuple[int, ...]  # position of each sequence's oldest kept key


@dataclass(frozen=True)
class Slots:
    """A key-value cache as the model sees it: two tensors [slots, K, h] a layer, and where this
    batch lies in them.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    kinds: dict[int | None, KindSlots]  # by window; None for full attention


@dataclass(frozen=True)
class PageTable:
    """Where the sequences of a batch lie in one kind of layer: page `pages_SP[s, n]` holds the
    positions of sequence s from `(first_S[s] + n) * PAGE` on.
    """

    pages_SP: NDArray[np.int32]
    first_S: NDArray[np.int32]


@dataclass(frozen=True)
class Pages:
    """A key-value cache in pages, as the compiled kernels take it: the memory of the layers
    (`cpu.KvLayers`, which only they understand), and by window (None for full attention) where this
    batch lies in it.
    """

    layers: Any
    tables: dict[int | None, PageTable]


@dataclass(frozen=True)
class DevicePages:
    """A key-value cache in pages on a GPU: the memory of the layers and, by window, where this
    batch lies in it, as `kernels/triton/paging.py` makes them. `positions_T` int64, on the device.
    `rows` int32 [1]: how many of the batch's rows are real, where it has been filled up.
    """

    layers: Sequence[Tensor]
    kinds: dict[int | None, Any]
    positions_T: Tensor
    rows: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """T tokens of S sequences, end to end.

    `lengths[s]` new tokens of sequence s, the first of which has position `starts[s]`; what comes
    before is in a cache, or in the rows of this batch that `gather` names: sequences that begin
    with the same tokens have their keys computed once. `output_rows` are the rows whose logits are
    wanted (None: all); one may come several times. `router_logits`, if given, gets
    the float32 logits [T, E] of every router, by layer: training needs them for its auxiliary
    losses.
    """

    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    output_rows: Tensor | None = None
    slots: Slots | None = None
    # int64: instead of slots, the rows of this batch that hold the keys of each sequence, from its
    # position 0 on, sequence after sequence
    gather: Tensor | None = None
    router_logits: MutableMapping[int, Tensor] | None = None
    # gets the experts chosen in each layer that has a router, [T, k]
    choices: MutableMapping[int, Tensor] | None = None
    # int64 [T, L, k]: the experts that tokens go to, layer by layer; -1: those that the router
    # chooses itself. Their weights are the router's own in any case.
    experts: Tensor | None = None
    pages: Pages | None = None  # instead of slots, for compiled kernels
    paged: DevicePages | None = None  # instead of slots, for kernels on a GPU
    _made: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        assert len(self.lengths) == len(self.starts) > 0
        assert min(self.lengths) > 0 <= min(self.starts), (self.lengths, self.starts)
        if self.gather is not None:
            assert self.slots is None and self.pages is None
            assert len(self.gather) == sum(self.starts) + sum(self.lengths)

    @staticmethod
    def packed(
        lengths: Sequence[int],
        device: torch.device | str = "cpu",
        output_rows: Tensor | None = None,
        router_logits: MutableMapping[int, Tensor] | None = None,
    ) -> Batch:
        """Whole documents end to end, each from position 0; no token sees another document."""
        starts = (0,) * len(lengths)
        return Batch(
            tuple(lengths), starts, torch.device(device), output_rows, router_logits=router_logits
        )

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    def positions(self) -> Tensor:
        """int64 [T]"""
        if self.paged is not None:
            return self.paged.positions_T
        pieces = [torch.arange(p, p + n) for p, n in zip(self.starts, self.lengths, strict=True)]
        return torch.cat(pieces).to(self.device)

    def spans(self, window: int | None) -> Spans:
        """The keys of each query in the layers with this window; worked out once."""
        return self.once(("spans", window), lambda: self._make_spans(window))

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` returns the first time: for things that every layer needs and one of them
        makes.
        """
        return _once(self._made, key, make)

    def remember(
        self, layer: int, window: int | None, k_TKh: Tensor, v_TKh: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values to the cache; return those of all N keys that `spans`
        speaks of.
        """
        if self.slots is None:
            return k_TKh, v_TKh
        kind = self.slots.kinds[window]
        keys, values = self.slots.keys[layer], self.slots.values[layer]
        keys.index_copy_(0, kind.write_T, k_TKh)
        values.index_copy_(0, kind.write_T, v_TKh)
        return keys.index_select(0, kind.read_N), values.index_select(0, kind.read_N)

    def shared_rows(self, window: int | None) -> Tensor | None:
        """int64 [N]: the rows of this batch that hold the keys that `spans` speaks of; None: all,
        as they come.
        """
        if self.gather is None:
            return None
        gather = self.gather
        return self.once(("rows", window), lambda: self._make_rows(gather, window))

    def _make_rows(self, gather: Tensor, window: int | None) -> Tensor:
        pieces = []
        begin = 0
        for n, start, first in zip(self.lengths, self.starts, self._kept(window), strict=True):
            end = begin + start + n
            pieces.append(gather[begin + first : end])
            begin = end
        return torch.cat(pieces)

    def _kept(self, window: int | None) -> Sequence[int]:
        """The position of each sequence's oldest key."""
        if self.slots is not None:
            return self.slots.kinds[window].first_kept
        if self.gather is None:
            return self.starts
        if window is None:
            return (0,) * len(self.starts)
        return [max(0, start + 1 - window) for start in self.starts]

    def _make_spans(self, window: int | None) -> Spans:
        first_kept = self._kept(window)
        seqs = list(zip(self.lengths, self.starts, first_kept, strict=True))
        kept = [start + n - first for n, start, first in seqs]
        bases = list(accumulate(kept, initial=0))
        los, his = [], []
        for base, (n, start, first) in zip(bases, seqs, strict=False):
            hi = torch.arange(base + start - first + 1, base + start - first + n + 1)
            los.append((hi - window).clamp(min=base) if window else torch.full_like(hi, base))
            his.append(hi)
        lo_T, hi_T = torch.cat(los), torch.cat(his)
        tiles = tuple(_cut(self.lengths, lo_T.tolist(), hi_T.tolist()))
        return Spans(lo_T.to(self.device), hi_T.to(self.device), tiles)


def _once(made: dict[Any, Any], key: Any, make: Callable[[], T]) -> T:
    if key not in made:
        made[key] = make()
    return made[key]  # type: ignore[no-any-return]


def _cut(lengths: Sequence[int], lo: list[int], hi: list[int]) -> list[Tile]:
    """Tiles of at most TILE queries. One crosses into the next sequence only while its keys stay
    few.
    """
    tiles: list[Tile] = []
    q0 = q1 = 0
    for n in lengths:
        end = q1 + n
        if q1 > q0 and hi[min(end, q0 + TILE) - 1] - lo[q0] > SHARED_SPAN:
            tiles.append(Tile(q0, q1, lo[q0], hi[q1 - 1]))
            q0 = q1
        q1 = end
        while q1 - q0 >= TILE:
            tiles.append(Tile(q0, q0 + TILE, lo[q0], hi[q0 + TILE - 1]))
            q0 += TILE
    if q1 > q0:
        tiles.append(Tile(q0, q1, lo[q0], hi[q1 - 1]))
    return tiles
