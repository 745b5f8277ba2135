"""From scheduled work to tensors and back: the cache describes the batch, the model runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.engine.budget import make_tables
from ossia.engine.graphs import DecodeGraphs
from ossia.engine.kv import DeviceCache, NativeCache, TorchCache
from ossia.engine.pages import PageCopy, PageTables
from ossia.engine.request import Request, SamplingParams
from ossia.engine.scheduler import Work
from ossia.errors import ConfigError
from ossia.kernels import as_in_training, triton, with_same_bits
from ossia.kernels.linear import widened
from ossia.kernels.logprobs import logits_of
from ossia.kernels.triton import paging
from ossia.model import Transformer
from ossia.model.moe import Experts, PackedExperts


class Runner:
    """A model and its cache; one forward at a time. `exact`: by the kernels of training.
    `same_bits`: on a GPU, a row computes the same bits whatever the batch. `graphs`: decode there
    by CUDA graphs.
    `records_experts`: `experts` then holds, int16 [R, L, k], where the tokens of the last run's
    rows went; -1 in layers without a router.
    """

    def __init__(
        self,
        model: Transformer,
        tables: PageTables,
        exact: bool = False,
        records_experts: bool = False,
        same_bits: bool = False,
        graphs: bool = True,
    ) -> None:
        self.model = model
        self.same_bits = same_bits
        self.graphs: DecodeGraphs | None = None
        self.exact = exact
        self.records_experts = records_experts
        self.experts: NDArray[np.int16] | None = None
        config = model.config
        if same_bits and (model.device.type == "cuda" or triton.interpreted()):
            reason = not_whole(model)
            if reason is not None:
                raise ConfigError(
                    f"same_bits needs a GPU's own kernels for the whole model: {reason}"
                )
        self.cache: NativeCache | DeviceCache | TorchCache
        if model.compiled:
            self.cache = NativeCache(config, tables, model.kv_kind)
        elif not exact and on_device(model) is None:
            dtype = widened(torch.empty(0, dtype=model.compute_dtype, device=model.device)).dtype
            self.cache = DeviceCache(config, tables, dtype, model.device, same_bits)
            on_gpu = model.device.type == "cuda"
            if graphs and on_gpu and not records_experts and not_whole(model) is None:
                self.graphs = DecodeGraphs(model, self.cache)
        else:
            self.cache = TorchCache(config, tables, model.compute_dtype, model.device)

    def copy(self, copies: Sequence[PageCopy]) -> None:
        """Before `run`: copies the pages that are about to be written and that others hold too."""
        self.cache.copy(copies)

    @torch.inference_mode()
    def run(self, scheduled: Sequence[Work]) -> Tensor:
        """Float32 logits [R, V], on the CPU unless the kernels of a GPU serve. For each sampling
        request, in order: a row after its last known token, and one after each of its drafts.
        """
        if self.graphs is not None and self.graphs.serve(scheduled):
            with self._kernels():
                return self.graphs.logits(_ids(scheduled), scheduled)
        rows: list[int] = []
        end = 0
        for work in scheduled:
            end += work.count
            if work.samples:
                rows += range(end - 1 - work.drafts, end)
        rows_R = _tensor(rows).to(self.model.device)
        hidden_RD = self._hidden(scheduled, rows_R)
        if self.exact:
            return logits_of(hidden_RD, self.model.unembedding.weight)
        with self._kernels():
            logits_RV = self.model.unembed(hidden_RD).float()
        return logits_RV if isinstance(self.cache, DeviceCache) else logits_RV.cpu()

    @torch.inference_mode()
    def hidden(self, scheduled: Sequence[Work], rows: Tensor | None = None) -> Tensor:
        """The input of the unembedding: [R, D] for these rows of the batch's tokens, or for all."""
        return self._hidden(scheduled, rows)

    def _hidden(self, scheduled: Sequence[Work], rows: Tensor | None) -> Tensor:
        tokens_T = _tensor(_ids(scheduled)).to(self.model.device)
        choices: dict[int, Tensor] | None = {} if self.records_experts else None
        batch = self.cache.batch(scheduled, rows, choices)
        with self._kernels():
            hidden = self.model.hidden(tokens_T, batch)
        if choices is not None:
            self.experts = self._chosen(choices, len(hidden), rows)
        return hidden

    def _chosen(
        self, choices: Mapping[int, Tensor], count: int, rows_R: Tensor | None
    ) -> NDArray[np.int16]:
        c = self.model.config
        found = np.full((count, c.num_hidden_layers, c.experts_per_token), -1, np.int16)
        for layer, choice_Tk in choices.items():
            if rows_R is not None:
                choice_Tk = choice_Tk[rows_R]
            found[:, layer] = choice_Tk.numpy(force=True)
        return found

    def _kernels(self) -> AbstractContextManager[None]:
        if self.exact:
            return as_in_training()
        return with_same_bits() if self.same_bits else nullcontext()


