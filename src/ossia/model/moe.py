"""The feed-forward half of a block: the router and the experts, which have two kinds of leaf.

`PackedExperts` hold MXFP4 as published and are decoded one expert at a time; `TrainableExperts`
hold ordinary matrices, and can be trained as if they were MXFP4 already. The model cannot tell them
apart, nor from `ChangedExperts`, either kind with an adapter's changes.

T tokens, D hidden, E experts, k chosen per token, F intermediate.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ossia import kernels, mxfp4
from ossia.batch import Batch
from ossia.config import ModelConfig
from ossia.model.common import RMSNorm

ExpertKind = Literal["packed", "trainable"]


class PackedExperts(nn.Module):
    """E matrices [rows, columns] in MXFP4, with biases; not trainable."""

    def __init__(self, experts: int, rows: int, columns: int) -> None:
        super().__init__()
        shape = (experts, rows, columns // 32)
        self.register_buffer("blocks", torch.empty(*shape, 16, dtype=torch.uint8))
        self.register_buffer("scales", torch.empty(*shape, dtype=torch.uint8))
        self.bias = nn.Parameter(torch.empty(experts, rows), requires_grad=False)

    def packed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Blocks, scales, biases."""
        return self.get_buffer("blocks"), self.get_buffer("scales"), self.bias

    def matrix(self, expert: int, dtype: torch.dtype) -> Tensor:
        return mxfp4.decode(self.blocks[expert], self.scales[expert], dtype)  # type: ignore[index]


class TrainableExperts(nn.Module):
    """E matrices [rows, columns] in a floating type, with biases.

    With `fake_quantize` the forward sees the nearest MXFP4 values under that rule for the scale
    (True: the default one), and the gradient goes straight through to the exact ones
    (quantization-aware training).
    """

    def __init__(self, experts: int, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, rows, columns))
        self.bias = nn.Parameter(torch.empty(experts, rows))
        self.fake_quantize: bool | mxfp4.ScaleRule = False

    def values(self) -> Tensor:
        """The weights [E, rows, columns] that the forward sees."""
        return self.seen(self.weight)

    def matrix(self, expert: int, dtype: torch.dtype) -> Tensor:
        return self.seen(self.weight[expert]).to(dtype)

    def seen(self, weight: Tensor) -> Tensor:
        """`weight` as the forward sees it."""
        if not self.fake_quantize:
            return weight
        return mxfp4.fake_quantize(weight, mxfp4.rule_of(self.fake_quantize))


