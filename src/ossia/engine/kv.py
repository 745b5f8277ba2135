"""The memory for keys and values, in the two forms there are: for torch's kernels and for the
compiled ones.

Both tell a batch where its sequences lie, and copy pages. Memory is touched only as pages are used.
Knows pages and work; knows no model beyond its config.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ossia.batch import Batch, KindSlots, Pages, PageTable, Slots
from ossia.config import PAGE, ModelConfig
from ossia.engine.pages import PageCopy, PageTables, first_seen
from ossia.engine.scheduler import Work
from ossia.kernels import cpu


class TorchCache:
    """Two tensors [slots, K, h] a layer."""

    def __init__(
        self, config: ModelConfig, tables: PageTables, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.tables, self.device = tables, device
        self.windows = [config.window(n) for n in range(config.num_hidden_layers)]
        shapes = [
            (tables.pools[w].total * PAGE, config.num_key_value_heads, config.head_dim)
            for w in self.windows
        ]
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]

    def batch(self, works: Sequence[Work], rows: torch.Tensor | None) -> Batch:
        kinds = {window: self._slots(works, window) for window in self.tables.pools}
        slots = Slots(self.keys, self.values, kinds)
        return Batch(*_extent(works), self.device, output_rows=rows, slots=slots)

    def copy(self, copies: Sequence[PageCopy]) -> None:
        for layer, window in enumerate(self.windows):
            for page in (p for p in copies if p.window == window):
                for memory in (self.keys[layer], self.values[layer]):
                    memory[page.dst * PAGE :][:PAGE] = memory[page.src * PAGE :][:PAGE]

    def _slots(self, works: Sequence[Work], window: int | None) -> KindSlots:
        write: list[int] = []
        read: list[int] = []
        first_kept = []
        for work in works:
            begin, end = work.request.computed, work.request.computed + work.count
            run = self.tables.run(work.request.id, window)
            first = first_seen(begin, window)
            write += run.slots(begin, end)
            read += run.slots(first, end)
            first_kept.append(first)
        write_T, read_N = (torch.tensor(slots, device=self.device) for slots in (write, read))
        return KindSlots(write_T, read_N, tuple(first_kept))


class NativeCache:
    """Pages in the layout that the compiled kernels read."""

    def __init__(self, config: ModelConfig, tables: PageTables, kind: str) -> None:
        self.tables = tables
        self.windows = [config.window(n) for n in range(config.num_hidden_layers)]
        shape = (config.num_key_value_heads, config.head_dim, kind)
        self.kv = cpu.KvLayers(
            [cpu.KvLayer(tables.pools[window].total, *shape) for window in self.windows]
        )

    def batch(self, works: Sequence[Work], rows: torch.Tensor | None) -> Batch:
        tables = {window: self._table(works, window) for window in self.tables.pools}
        return Batch(*_extent(works), output_rows=rows, pages=Pages(self.kv, tables))

    def copy(self, copies: Sequence[PageCopy]) -> None:
        for layer, window in zip(self.kv.layers, self.windows, strict=True):
            for page in copies:
                if page.window == window:
                    layer.copy(page.src, page.dst)

    def _table(self, works: Sequence[Work], window: int | None) -> PageTable:
        runs = [self.tables.run(work.request.id, window) for work in works]
        pages_SP = np.full((len(runs), max(len(run.pages) for run in runs)), -1, dtype=np.int32)
        for s, run in enumerate(runs):
            pages_SP[s, : len(run.pages)] = run.pages
        return PageTable(pages_SP, np.array([run.first_page for run in runs], dtype=np.int32))


def _extent(works: Sequence[Work]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Lengths and starts."""
    return tuple(work.count for work in works), tuple(work.request.computed for work in works)