def _ids(scheduled: Sequence[Work]) -> list[int]:
    """The tokens of a step, end to end."""
    ids: list[int] = []
    for work in scheduled:
        request = work.request
        end = request.computed + work.count - work.drafts
        ids += request.tokens(request.computed, end)
        ids += request.draft[: work.drafts]
    return ids


def on_device(model: Transformer) -> str | None:
    """Why the kernels of a GPU do not serve a model; None if they do."""
    c = model.config
    reason = triton.why_not(model.device)
    if reason is not None:
        return reason
    return paging.unsupported(c.num_attention_heads, c.num_key_value_heads, c.head_dim)


def not_whole(model: Transformer) -> str | None:
    """Why torch has a part in a model on a GPU, whose sums may depend on the batch and which may
    wait for the host; None if it has not.
    """
    reason = on_device(model)
    if reason is not None:
        return reason
    leaves = [
        leaf
        for module in model.modules()
        if isinstance(module, Experts)
        for leaf in (module.gate_up, module.down)
    ]
    if not all(isinstance(leaf, PackedExperts) for leaf in leaves):
        return (
            "its experts are not in MXFP4, or an adapter changes them; --experts mxfp4 rounds them"
        )
    return None


def _tensor(numbers: Sequence[int]) -> Tensor:
    """int64; through numpy, which is far faster than torch.tensor on a list."""
    return torch.from_numpy(np.array(numbers, dtype=np.int64))


def hidden_in_chunks(
    model: Transformer, tokens: Sequence[int], chunks: Sequence[int], exact: bool = False
) -> Iterator[Tensor]:
    """The input of the unembedding, [n, D] for each chunk of n `tokens`. They have a cache of their
    own. `exact`: by the kernels of training.
    """
    for _, hidden_nD in _runs(model, tokens, chunks, exact, False):
        yield hidden_nD


def experts_in_chunks(
    model: Transformer, tokens: Sequence[int], chunks: Sequence[int], exact: bool = False
) -> Iterator[NDArray[np.int16]]:
    """Where the `tokens` go, [n, L, k] for each chunk of n; as `hidden_in_chunks`."""
    for runner, _ in _runs(model, tokens, chunks, exact, True):
        assert runner.experts is not None
        yield runner.experts


def _runs(
    model: Transformer,
    tokens: Sequence[int],
    chunks: Sequence[int],
    exact: bool,
    records_experts: bool,
) -> Iterator[tuple[Runner, Tensor]]:
    assert sum(chunks) == len(tokens)
    assert min(chunks) > 0
    tables = make_tables(
        model.config, len(tokens), max_running=1, max_batch_tokens=max(chunks), snapshots=False
    )
    runner = Runner(model, tables, exact, records_experts)
    request = Request(0, tuple(tokens), SamplingParams(), limit=0)
    for n in chunks:
        tables.grow(request.id, request.computed, request.computed + n)
        yield runner, runner.hidden([Work(request, n)])
        request.computed += n
        tables.forget_behind_windows(request.id, request.computed)
