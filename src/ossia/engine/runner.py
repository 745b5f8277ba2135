"""From the scheduler's work to tensors and back: builds the Batch, owns the cache, runs the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ossia.batch import Batch, KindSlots, Slots
from ossia.config import ModelConfig
from ossia.engine.pages import PAGE, PageTables, first_seen
from ossia.engine.request import Request, SamplingParams
from ossia.engine.scheduler import Work
from ossia.model import Transformer


def make_tables(config: ModelConfig, capacity: int, max_running: int, max_batch_tokens: int) -> PageTables:
    """Pages for `capacity` tokens of full attention; windows need only what they and the batch in flight can see."""
    pages: dict[int | None, int] = {}
    for window in {config.window(n) for n in range(config.num_hidden_layers)}:
        seen = capacity
        if window is not None:
            seen = min(capacity, max_running * (window + PAGE) + max_batch_tokens)
        # every sequence may leave one page half empty, and a window's run may begin within a page
        pages[window] = seen // PAGE + 2 * max_running
    return PageTables(pages)


class Runner:
    """The cache [slots, K, h] of every layer, and one forward over it. Memory is touched only as pages are used."""

    def __init__(self, model: Transformer, tables: PageTables) -> None:
        c = model.config
        self.model, self.tables = model, tables
        self.windows = [c.window(n) for n in range(c.num_hidden_layers)]
        shapes = [(tables.pools[w].total * PAGE, c.num_key_value_heads, c.head_dim) for w in self.windows]
        dtype, device = model.compute_dtype, model.device
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]

    @torch.inference_mode()
    def run(self, batch: Sequence[Work]) -> Tensor:
        """Float32 logits [R, V] on the CPU, one row for each work that samples, in order."""
        ends = torch.tensor([work.count for work in batch]).cumsum(0) - 1
        rows = ends[torch.tensor([work.samples for work in batch])].to(self.model.device)
        return self.model.unembed(self.hidden(batch, rows)).float().cpu()

    @torch.inference_mode()
    def hidden(self, batch: Sequence[Work], rows: Tensor | None = None) -> Tensor:
        """What the unembedding reads: [R, D] for the given rows of the batch's tokens, or for all."""
        starts = [work.request.computed for work in batch]
        ids = [id for work, p in zip(batch, starts, strict=True) for id in work.request.tokens(p, p + work.count)]
        kinds = {window: self._slots(batch, window) for window in self.tables.pools}
        slots = Slots(self.keys, self.values, kinds)
        counts = tuple(work.count for work in batch)
        device = self.model.device
        model_batch = Batch(counts, tuple(starts), device, output_rows=rows, slots=slots)
        return self.model.hidden(torch.tensor(ids, device=device), model_batch)

    def _slots(self, batch: Sequence[Work], window: int | None) -> KindSlots:
        write: list[int] = []
        read: list[int] = []
        first_kept = []
        for work in batch:
            begin, end = work.request.computed, work.request.computed + work.count
            run = self.tables.run(work.request.id, window)
            first = first_seen(begin, window)
            write += run.slots(begin, end)
            read += run.slots(first, end)
            first_kept.append(first)
        device = self.model.device
        return KindSlots(torch.tensor(write, device=device), torch.tensor(read, device=device), tuple(first_kept))


def hidden_in_chunks(model: Transformer, tokens: Sequence[int], chunks: Sequence[int]) -> Iterator[Tensor]:
    """What the unembedding reads, [n, D] a chunk, with `tokens` fed through a cache of their own in chunks of n."""
    assert sum(chunks) == len(tokens) and min(chunks) > 0
    tables = make_tables(model.config, len(tokens), max_running=1, max_batch_tokens=max(chunks))
    runner = Runner(model, tables)
    request = Request(0, tuple(tokens), SamplingParams(), limit=0)
    for n in chunks:
        tables.grow(request.id, request.computed + n)
        yield runner.hidden([Work(request, n)])
        request.computed += n
        tables.forget_behind_windows(request.id, request.computed)
