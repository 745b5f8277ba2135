"""Decoding as captured CUDA graphs: a step of one token for each sequence is launched as a whole,
so that a GPU does not wait for hundreds of launches.

A graph's tensors stay where they are; a step writes its ids, positions and places into them. It is
captured for a number of rows, of pages a sequence and of pieces of attention, each rounded up to a
power of two; what fills it up belongs to no sequence: rows that write no keys, go to no expert and
are never read, and pieces without rows. So a row computes what it would without a graph.

All graphs share one pool of memory, and write their logits to one tensor: only one runs at a time,
and its logits are read before the next. The first to be captured has the most rows there will be,
so that what it leaves in the pool is large enough for those that follow.

Captured on no device yet, so the shared pool is unproven, too; tests replay the same tensors
without capture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.batch import Batch, DevicePages
from ossia.engine.forward import Forward
from ossia.engine.kv import DeviceCache, page_table
from ossia.engine.pages import PageRun
from ossia.errors import ConfigError
from ossia.kernels.transfer import uploaded
from ossia.kernels.triton import paging
from ossia.model import Transformer

MOST_ROWS = 256
MOST_GRAPHS = 64  # each takes some memory of the device; the one not used for longest goes
Ints = NDArray[np.int32]
Compute = Callable[[], object]
# runs it once or more, with memory of a pool, and returns what computes it again
Capture = Callable[[Compute, Any], Callable[[], object]]
Late = Callable[[Tensor], object]
Key = tuple[int, ...]


def captured(compute: Compute, pool: Any) -> Callable[[], object]:
    """As a CUDA graph. It is run before, on another stream: kernels are compiled and libraries
    take their memory then, which a capture may not see. Raises `ConfigError` where it fails.
    """
    current = torch.cuda.current_stream()
    side = torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        compute()
        compute()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        # what other threads ask of the device meanwhile is no part of it, and does not spoil it
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            compute()
    except RuntimeError as error:
        raise ConfigError(
            f"this GPU cannot capture a step as a CUDA graph ({error}): leave graphs out, by "
            "--gpu-steps plain or Engine(graphs=False)"
        ) from error
    return graph.replay


@dataclass
class _Graph:
    """`numbers`: one tensor on the device, of which all else that changes is views; ids of tokens
    come first.
    """

    numbers: Tensor
    replay: Callable[[], object]


@dataclass(frozen=True)
class _Described:
    """`key`: rows, and by kind of layer pages a sequence and pieces."""

    key: Key
    arrays: list[Ints]

    @property
    def flat(self) -> Ints:
        return paging.end_to_end(self.arrays)


class DecodeGraphs:
    """The graphs of one model and cache, captured as they are first needed, for steps of at most
    `most` sequences.
    """

    def __init__(
        self,
        model: Transformer,
        cache: DeviceCache,
        most: int = MOST_ROWS,
        capture: Capture = captured,
    ) -> None:
        self.model = model
        self.cache = cache
        self.capture = capture
        self.graphs: dict[Key, _Graph] = {}
        self.most = rounded(min(most, MOST_ROWS))
        self.pool = None
        if cache.device.type == "cuda":
            self.pool = torch.cuda.graph_pool_handle()
        shape = (self.most, model.config.vocab_size)
        self.logits_RV = torch.empty(shape, device=cache.device)

    def serve(self, forward: Forward) -> bool:
        """Whether this step is one of them: a token of every sequence, each wanted."""
        return len(forward.ids) <= self.most and forward.only_decodes

    def logits(self, forward: Forward, late: Late | None = None) -> Tensor:
        """Float32 [R, V], valid until the next call: what is to be done with them has to be asked
        of the device before. `late` puts tokens among the first numbers that the host does not
        know.
        """
        if not self.graphs:
            self._graph(self._described(self._nothing(), self.most))
        count = len(forward.ids)
        described = self._described(forward, rounded(count))
        graph = self._graph(described)
        graph.numbers.copy_(uploaded(described.flat, self.cache.device))
        if late is not None:
            late(graph.numbers)
        graph.replay()
        return self.logits_RV[:count]

    def _nothing(self) -> Forward:
        """A step of no sequence."""
        return Forward([], (), (), {window: [] for window in self.cache.tables.pools}, [])

    def _described(self, forward: Forward, rows: int) -> _Described:
        """All that changes, filled up to `rows`."""
        lengths = forward.lengths
        starts = forward.starts
        key: list[int] = [rows]
        arrays = [
            np.maximum(_filled(forward.ids, rows), 0),  # those that come late are some token first
            _filled(starts, rows),
            np.array([len(lengths)], np.int32),
        ]
        for window, runs in forward.runs.items():
            placed = _placed(lengths, starts, runs, window, rows, self.cache.queries_of(1))
            key += [placed[1].shape[1], len(placed[3])]
            arrays += placed
        return _Described(tuple(key), arrays)

    def _graph(self, described: _Described) -> _Graph:
        graph = self.graphs.pop(described.key, None)
        if graph is None:
            if len(self.graphs) >= MOST_GRAPHS:
                del self.graphs[next(iter(self.graphs))]
            graph = self._made(described.flat, [array.shape for array in described.arrays])
        self.graphs[described.key] = graph  # the last one used is the last to go
        return graph

    def _made(self, flat: Ints, shapes: Sequence[tuple[int, ...]]) -> _Graph:
        device = self.cache.device
        numbers = uploaded(flat.copy(), device)
        tokens_R, positions_R, count, *places = paging.taken_apart(numbers, shapes)
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

        def compute() -> None:
            paged = DevicePages(self.cache.layers, kinds, positions_R.long(), count)
            batch = Batch(ones, (0,) * rows, device, paged=paged)
            self.logits_RV[:rows].copy_(self.model(tokens_R.long(), batch))

        return _Graph(numbers, self.capture(compute, self.pool))


def rounded(count: int) -> int:
    """Up to a power of two."""
    return 1 << max(0, count - 1).bit_length()


def _filled(values: Sequence[int], rows: int) -> Ints:
    filled = np.zeros(rows, np.int32)
    filled[: len(values)] = values
    return filled


def _placed(
    lengths: Sequence[int],
    starts: Sequence[int],
    runs: Sequence[PageRun],
    window: int | None,
    rows: int,
    queries: int,
) -> list[Ints]:
    """Slots, pages, first pages, pieces and merges in one kind of layer, filled up."""
    slots_R = np.full(rows, -1, np.int32)
    first_R = np.zeros(rows, np.int32)
    pages_RP = np.full((rows, 1), -1, np.int32)
    pieces_N7 = np.zeros((rounded(rows), 7), np.int32)
    merges_R4 = np.zeros((rows, 4), np.int32)
    if lengths:
        count = len(lengths)
        table = page_table(runs)
        cut = paging.pieces(lengths, starts, window, queries)
        slots_R[:count] = paging.slots(table, lengths, starts)
        first_R[:count] = table.first_S
        width = table.pages_SP.shape[1]
        pages_RP = np.full((rows, rounded(width)), -1, np.int32)
        pages_RP[:count, :width] = table.pages_SP
        pieces_N7 = np.zeros((rounded(len(cut.pieces_N7)), 7), np.int32)
        pieces_N7[: len(cut.pieces_N7)] = cut.pieces_N7
        merges_R4[: len(cut.merges_M4)] = cut.merges_M4
    return [
        slots_R,
        pages_RP,
        first_R,
        pieces_N7,
        merges_R4,
    ]
