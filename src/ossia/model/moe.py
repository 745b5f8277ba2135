"""The feed-forward half of a block: the router and the experts, which come in two kinds of leaf.

`PackedExperts` hold MXFP4 as published and are decoded one expert at a time; `TrainableExperts` hold ordinary matrices,
and can be trained as if they were MXFP4 already. The model cannot tell which it has.

T tokens, D hidden, E experts, k chosen per token, F intermediate.
"""

from __future__ import annotations

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
        self.register_buffer("blocks", torch.empty(experts, rows, columns // 32, 16, dtype=torch.uint8))
        self.register_buffer("scales", torch.empty(experts, rows, columns // 32, dtype=torch.uint8))
        self.bias = nn.Parameter(torch.empty(experts, rows), requires_grad=False)

    def matrix(self, expert: int, dtype: torch.dtype) -> Tensor:
        return mxfp4.decode(self.blocks[expert], self.scales[expert], dtype)  # type: ignore[index]


class TrainableExperts(nn.Module):
    """E matrices [rows, columns] in a floating type, with biases.

    With `fake_quantize` the forward sees the nearest MXFP4 values and the gradient goes straight through to the exact
    ones (quantization-aware training).
    """

    def __init__(self, experts: int, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, rows, columns))
        self.bias = nn.Parameter(torch.empty(experts, rows))
        self.fake_quantize = False

    def values(self) -> Tensor:
        """The weights [E, rows, columns] that the forward sees."""
        return mxfp4.fake_quantize(self.weight) if self.fake_quantize else self.weight

    def matrix(self, expert: int, dtype: torch.dtype) -> Tensor:
        weight = self.weight[expert]
        return (mxfp4.fake_quantize(weight) if self.fake_quantize else weight).to(dtype)


class Experts(nn.Module):
    """gate_up and down of all experts of a layer; rows of gate_up are interleaved gate, linear."""

    def __init__(self, experts: int, hidden: int, width: int, kind: ExpertKind) -> None:
        super().__init__()
        leaf = PackedExperts if kind == "packed" else TrainableExperts
        self.gate_up = leaf(experts, 2 * width, hidden)
        self.down = leaf(experts, hidden, width)

    def forward(self, x_TD: Tensor, choice_Tk: Tensor, weight_Tk: Tensor, limit: float) -> Tensor:
        wanted = torch.is_grad_enabled() and (x_TD.requires_grad or self.gate_up.bias.requires_grad)
        if wanted and isinstance(self.gate_up, TrainableExperts) and isinstance(self.down, TrainableExperts):
            tensors = (self.gate_up.values(), self.gate_up.bias), (self.down.values(), self.down.bias)
            return kernels.experts_training(x_TD, choice_Tk, weight_Tk, *tensors, limit)
        matrices = (self.gate_up.matrix, self.gate_up.bias), (self.down.matrix, self.down.bias)
        return kernels.experts(x_TD, choice_Tk, weight_Tk, *matrices, limit)


class Router(nn.Module):
    """Chooses k experts per token: the largest k logits, weighted by a softmax over those k alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.bias = nn.Parameter(torch.empty(config.num_experts))
        self.top_k = config.experts_per_token

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """choice int64 [T, k], weight float32 [T, k], logits float32 [T, E]. In float32: near ties decide much."""
        logits_TE = kernels.linear(x_TD.float(), self.weight, self.bias)
        top_Tk, choice_Tk = logits_TE.topk(self.top_k, dim=-1)
        return choice_Tk, top_Tk.softmax(-1), logits_TE


class Moe(nn.Module):
    """x + experts(norm(x)); on a dense layer (`moe_stride` > 1) one expert that all tokens share, and no router."""

    def __init__(self, config: ModelConfig, layer: int, kind: ExpertKind) -> None:
        super().__init__()
        experts, width = config.expert_shape(layer)
        self.limit = config.swiglu_limit
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.router = Router(config) if config.is_moe(layer) else None
        self.experts = Experts(experts, config.hidden_size, width, kind)

    def forward(self, x_TD: Tensor, batch: Batch, dtype: torch.dtype) -> Tensor:
        t_TD = self.norm(x_TD).to(dtype)
        if self.router is None:
            choice_Tk = torch.zeros(x_TD.shape[0], 1, dtype=torch.int64, device=x_TD.device)
            weight_Tk = torch.ones(x_TD.shape[0], 1, device=x_TD.device)
        else:
            choice_Tk, weight_Tk, logits_TE = self.router(t_TD)
            if batch.router_logits is not None:
                batch.router_logits.append(logits_TE)
        y_TD: Tensor = self.experts(t_TD, choice_Tk, weight_Tk, self.limit)
        return x_TD + y_TD.to(x_TD.dtype)
