"""From scheduled work to tensors and back: the cache describes the batch, the model runs it, in
several processes if it is spread over them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.engine.budget import make_tables
from ossia.engine.device.ahead import Unread
from ossia.engine.device.graphs import DecodeGraphs, Late
from ossia.engine.forward import Forward, forward_of
from ossia.engine.kv import DeviceCache, NativeCache, TorchCache
from ossia.engine.leading import Leading
from ossia.engine.pages import PageCopy, PageTables
from ossia.engine.request import Request, SamplingParams
from ossia.engine.scheduler import Work
from ossia.errors import ConfigError, RequestError
from ossia.kernels import as_in_training, triton, with_same_bits
from ossia.kernels.linear import widened
from ossia.kernels.logprobs import logits_of
from ossia.kernels.transfer import integers
from ossia.kernels.triton import paging
from ossia.model import Transformer
from ossia.model.moe import Experts, PackedExperts


class Runner:
    """A model and its cache; one forward at a time. `exact`: by the kernels of training.
    `same_bits`: on a GPU, a row computes the same bits whatever the batch. `graph_rows`: decode
    there by CUDA graphs, of at most so many sequences; 0: without.
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
        graph_rows: int = 0,
    ) -> None:
        self.model = model
        self.tables = tables
        self.same_bits = same_bits
        self.graphs: DecodeGraphs | None = None
        self.exact = exact
        self.records_experts = records_experts
        self.experts: NDArray[np.int16] | None = None
        self._check_same_bits()
        try:
            self.cache = self._make_cache()
        except torch.OutOfMemoryError as error:
            raise RequestError(
                f"keys and values do not fit into the memory of {model.device} beside what is there"
                f" ({error}): give less (kv_memory, or capacity)",
                "kv_memory",
            ) from error
        # Several processes would have to capture their sums with those of the others.
        can_capture = model.device.type == "cuda" and model.spread is None
        can_capture = can_capture and not_whole(model) is None
        if graph_rows and can_capture and not records_experts and not exact:
            assert isinstance(self.cache, DeviceCache)
            self.graphs = DecodeGraphs(model, self.cache, graph_rows)
        self.leading: Leading | None = None
        if model.spread is not None and model.spread.leads:
            self.leading = Leading(self, tables, model.spread, same_bits)

    def _check_same_bits(self) -> None:
        on_gpu = self.model.device.type == "cuda" or triton.interpreted()
        if not (self.same_bits and (on_gpu or self.model.spread is not None)):
            return
        reason = not_whole(self.model)
        if reason is not None:
            raise ConfigError(f"same_bits needs a GPU's own kernels for the whole model: {reason}")

    def _make_cache(self) -> NativeCache | DeviceCache | TorchCache:
        model = self.model
        if model.compiled:
            return NativeCache(model.config, self.tables, model.kv_kind)
        if not self.exact and on_device(model) is None:
            dtype = widened(torch.empty(0, dtype=model.compute_dtype, device=model.device)).dtype
            return DeviceCache(model.here, self.tables, dtype, model.device, self.same_bits)
        return TorchCache(model.here, self.tables, model.compute_dtype, model.device)

    def copy(self, copies: Sequence[PageCopy]) -> None:
        """Before `run`: copies the pages that are about to be written and that others hold too."""
        if self.leading is None or not copies:
            self.cache.copy(copies)
            return
        with self.leading.copying(copies):
            self.cache.copy(copies)

    def begins_early(self, wanted: bool | None) -> bool:
        """Whether a step is to follow one whose tokens have not been read; None: if `run` comes
        back before the model is done, as by a GPU's own kernels. Not if steps' results are looked
        at, as in exact engines, or other processes are told the tokens.
        """
        if self.exact or self.records_experts or self.model.spread is not None:
            return False
        if wanted is not None:
            return wanted
        return self.model.device.type == "cuda" and isinstance(self.cache, DeviceCache)

    @torch.inference_mode()
    def run(self, scheduled: Sequence[Work], unread: Unread | None = None) -> Tensor:
        """Float32 logits [R, V], on the CPU unless the kernels of a GPU serve. For each sampling
        request, in order: a row after its last known token, and one after each of its drafts.
        `unread`: tokens that are on the device only.
        """
        forward = forward_of(self.tables, scheduled)
        late = None
        if unread is not None:
            late = partial(unread.put, scheduled=scheduled)
        if self.graphs is not None and self.graphs.serve(forward):
            with self._kernels():
                return self.graphs.logits(forward, late)
        hidden_RD = self._together(forward, late)
        if self.exact:
            return logits_of(hidden_RD, self.model.unembedding.weight)
        with self._kernels():
            logits_RV = self.model.unembed(hidden_RD).float()
        return logits_RV if isinstance(self.cache, DeviceCache) else logits_RV.cpu()

    @torch.inference_mode()
    def hidden(self, scheduled: Sequence[Work]) -> Tensor:
        """The input of the unembedding, [T, D] for all of the batch's tokens."""
        return self._together(replace(forward_of(self.tables, scheduled), rows=None))

    def _together(self, forward: Forward, late: Late | None = None) -> Tensor:
        """With the processes beside this one, if there are any."""
        if self.leading is None:
            return self.compute(forward, late)
        assert late is None, "the other processes would not know these tokens"
        with self.leading.computing(forward):
            return self.compute(forward)

    def compute(self, forward: Forward, late: Late | None = None) -> Tensor:
        """The input of the unembedding, [R, D] for the wanted rows; of this process alone. `late`
        puts tokens among those of the batch that the host does not know.
        """
        device = self.model.device
        rows_R = None
        if forward.rows is not None:
            rows_R = integers(forward.rows, device)
        choices: dict[int, Tensor] | None = {} if self.records_experts else None
        batch = self.cache.batch(forward, rows_R, choices)
        ids_T = integers(forward.ids, device)
        if late is not None:
            late(ids_T)
        with self._kernels():
            hidden = self.model.hidden(ids_T, batch)
        if choices is not None:
            self.experts = self._chosen(choices, len(hidden), rows_R)
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

    @contextmanager
    def _kernels(self) -> Iterator[None]:
        with triton.current(self.model.device), self._wanted_kernels():
            yield

    def _wanted_kernels(self) -> AbstractContextManager[None]:
        if self.exact:
            return as_in_training()
        return with_same_bits() if self.same_bits else nullcontext()


def on_device(model: Transformer) -> str | None:
    """Why the kernels of a GPU do not serve a model; None if they do."""
    c = model.here
    reason = triton.why_not(model.device)
    if reason is not None:
        return reason
    return paging.unsupported(c.num_attention_heads, c.num_key_value_heads, c.head_dim)


def not_whole(model: Transformer) -> str | None:
    """Why torch has a part in a model on a GPU, whose sums may depend on the batch and which may
    wait for the host; None if it has none.
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
