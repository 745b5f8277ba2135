"""Attention over pages against the reference over the same keys laid end to end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from device_kernels import close, needs_triton
from torch import Tensor

from ossia import kernels
from ossia.batch import PageTable, Spans, Tile
from ossia.config import PAGE
from ossia.engine.pages import first_seen
from ossia.kernels.triton import paging


@dataclass
class Case:
    """Sequences in a cache whose pages lie in any order, and what is new of each."""

    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    window: int | None = None
    heads: int = 4
    kv_heads: int = 2
    width: int = 16
    sink: bool = True
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        rng = torch.Generator().manual_seed(sum(self.lengths) + sum(self.starts))
        self.ends = [a + n for a, n in zip(self.starts, self.lengths, strict=True)]
        shape = (self.kv_heads, self.width)
        self.keys = [torch.randn(n, *shape, generator=rng).to(self.dtype) for n in self.ends]
        self.values = [torch.randn(n, *shape, generator=rng).to(self.dtype) for n in self.ends]
        tokens = sum(self.lengths)
        self.queries = torch.randn(tokens, self.heads, self.width, generator=rng).to(self.dtype)
        angles = torch.rand(tokens, self.width // 2, generator=rng) * 6
        self.rope = (angles.cos(), angles.sin())
        self.sinks = torch.randn(self.heads, generator=rng) if self.sink else None
        self.table = self._table()

    def _table(self) -> PageTable:
        firsts = [first_seen(start, self.window) // PAGE for start in self.starts]
        counts = [-(-end // PAGE) - first for end, first in zip(self.ends, firsts, strict=True)]
        places = np.random.default_rng(0).permutation(sum(counts) + 3).tolist()
        pages_SP = np.full((len(counts), max(counts)), -1, np.int32)
        for s, count in enumerate(counts):
            pages_SP[s, :count] = [places.pop() for _ in range(count)]
        return PageTable(pages_SP, np.array(firsts, np.int32))

    def memory(self, device: torch.device) -> Tensor:
        """What is known of each sequence; NaN everywhere else."""
        pages = int(self.table.pages_SP.max()) + 1
        made = paging.cache_layer(pages, self.kv_heads, self.width, self.dtype, device)
        made.fill_(torch.nan)
        for s, start in enumerate(self.starts):
            first = int(self.table.first_S[s])
            for position in range(first * PAGE, start):
                page = int(self.table.pages_SP[s, position // PAGE - first])
                made[0, page, :, position % PAGE] = self.keys[s][position]
                made[1, page, :, position % PAGE] = self.values[s][position]
        return made

    def new(self, of: list[Tensor]) -> Tensor:
        return torch.cat([x[start:] for x, start in zip(of, self.starts, strict=True)])

    def found(self, device: torch.device) -> Tensor:
        queries = paging.queries_of_tile(device, max(self.lengths), self.heads // self.kv_heads)
        at = (self.table, self.lengths, self.starts, self.window, queries, device)
        placed = paging.placement(*at)
        given = (self.queries, self.new(self.keys), self.new(self.values))
        moved = [part.to(device) for part in given]
        rope = (self.rope[0].to(device), self.rope[1].to(device))
        sinks = None if self.sinks is None else self.sinks.to(device)
        memory = self.memory(device)
        rest = (sinks, self.window, self.width**-0.5)
        return kernels.attend_pages(*moved, rope, memory, placed, *rest)

    def wanted(self) -> Tensor:
        queries = kernels.rotate(self.queries.float(), *self.rope)
        new = kernels.rotate(self.new(self.keys).float(), *self.rope).split(self.lengths)
        parts = []
        for s, start in enumerate(self.starts):
            keys = torch.cat([self.keys[s][:start].float(), new[s]])
            hi = torch.arange(start + 1, self.ends[s] + 1)
            lo = torch.tensor([first_seen(int(end) - 1, self.window) for end in hi])
            spans = Spans(lo, hi, (Tile(0, len(hi), int(lo[0]), self.ends[s]),))
            mine = queries.split(self.lengths)[s]
            values = self.values[s].float()
            parts.append(kernels.attention(mine, keys, values, spans, self.sinks, self.width**-0.5))
        return torch.cat(parts)


def test_what_goes_to_the_device_is_aligned_as_its_own_tensors_are() -> None:
    """Triton would compile a kernel anew, in the middle of serving, for every other alignment."""
    for rows in (1, 2, 3, 5):
        shapes = [(rows,), (rows, 3), (rows,), (2 * rows, 7), (0, 4)]
        arrays = [np.full(shape, n, np.int32) for n, shape in enumerate(shapes)]
        flat = torch.from_numpy(paging.end_to_end(arrays))
        for n, part in enumerate(paging.taken_apart(flat, shapes)):
            assert part.storage_offset() * part.element_size() % 16 == 0
            assert part.shape == shapes[n] and bool((part == n).all())


@needs_triton
@pytest.mark.parametrize("window", [None, 8])
def test_attention_over_pages(device: torch.device, window: int | None) -> None:
    """Decoding beside a chunk of a prompt, with a sink and grouped heads, one of them in parts."""
    case = Case((1, 3, 1), (0, 40, 530), window)
    close(case.found(device), case.wanted())


MANY = [
    Case((1, 20, 3), (1200, 0, 700), None, 8, 2),
    Case((1, 20, 3), (1200, 0, 700), 128, 8, 2, sink=False),
    Case((70,), (600,), 128, 8, 1, 64),
    Case((70, 1), (600, 0), None, 6, 2, 32),  # three heads share one: tiles have idle rows
    Case((1,) * 5, (511, 512, 513, 15, 16), None, 2, 2),
]


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("case", MANY, ids=lambda case: f"{case.lengths}-{case.window}")
def test_attention_of_many_shapes(device: torch.device, case: Case) -> None:
    close(case.found(device), case.wanted())


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 128])
def test_attention_in_bfloat16_on_a_device(device: torch.device, window: int | None) -> None:
    case = Case((1, 700, 1, 5), (4000, 300, 0, 129), window, 64, 8, 64, dtype=torch.bfloat16)
    close(case.found(device), case.wanted(), 2e-2)


@pytest.mark.parametrize("window", [None, 128, 500])
@pytest.mark.parametrize("queries", [1, 4])
def test_pieces_show_each_query_each_of_its_keys_once(queries: int, window: int | None) -> None:
    lengths = (1, 9, 3, 1, 4)
    starts = (1500, 0, 1023, 511, 2000)
    cut = paging.pieces(lengths, starts, window, queries)
    row = 0
    for s, (length, start) in enumerate(zip(lengths, starts, strict=True)):
        for n in range(length):
            mine = [
                piece
                for piece in cut.pieces_N7.tolist()
                if piece[1] <= row + n < piece[1] + piece[2]
            ]
            assert all(piece[0] == s for piece in mine)
            # a piece's first row says the positions of the others
            assert all(piece[3] + row + n - piece[1] == start + n for piece in mine)
            keys = sorted(key for piece in mine for key in range(piece[4], piece[5]))
            assert len(set(keys)) == len(keys)
            seen = range(first_seen(start + n, window), start + n + 1)
            assert set(seen) <= set(keys)
            assert keys[-1] < start + length
        row += length


def test_parts_are_merged_in_order_and_all() -> None:
    cut = paging.pieces((1, 1, 2), (1500, 3, 700), None, 2)
    parts = {
        piece[6]: (piece[1], piece[4] // paging.SPLIT)
        for piece in cut.pieces_N7.tolist()
        if piece[6] >= 0
    }
    assert cut.parts == len(parts)
    merged = []
    for first_row, _, first_part, count in cut.merges_M4.tolist():
        numbers = range(first_part, first_part + count)
        assert [parts[n] for n in numbers] == [(first_row, split) for split in range(count)]
        merged += numbers
    assert merged == list(range(cut.parts))
