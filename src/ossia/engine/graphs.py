"""Decoding as captured CUDA graphs: a step of one token for each sequence is launched as a whole,
so that a GPU does not wait for hundreds of launches.

A graph's tensors stay where they are; a step writes its ids, positions and places into them. It is
captured for a number of rows, of pages a sequence and of pieces of attention, each rounded up to a
power of two; what fills it up belongs to no sequence: rows that write no keys, go to no expert and
are never read, and pieces without rows. So a row computes what it would without a graph.

Captured on no device yet; tests replay the same tensors without capture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.batch import Batch, DevicePages, PageTable
from ossia.engine.kv import DeviceCache, extent, page_table
from ossia.engine.scheduler import Work
from ossia.kernels.triton import paging
from ossia.model import Transformer

MOST_ROWS = 256
Ints = NDArray[np.int32]
Compute = Callable[[], Tensor]
# runs it once or more, and returns its result and what computes it again into the same memory
Capture = Callable[[Compute], tuple[Tensor, Callable[[], None]]]
Key = tuple[int, ...]


def captured(compute: Compute) -> tuple[Tensor, Callable[[], None]]:
    """As a CUDA graph. It is run before, on another stream: kernels are compiled and libraries
    take their memory then, which a capture may not see.
    """
    current = torch.cuda.current_stream()
    side = torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        compute()
        compute()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = compute()
    return result, graph.replay


@dataclass
class _Graph:
    """`numbers`: one tensor on the device, of which all else that changes is views; `host` is
    where it is put together.
    """

    host: Tensor
    numbers: Tensor
    logits: Tensor
    replay: Callable[[], None]


class DecodeGraphs:
    """The graphs of one model and cache, captured as they are first needed."""

    def __init__(self, model: Transformer, cache: DeviceCache, capture: Capture = captured) -> None:
        self.model = model
        self.cache = cache
        self.capture = capture
        self.graphs: dict[Key, _Graph] = {}

    def serve(self, scheduled: Sequence[Work]) -> bool:
        """Whether this step is one of them: a token of every sequence, each wanted."""
        if len(scheduled) > MOST_ROWS:
            return False
        return all(work.count == 1 and work.samples for work in scheduled)

    def logits(self, tokens: Sequence[int], scheduled: Sequence[Work]) -> Tensor:
        """Float32 [R, V], valid until the next call. Calls must be apart: what is copied to the
        device may not be written again before that is done, and reading a token waits for it.
        """
        lengths, starts = extent(scheduled)
        count = len(lengths)
        rows = rounded(count)
        steps = {}
        for window in self.cache.tables.pools:
            table = page_table(self.cache.tables, scheduled, window)
            cut = paging.pieces(lengths, starts, window, self.cache.queries_of(1))
            steps[window] = (table, paging.slots(table, lengths, starts), cut)
        key: list[int] = [rows]
        arrays = [
            _filled(tokens, rows),
            _filled(starts, rows),
            np.array([count], np.int32),
        ]
        for table, slots, cut in steps.values():
            pages = rounded(table.pages_SP.shape[1])
            pieces = rounded(len(cut.pieces_N7))
            key += [pages, pieces]
            arrays += _placed(table, slots, cut, rows, pages, pieces)
        flat = np.concatenate([array.ravel() for array in arrays])
        graph = self.graphs.get(tuple(key))
        if graph is None:
            graph = self._made(flat, [array.shape for array in arrays])
            self.graphs[tuple(key)] = graph
        graph.host.numpy()[:] = flat
        graph.numbers.copy_(graph.host, non_blocking=True)
        graph.replay()
        return graph.logits[:count]

    def _made(self, flat: Ints, shapes: Sequence[tuple[int, ...]]) -> _Graph:
        device = self.cache.device
        host = torch.from_numpy(flat.copy())
        if device.type == "cuda":
            host = host.pin_memory()
        numbers = host.to(device)
        views = []
        begin = 0
        for shape in shapes:
            size = int(np.prod(shape))
            views.append(numbers[begin : begin + size].view(shape))
            begin += size
        tokens_R, positions_R, count, *places = views
        kinds = {}
        for n, window in enumerate(self.cache.tables.pools):
            slots_R, pages_RP, first_R, pieces_N7, merges_R4 = places[5 * n : 5 * n + 5]
            kinds[window] = paging.Placement(
                slots_R,
                pages_RP,
                first_R,
                pieces_N7,
                merges_R4,
                parts=len(pieces_N7),
                queries=self.cache.queries_of(1),
            )
        rows = len(tokens_R)
        ones = (1,) * rows

        def compute() -> Tensor:
            paged = DevicePages(self.cache.layers, kinds, positions_R.long(), count)
            batch = Batch(ones, (0,) * rows, device, paged=paged)
            return self.model(tokens_R.long(), batch).float()  # type: ignore[no-any-return]

        logits, replay = self.capture(compute)
        return _Graph(host, numbers, logits, replay)


def rounded(count: int) -> int:
    """Up to a power of two."""
    return 1 << max(0, count - 1).bit_length()


def _filled(values: Sequence[int], rows: int) -> Ints:
    filled = np.zeros(rows, np.int32)
    filled[: len(values)] = values
    return filled


def _placed(
    table: PageTable, slots: Ints, cut: paging.Pieces, rows: int, pages: int, pieces: int
) -> list[Ints]:
    """Slots, pages, first pages, pieces and merges, filled up."""
    count, width = table.pages_SP.shape
    slots_R = np.full(rows, -1, np.int32)
    slots_R[:count] = slots
    pages_RP = np.full((rows, pages), -1, np.int32)
    pages_RP[:count, :width] = table.pages_SP
    pieces_N7 = np.zeros((pieces, 7), np.int32)
    pieces_N7[: len(cut.pieces_N7)] = cut.pieces_N7
    merges_R4 = np.zeros((rows, 4), np.int32)
    merges_R4[: len(cut.merges_M4)] = cut.merges_M4
    first_R = _filled(table.first_S.tolist(), rows)
    return [
        slots_R,
        pages_RP,
        first_R,
        pieces_N7,
        merges_R4,
    ]
