"""The leaves of a Transformer that call compiled kernels, with the inputs and outputs of torch's.

`make_native` puts them in place of the torch leaves of a loaded model; `Transformer.forward` stays
the one forward. All blocks become one module and one call, which adds to the residual stream in
place. Weights are read from where they are (the mapped file) until `promotion.py` has packed them.

Knows the C structures of kernels/cpu, but neither files nor caches beyond the batch's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossia.batch import Batch, Pages, PageTable
from ossia.config import PAGE, ModelConfig
from ossia.kernels import cpu
from ossia.kernels.cpu.memory import drop_resident
from ossia.model.common import Linear, RMSNorm
from ossia.model.moe import Moe, PackedExperts
from ossia.model.transformer import Attention, Block, Transformer

Dense = Literal["bf16", "int8"]
Activations = Literal["bf16", "int8"]
Kv = Literal["bf16", "int8"]


@dataclass(frozen=True)
class Precision:
    """The number formats of the compiled kernels.

    `dense`: attention and unembedding, from bfloat16 weights as published ("bf16": exact products,
    float32 sums), or from weights and activations of 8 bits in blocks ("int8"). `activations`: the
    factors of the experts' MXFP4 weights, bfloat16 (exact products) or 8 bits in blocks of 32.
    `kv`: keys and values in the cache, bfloat16 or 8 bits with a scale for every position and head.
    """

    dense: Dense = "bf16"
    activations: Activations = "bf16"
    kv: Kv = "bf16"


def make_native(
    model: Transformer,
    precision: Precision,
    mapped: Callable[[Tensor], bool] = lambda tensor: False,
) -> list[cpu.Packable]:
    """Swap the leaves of `model`, which must have packed experts and be on the CPU. Returns the
    weights that can be packed, in the order in which a forward reads them. `mapped`: whether a
    tensor is a view of a mapped file.
    """
    assert unsupported(model.config) is None
    config = model.config
    packables: list[cpu.Packable] = []
    halves: list[tuple[cpu.Attention, cpu.Moe]] = []
    for block in model.layers:
        assert isinstance(block, Block)
        dense = _dense(block.attn, precision)
        experts = _experts(block.moe)
        attention = _attention(block.attn, dense, config)
        moe = _moe(block.moe, experts, config, precision)
        halves.append((attention, moe))
        packables += [*dense, *experts]
    model.layers = nn.ModuleList([NativeLayers(halves, config, precision.kv)])
    unembedding = NativeLinear(model.unembedding, precision)
    model.unembedding = unembedding  # type: ignore[assignment]
    model.norm = NativeNorm(model.norm)  # type: ignore[assignment]
    if mapped(model.embedding.weight):
        model.embedding = MappedEmbedding(model.embedding.weight)  # type: ignore[assignment]
    model.compute_dtype = torch.bfloat16
    model.residual_dtype = torch.float32
    model.compiled = True
    model.kv_kind = precision.kv
    return [*packables, *unembedding.packables]


def first_logits(model: Transformer) -> threading.Event:
    """Set once a native model has answered."""
    assert isinstance(model.unembedding, NativeLinear)
    return model.unembedding.used


def unsupported(config: ModelConfig) -> str | None:
    """Why the compiled kernels cannot serve a model of this shape; None if they can."""
    if config.head_dim % 16 or config.head_dim > cpu.MAX_HEAD_DIM:
        return f"head_dim {config.head_dim} is not a multiple of 16 up to {cpu.MAX_HEAD_DIM}"
    if config.hidden_size % 32:
        return f"hidden_size {config.hidden_size} is not a multiple of 32"
    return None


class MappedEmbedding(nn.Module):
    """Rows of a table that stays in its file. Looking one up makes its neighbours resident too, up
    to a megabyte of them; so all are dropped now and then, and the table never takes much memory.
    """

    EVERY = 64  # rows

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.looked_up = 0

    def forward(self, tokens_T: Tensor) -> Tensor:
        return torch.cat([self._rows(part_T) for part_T in tokens_T.split(self.EVERY)])

    def _rows(self, tokens_T: Tensor) -> Tensor:
        x_TD = F.embedding(tokens_T, self.weight)
        self.looked_up += len(tokens_T)
        if self.looked_up >= self.EVERY:
            drop_resident(self.weight)
            self.looked_up = 0
        return x_TD


class NativeNorm(nn.Module):
    """RMSNorm of float32 rows, rounded to bfloat16."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.scale = nn.Parameter(cpu.own(norm.scale), requires_grad=False)
        self.eps = norm.eps

    def forward(self, x_TD: Tensor) -> Tensor:
        return cpu.rms_norm(x_TD, self.scale, self.eps)