class ChangedExperts(nn.Module):
    """One of the experts' two matrices, packed as in its file, with a low-rank change of each that
    is added at every use: scale * b[e] @ a[e], in float32; a [E, r, columns], b [E, rows, r]. Not
    trainable.
    """

    def __init__(self, base: nn.Module, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.register_buffer("a", a.float())
        self.register_buffer("b", b.float())

    @property
    def bias(self) -> nn.Parameter:
        return self.base.bias  # type: ignore[return-value]

    def matrix(self, expert: int, dtype: torch.dtype) -> Tensor:
        change = self.b[expert] @ self.a[expert]  # type: ignore[index]
        whole = self.base.matrix(expert, torch.float32)  # type: ignore[operator]
        return whole.add(change, alpha=self.scale).to(dtype)  # type: ignore[no-any-return]


class Experts(nn.Module):
    """gate_up and down of all experts of a layer; rows of gate_up are interleaved gate, linear."""

    def __init__(self, experts: int, hidden: int, width: int, kind: ExpertKind) -> None:
        super().__init__()
        leaf = PackedExperts if kind == "packed" else TrainableExperts
        self.gate_up = leaf(experts, 2 * width, hidden)
        self.down = leaf(experts, hidden, width)

    def forward(self, x_TD: Tensor, choice_Tk: Tensor, weight_Tk: Tensor, limit: float) -> Tensor:
        up = self.gate_up
        down = self.down
        is_trained = kernels.in_training(x_TD, up.bias)
        chosen = (x_TD, choice_Tk, weight_Tk)
        if is_trained and isinstance(up, TrainableExperts) and isinstance(down, TrainableExperts):
            first = (up.values(), up.bias)
            second = (down.values(), down.bias)
            return kernels.experts_training(*chosen, first, second, limit)
        if isinstance(up, PackedExperts) and isinstance(down, PackedExperts) and not is_trained:
            y_TD = kernels.packed_experts(*chosen, up.packed(), down.packed(), limit)
            if y_TD is not None:
                return y_TD
        return kernels.experts(*chosen, (up.matrix, up.bias), (down.matrix, down.bias), limit)


class Router(nn.Module):
    """Chooses k experts per token: the largest k logits, weighted by a softmax over those k alone.

    `selection_bias` [E], None unless training sets it, is added to the logits for the choice and
    not for the weights (arXiv 2408.15664). No published layout can hold it, so it is not part of
    the state, and export refuses it.
    """

    selection_bias: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.bias = nn.Parameter(torch.empty(config.num_experts))
        self.top_k = config.experts_per_token
        self.register_buffer("selection_bias", None, persistent=False)

    def forward(
        self, x_TD: Tensor, given_Tk: Tensor | None = None, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """choice int64 [T, k], weight float32 [T, k], logits float32 [T, E]. In float32 at least,
        because rounding decides near ties. `given`: chosen elsewhere, for tokens where it is not
        -1; the weights are this router's own then, too, so it learns (arXiv 2510.11370). `rows`:
        see `kernels.route`.
        """
        if given_Tk is None and self.selection_bias is None:
            routed = kernels.route(x_TD, self.weight, self.bias, self.top_k, rows)
            if routed is not None:
                return routed
        wide = torch.promote_types(x_TD.dtype, torch.float32)
        logits_TE = kernels.linear(x_TD.to(wide), self.weight, self.bias)
        choice_Tk = self.choose(logits_TE)
        if given_Tk is not None:
            choice_Tk = torch.where(given_Tk < 0, choice_Tk, given_Tk)
        weight_Tk = logits_TE.gather(-1, choice_Tk).softmax(-1)
        return choice_Tk, weight_Tk, logits_TE

    def choose(self, logits_TE: Tensor) -> Tensor:
        """int64 [T, k], best first."""
        scores_TE = logits_TE
        if self.selection_bias is not None:
            scores_TE = logits_TE + self.selection_bias
        return scores_TE.topk(self.top_k, dim=-1).indices


def expert_capacity(factor: float, tokens: int, top_k: int, experts: int) -> int:
    """Tokens that an expert takes: `factor` times its even share (arXiv 2101.03961, eq. 3), 4 at
    least.
    """
    return max(4, math.ceil(factor * top_k * tokens / experts))


def within_capacity(choice_Tk: Tensor, capacity: int) -> Tensor:
    """bool [T, k]: which assignments are among the first `capacity` of their expert; earlier tokens
    come first.
    """
    choice = choice_Tk.flatten()
    order = torch.argsort(choice, stable=True)
    counts = torch.bincount(choice)
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(order), device=order.device) - first[choice[order]]
    is_within = torch.empty_like(order, dtype=torch.bool)
    is_within.index_copy_(0, order, rank < capacity)
    return is_within.view_as(choice_Tk)


class Moe(nn.Module):
    """x + experts(norm(x)); on a dense layer (`moe_stride` > 1) one expert that all tokens share,
    and no router.

    With `capacity` (None unless training sets it), and only in training mode, an expert takes at
    most that many times its even share of the batch's tokens; the other tokens pass it by on the
    residual stream. A token's output then depends on the tokens before it in the batch, which is
    why only training may do this.
    """

    def __init__(self, config: ModelConfig, layer: int, kind: ExpertKind) -> None:
        super().__init__()
        experts, width = config.expert_shape(layer)
        self.layer = layer
        self.limit = config.swiglu_limit
        self.capacity: float | None = None
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.router = Router(config) if config.is_moe(layer) else None
        self.experts = Experts(experts, config.hidden_size, width, kind)

    def forward(self, x_TD: Tensor, batch: Batch, dtype: torch.dtype) -> Tensor:
        t_TD = self.norm(x_TD).to(dtype)
        if self.router is None:
            choice_Tk = torch.zeros(x_TD.shape[0], 1, dtype=torch.int64, device=x_TD.device)
            weight_Tk = torch.ones(x_TD.shape[0], 1, device=x_TD.device)
        else:
            choice_Tk, weight_Tk, logits_TE = self._route(t_TD, batch)
            if batch.choices is not None:
                batch.choices[self.layer] = choice_Tk
            if batch.router_logits is not None:
                batch.router_logits[self.layer] = logits_TE
            if self.capacity is not None and self.training:
                tokens, top_k = choice_Tk.shape
                num_experts = self.router.weight.shape[0]
                most = expert_capacity(self.capacity, tokens, top_k, num_experts)
                weight_Tk = weight_Tk * within_capacity(choice_Tk, most)
        y_TD: Tensor = self.experts(t_TD, choice_Tk, weight_Tk, self.limit)
        return x_TD + y_TD.to(x_TD.dtype)

    def _route(self, t_TD: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        assert self.router is not None
        given_Tk = None
        rows = None
        if batch.experts is not None:
            given_Tk = batch.experts[:, self.layer]
        if batch.paged is not None:
            rows = batch.paged.rows
        routed: tuple[Tensor, Tensor, Tensor] = self.router(t_TD, given_Tk, rows)
        return routed
