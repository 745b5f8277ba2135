"""gpt-oss: embedding, blocks of attention and mixture of experts, norm, unembedding. One forward
for every use.

`forward(tokens_T, batch)` takes T tokens of any number of sequences end to end; everything that
tells training, prefill and decode apart is in the batch. Does not know files, sampling or text.

Weights keep the dtype in which they are stored; each use converts them. The factors of weights,
keys and values are in `compute_dtype`; `residual_dtype` is that of the stream between blocks,
float32 except in experiments.

T tokens, D hidden, H query heads, K key-value heads, h head width, V vocabulary, R rows whose
logits are wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ossia import kernels
from ossia.batch import Batch
from ossia.config import ModelConfig
from ossia.model.common import Linear, RMSNorm
from ossia.model.moe import ExpertKind, Moe
from ossia.model.rope import cos_sin
from ossia.mxfp4 import RoundingError

if TYPE_CHECKING:
    from ossia.model.processes import Spread


class Attention(nn.Module):
    """x + out(attention(norm(x))): grouped-query, rotary, windowed on sliding layers, with a sink
    per query head.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        c = config
        self.layer = layer
        self.window = c.window(layer)
        self.head_dim = c.head_dim
        self.sink_kind = c.attention_sink
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.q = Linear(c.hidden_size, c.q_dim)
        self.k = Linear(c.hidden_size, c.kv_dim)
        self.v = Linear(c.hidden_size, c.kv_dim)
        self.out = Linear(c.q_dim, c.hidden_size)
        if c.attention_sink == "learned":
            self.sinks = nn.Parameter(torch.empty(c.num_attention_heads))

    def forward(
        self, x_TD: Tensor, batch: Batch, rope: tuple[Tensor, Tensor], dtype: torch.dtype
    ) -> Tensor:
        attend = self._over_rows if batch.paged is None else self._over_pages
        y_TD: Tensor = self.out(attend(x_TD, batch, rope, dtype).flatten(1))
        return x_TD + y_TD.to(x_TD.dtype)

    def _over_rows(
        self, x_TD: Tensor, batch: Batch, rope: tuple[Tensor, Tensor], dtype: torch.dtype
    ) -> Tensor:
        """[T, H, h], with all keys that the batch sees end to end."""
        q_THh, k_TKh, v_TKh = self._projected(x_TD, dtype)
        q_THh = kernels.rotate(q_THh, *rope).to(dtype)
        k_TKh = kernels.rotate(k_TKh, *rope).to(dtype)
        v_TKh = v_TKh.to(dtype)
        k_NKh, v_NKh = batch.remember(self.layer, self.window, k_TKh, v_TKh)
        shared_N = batch.shared_rows(self.window)
        if shared_N is not None:
            k_NKh = kernels.take_rows(k_NKh, shared_N)
            v_NKh = kernels.take_rows(v_NKh, shared_N)
        spans = batch.spans(self.window)
        attend = kernels.attention
        if kernels.in_training(q_THh):
            attend = kernels.attention_training
        return attend(q_THh, k_NKh, v_NKh, spans, self._sink(q_THh), self.head_dim**-0.5)

    def _over_pages(
        self, x_TD: Tensor, batch: Batch, rope: tuple[Tensor, Tensor], dtype: torch.dtype
    ) -> Tensor:
        """[T, H, h], with keys and values where they lie in a cache on a GPU."""
        assert batch.paged is not None
        projected = self._projected(x_TD, dtype)
        memory = batch.paged.layers[self.layer]
        placed = batch.paged.kinds[self.window]
        sink_H = self._sink(projected[0])
        scale = self.head_dim**-0.5
        return kernels.attend_pages(*projected, rope, memory, placed, sink_H, self.window, scale)

    def _projected(self, x_TD: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [T, H, h], keys and values [T, K, h], not rotated."""
        t_TD = self.norm(x_TD).to(dtype)
        q_THh = self._heads(self.q(t_TD))
        k_TKh = self._heads(self.k(t_TD))
        v_TKh = self._heads(self.v(t_TD))
        return q_THh, k_TKh, v_TKh

    def _heads(self, x_TN: Tensor) -> Tensor:
        """[T, heads, h]"""
        x_THh: Tensor = x_TN.unflatten(-1, (-1, self.head_dim))
        return x_THh

    def _sink(self, q_THh: Tensor) -> Tensor | None:
        if self.sink_kind == "none":
            return None
        if self.sink_kind == "learned":
            return self.sinks
        return q_THh.new_zeros(q_THh.shape[1])


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int, experts: ExpertKind) -> None:
        super().__init__()
        self.attn = Attention(config, layer)
        self.moe = Moe(config, layer, experts)

    def forward(
        self, x_TD: Tensor, batch: Batch, rope: tuple[Tensor, Tensor], dtype: torch.dtype
    ) -> Tensor:
        x_TD = self.attn(x_TD, batch, rope, dtype)
        x_TD = self.moe(x_TD, batch, dtype)
        return x_TD


class Transformer(nn.Module):
    """The model. `experts`: the kind of leaf, "packed" MXFP4 as published, or "trainable"."""

    def __init__(self, config: ModelConfig, experts: ExpertKind = "trainable") -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.residual_dtype = torch.float32
        # Whether native.py has swapped the leaves; a cache then has to be in pages.
        self.compiled = False
        # Where the model is spread over several processes (spread.py): this one's place among them,
        # and a config with as many heads as it has.
        self.spread: Spread | None = None
        self.here = config
        # What rounding the experts to MXFP4 cost, where loading did that.
        self.rounding: RoundingError | None = None
        self.kv_kind = "float32"  # the values of a cache for this model: "float32", "bf16", "int8"
        # The embedding is given its weight, so that torch does not draw one first.
        table = torch.empty(config.vocab_size, config.hidden_size)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size, _weight=table)
        self.layers = nn.ModuleList(
            Block(config, n, experts) for n in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.unembedding = Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, tokens_T: Tensor, batch: Batch) -> Tensor:
        """Logits [R, V] of the batch's output rows, in the compute dtype."""
        return self.unembed(self.hidden(tokens_T, batch))

    def hidden(self, tokens_T: Tensor, batch: Batch) -> Tensor:
        """The input of the unembedding: the output rows [R, D] after the last norm."""
        assert tokens_T.shape == (batch.num_tokens,), (tokens_T.shape, batch.num_tokens)
        rope = cos_sin(self.config, batch.positions())
        x_TD = self.embedding(tokens_T).to(self.residual_dtype)
        for layer in self.layers:
            x_TD = layer(x_TD, batch, rope, self.compute_dtype)
        if batch.output_rows is not None:
            x_TD = x_TD.index_select(0, batch.output_rows)
        return self.norm(x_TD).to(self.compute_dtype)  # type: ignore[no-any-return]

    def unembed(self, x_RD: Tensor) -> Tensor:
        """[R, V] from the output of `hidden`."""
        return self.unembedding(x_RD)  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        return self.norm.scale.device

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Fresh weights for training: normal with 1/sqrt(fan in), the ends of residual branches
        scaled down by depth, the router by 10 (Switch Transformers, arXiv 2101.03961, sec. 2.4),
        sinks, biases 0, scales 1.
        """
        rng = torch.Generator(device=self.device).manual_seed(seed)
        for name, p in self.named_parameters():
            self.init_weight(name, p, rng)

    @torch.no_grad()
    def init_weight(self, name: str, p: Tensor, rng: torch.Generator) -> None:
        """Fill `p` as the parameter `name` of a fresh model. `rng` gives other numbers if the
        parameters come in another order.
        """
        if name.endswith(("bias", "sinks")):
            p.zero_()
        elif name.endswith("scale"):
            p.fill_(1)
        else:
            std = 1.0 if name.startswith("embedding") else p.shape[-1] ** -0.5
            if ".attn.out." in name or ".experts.down." in name:
                std *= (2 * self.config.num_hidden_layers) ** -0.5
            if ".router." in name:
                std *= 0.1
            p.normal_(0, std, generator=rng)
