"""The memory for keys and values, in three forms: for torch's kernels, for the compiled ones of a
CPU, and for those of a GPU.

All tell a batch where its sequences are, and copy pages. Memory is touched only as pages are used.
Knows pages, and of the model only its config.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

import numpy as np
import torch

from ossia.batch import Batch, DevicePages, KindSlots, Pages, PageTable, Slots
from ossia.config import PAGE, ModelConfig
from ossia.engine.forward import Forward
from ossia.engine.pages import PageCopy, PageRun, PageTables, first_seen
from ossia.kernels import cpu
from ossia.kernels.cpu.memory import drop_resident, take_huge_pages
from ossia.kernels.triton import paging

Choices = MutableMapping[int, torch.Tensor] | None  # of experts, by layer


class TorchCache:
    """Two tensors [slots, K, h] for each layer, keys and values."""

    def __init__(
        self, config: ModelConfig, tables: PageTables, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.tables = tables
        self.device = device
        self.windows = [config.window(n) for n in range(config.num_hidden_layers)]
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        for window in self.windows:
            slots = tables.pools[window].total * PAGE
            shape = (slots, config.num_key_value_heads, config.head_dim)
            self.keys.append(torch.empty(shape, dtype=dtype, device=device))
            self.values.append(torch.empty(shape, dtype=dtype, device=device))

    def batch(self, forward: Forward, rows: torch.Tensor | None, choices: Choices = None) -> Batch:
        kinds = {window: self._slots(forward, window) for window in forward.runs}
        slots = Slots(self.keys, self.values, kinds)
        where = (forward.lengths, forward.starts, self.device)
        return Batch(*where, output_rows=rows, slots=slots, choices=choices)

    def copy(self, copies: Sequence[PageCopy]) -> None:
        for layer, window in enumerate(self.windows):
            for page in copies:
                if page.window == window:
                    _copy_page(self.keys[layer], page)
                    _copy_page(self.values[layer], page)

    def forget_free(self) -> None:
        """Gives the memory of free pages back to the system."""
        if self.device.type != "cpu":
            return
        for layer, window in enumerate(self.windows):
            for begin, end in self.tables.pools[window].free_ranges():
                drop_resident(self.keys[layer][begin * PAGE : end * PAGE])
                drop_resident(self.values[layer][begin * PAGE : end * PAGE])

    def _slots(self, forward: Forward, window: int | None) -> KindSlots:
        write: list[int] = []
        read: list[int] = []
        first_kept = []
        places = zip(forward.starts, forward.lengths, forward.runs[window], strict=True)
        for begin, count, run in places:
            end = begin + count
            first = first_seen(begin, window)
            write += run.slots(begin, end)
            read += run.slots(first, end)
            first_kept.append(first)
        write_T = torch.tensor(write, device=self.device)
        read_N = torch.tensor(read, device=self.device)
        return KindSlots(write_T, read_N, tuple(first_kept))


def _copy_page(memory: torch.Tensor, page: PageCopy) -> None:
    src = page.src * PAGE
    dst = page.dst * PAGE
    memory[dst : dst + PAGE] = memory[src : src + PAGE]


class DeviceCache:
    """Pages on a GPU: a tensor [2, pages, K, PAGE, h] for each layer. `same_bits`: queries are
    always taken together in the same number.
    """

    def __init__(
        self,
        config: ModelConfig,
        tables: PageTables,
        dtype: torch.dtype,
        device: torch.device,
        same_bits: bool = False,
    ) -> None:
        self.tables = tables
        self.device = device
        self.group = config.num_attention_heads // config.num_key_value_heads
        self.same_bits = same_bits
        self.windows = [config.window(n) for n in range(config.num_hidden_layers)]
        shape = (config.num_key_value_heads, config.head_dim, dtype, device)
        self.layers = [
            paging.cache_layer(tables.pools[window].total, *shape) for window in self.windows
        ]

    def batch(self, forward: Forward, rows: torch.Tensor | None, choices: Choices = None) -> Batch:
        lengths = forward.lengths
        starts = forward.starts
        queries = self.queries_of(max(lengths))
        kinds = {}
        for window, runs in forward.runs.items():
            table = page_table(runs)
            kinds[window] = paging.placement(table, lengths, starts, window, queries, self.device)
        positions_T = paging.positions(lengths, starts, self.device)
        paged = DevicePages(self.layers, kinds, positions_T)
        return Batch(lengths, starts, self.device, rows, paged=paged, choices=choices)

    def queries_of(self, longest: int) -> int:
        """Of a tile, if the sequence with most new tokens has `longest`."""
        return paging.queries_of_tile(self.device, longest, self.group, self.same_bits)

    def copy(self, copies: Sequence[PageCopy]) -> None:
        for memory, window in zip(self.layers, self.windows, strict=True):
            for page in copies:
                if page.window == window:
                    memory[:, page.dst] = memory[:, page.src]

    def forget_free(self) -> None:
        """Memory of a GPU stays with the cache."""


class NativeCache:
    """Pages in the layout that the compiled kernels read."""

    def __init__(self, config: ModelConfig, tables: PageTables, kind: str) -> None:
        self.tables = tables
        self.windows = [config.window(n) for n in range(config.num_hidden_layers)]
        shape = (config.num_key_value_heads, config.head_dim, kind)
        layers = [cpu.KvLayer(tables.pools[window].total, *shape) for window in self.windows]
        self.kv = cpu.KvLayers(layers)
        self._is_huge = True  # the memory of the layers is in huge pages

    def batch(self, forward: Forward, rows: torch.Tensor | None, choices: Choices = None) -> Batch:
        if not self._is_huge:
            self._be_huge(True)
        tables = {window: page_table(runs) for window, runs in forward.runs.items()}
        pages = Pages(self.kv, tables)
        where = (forward.lengths, forward.starts)
        return Batch(*where, output_rows=rows, pages=pages, choices=choices)

    def copy(self, copies: Sequence[PageCopy]) -> None:
        for layer, window in zip(self.kv.layers, self.windows, strict=True):
            for page in copies:
                if page.window == window:
                    layer.copy(page.src, page.dst)

    def forget_free(self) -> None:
        """Gives the memory of free pages back to the system. What stays is in small pages until
        the next batch: there may be a little in each huge one.
        """
        self._be_huge(False)
        for layer, window in zip(self.kv.layers, self.windows, strict=True):
            pool = self.tables.pools[window]
            size = layer.memory.numel() // pool.total
            for begin, end in pool.free_ranges():
                drop_resident(layer.memory[begin * size : end * size])

    def _be_huge(self, wanted: bool) -> None:
        for layer in self.kv.layers:
            take_huge_pages(layer.memory, wanted)
        self._is_huge = wanted


def page_table(runs: Sequence[PageRun]) -> PageTable:
    most = max(len(run.pages) for run in runs)
    pages_SP = np.full((len(runs), most), -1, dtype=np.int32)
    for s, run in enumerate(runs):
        pages_SP[s, : len(run.pages)] = run.pages
    first_pages_S = np.array([run.first_page for run in runs], dtype=np.int32)
    return PageTable(pages_SP, first_pages_S)