class NativeLinear(nn.Module):
    """y = x W^T + b, float32 from bfloat16. `used` is set once it has been."""

    def __init__(self, linear: Linear, precision: Precision) -> None:
        super().__init__()
        self.weight = cpu.Dense(linear.weight, linear.bias, precision.dense)
        self.packables = [self.weight]
        self.used = threading.Event()

    def forward(self, x_TK: Tensor) -> Tensor:
        y_TN = self.weight(x_TK)
        self.used.set()
        return y_TN


class NativeLayers(nn.Module):
    """All blocks, in one call. Adds to `x_TD` in place and returns it."""

    def __init__(
        self, halves: list[tuple[cpu.Attention, cpu.Moe]], config: ModelConfig, kv_kind: str
    ) -> None:
        super().__init__()
        self.run = cpu.Layers(halves)
        self.config = config
        self.kv_kind = kv_kind

    def forward(
        self, x_TD: Tensor, batch: Batch, rope: tuple[Tensor, Tensor], dtype: torch.dtype
    ) -> Tensor:
        assert batch.router_logits is None, (
            "the compiled kernels keep no router logits; training uses torch's"
        )
        assert batch.experts is None, "the compiled kernels follow their own routers"
        pages = batch.pages or _own_pages(batch, self.config, self.kv_kind)
        step = cpu.Step(batch.lengths, batch.starts, pages, rope)
        if batch.choices is None:
            self.run(x_TD, step, pages.layers)
        else:
            self.run.one_by_one(x_TD, step, pages.layers, batch.choices)
        return x_TD


def _dense(attention: Attention, precision: Precision) -> list[cpu.Dense]:
    """q, k, v, out."""
    parts = (attention.q, attention.k, attention.v, attention.out)
    return [cpu.Dense(part.weight, part.bias, precision.dense) for part in parts]


def _attention(attention: Attention, dense: list[cpu.Dense], c: ModelConfig) -> cpu.Attention:
    sinks: Tensor | None = None
    if c.attention_sink == "learned":
        sinks = attention.sinks
    elif c.attention_sink != "none":
        sinks = torch.zeros(c.num_attention_heads)
    return cpu.Attention(
        dense,
        attention.norm.scale,
        sinks,
        c.rms_norm_eps,
        c.head_dim**-0.5,
        c.head_dim,
        attention.window,
    )


def _experts(moe: Moe) -> list[cpu.Experts]:
    """gate_up, whose rows are interleaved, and down."""
    made = []
    for experts, interleaved in ((moe.experts.gate_up, True), (moe.experts.down, False)):
        assert isinstance(experts, PackedExperts)
        blocks = experts.get_buffer("blocks")
        scales = experts.get_buffer("scales")
        made.append(cpu.Experts(blocks, scales, experts.bias, interleaved))
    return made


def _moe(
    moe: Moe, experts: list[cpu.Experts], config: ModelConfig, precision: Precision
) -> cpu.Moe:
    router = None
    top_k = 1
    if moe.router is not None:
        router = (moe.router.weight, moe.router.bias)
        top_k = moe.router.top_k
    return cpu.Moe(
        experts,
        moe.norm.scale,
        router,
        config.rms_norm_eps,
        moe.limit,
        top_k,
        precision.activations,
    )


def _own_pages(batch: Batch, config: ModelConfig, kind: str) -> Pages:
    """A cache for sequences that begin here and are not continued. One layer's memory is enough for
    all: each layer is done with it before the next one writes.
    """
    assert batch.slots is None
    assert not any(batch.starts)
    counts = [(n + PAGE - 1) // PAGE for n in batch.lengths]
    pages_SP = np.full((len(counts), max(counts)), -1, dtype=np.int32)
    begin = 0
    for s, count in enumerate(counts):
        pages_SP[s, :count] = np.arange(begin, begin + count)
        begin += count
    table = PageTable(pages_SP, np.zeros(len(counts), dtype=np.int32))
    windows = {config.window(n) for n in range(config.num_hidden_layers)}
    memory = cpu.KvLayer(sum(counts), config.num_key_value_heads, config.head_dim, kind)
    return Pages(cpu.KvLayers([memory] * config.num_hidden_layers), dict.fromkeys(windows, table))
