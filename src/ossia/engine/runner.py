"""From the scheduler's work to tensors and back: has the cache describe the batch, runs the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ossia.engine.budget import make_tables
from ossia.engine.kv import NativeCache, TorchCache
from ossia.engine.pages import PageCopy, PageTables
from ossia.engine.request import Request, SamplingParams
from ossia.engine.scheduler import Work
from ossia.model import Transformer


class Runner:
    """A model and its cache; one forward at a time."""

    def __init__(self, model: Transformer, tables: PageTables) -> None:
        self.model = model
        self.cache = (
            NativeCache(model.config, tables, model.kv_kind)
            if model.compiled
            else TorchCache(model.config, tables, model.compute_dtype, model.device)
        )

    def copy(self, copies: Sequence[PageCopy]) -> None:
        """Before `run`: pages that are about to be written and that others hold too."""
        self.cache.copy(copies)

    @torch.inference_mode()
    def run(self, works: Sequence[Work]) -> Tensor:
        """Float32 logits [R, V] on the CPU: for each work that samples, in order, those of its last
        token and, before it, of the token that each draft follows.
        """
        rows: list[int] = []
        end = 0
        for work in works:
            end += work.count
            if work.samples:
                rows += range(end - 1 - work.drafts, end)
        index = _tensor(rows).to(self.model.device)
        return self.model.unembed(self._hidden(works, index)).float().cpu()

    @torch.inference_mode()
    def hidden(self, works: Sequence[Work], rows: Tensor | None = None) -> Tensor:
        """What the unembedding reads: [R, D] for the given rows of the batch's tokens, or for all."""
        return self._hidden(works, rows)

    def _hidden(self, works: Sequence[Work], rows: Tensor | None) -> Tensor:
        ids: list[int] = []
        for work in works:
            begin, known = work.request.computed, work.count - work.drafts
            ids += work.request.tokens(begin, begin + known) + work.request.draft[: work.drafts]
        return self.model.hidden(_tensor(ids).to(self.model.device), self.cache.batch(works, rows))


def _tensor(numbers: Sequence[int]) -> Tensor:
    """int64; by way of numpy, which is far quicker than torch.tensor on a list."""
    return torch.from_numpy(np.array(numbers, dtype=np.int64))


def hidden_in_chunks(
    model: Transformer, tokens: Sequence[int], chunks: Sequence[int]
) -> Iterator[Tensor]:
    """What the unembedding reads, [n, D] a chunk, with `tokens` fed through a cache of their own in
    chunks of n.
    """
    assert sum(chunks) == len(tokens) and min(chunks) > 0
    tables = make_tables(
        model.config, len(tokens), max_running=1, max_batch_tokens=max(chunks), snapshots=False
    )
    runner = Runner(model, tables)
    request = Request(0, tuple(tokens), SamplingParams(), limit=0)
    for n in chunks:
        tables.grow(request.id, request.computed, request.computed + n)
        yield runner.hidden([Work(request, n)])
        request.computed += n
        tables.forget_behind_windows(request.id, request.computed)
