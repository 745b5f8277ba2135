"""The experts of training on a GPU: tokens sorted by expert, and torch's grouped matrix products,
one launch for all experts.

Bound: 18*T*k*D*F FLOPs forward and backward. Sums in float32, in no fixed order: rows are added up
as they come.

T tokens, D hidden, E experts, k chosen per token, F intermediate, n rows, each for one expert.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ossia.kernels.choice import trains_as_on_gpu
from ossia.kernels.experts import swiglu
from ossia.kernels.training import swiglu_with_gradient

Matrices = tuple[Tensor, Tensor]  # weights and biases of all experts


def serves(x_TD: Tensor) -> bool:
    """On a GPU in bfloat16: there are no fast ones in float32."""
    if not trains_as_on_gpu(x_TD.device):
        return False
    return x_TD.dtype == torch.bfloat16 or x_TD.device.type == "cpu"


def experts_grouped(
    x_TD: Tensor,
    choice_Tk: Tensor,
    weight_Tk: Tensor,
    gate_up: Matrices,
    down: Matrices,
    limit: float,
) -> Tensor:
    """As `experts_training`."""
    wide = torch.promote_types(x_TD.dtype, torch.float32)
    weight = weight_Tk.flatten()
    kept = (weight != 0).nonzero().squeeze(1)
    token = kept // choice_Tk.shape[1]
    expert = choice_Tk.flatten()[kept]
    y_nD = rows_grouped(x_TD.index_select(0, token), expert, gate_up, down, limit)
    weighted_nD = y_nD.to(wide) * weight[kept].to(wide).unsqueeze(1)
    y_TD = torch.zeros(x_TD.shape, dtype=wide, device=x_TD.device)
    return y_TD.index_add(0, token, weighted_nD).to(x_TD.dtype)


def rows_grouped(
    x_nD: Tensor, expert_n: Tensor, gate_up: Matrices, down: Matrices, limit: float
) -> Tensor:
    """W2 swiglu(W1 x + b1) + b2 of every row, by its expert; differentiable, in the dtype of x.

    One row for expert 0 is added and dropped again: the backward pass of the products refuses
    tensors without rows.
    """
    w1, b1, w2, b2 = (x.to(x_nD.dtype) for x in (*gate_up, *down))
    x_nD = torch.cat([x_nD.new_zeros(1, x_nD.shape[1]), x_nD])
    expert_n = torch.cat([expert_n.new_zeros(1), expert_n])
    order = torch.argsort(expert_n, stable=True)
    expert = expert_n[order]
    ends = torch.bincount(expert, minlength=len(w1)).cumsum(0).to(torch.int32)
    h = F.grouped_mm(x_nD[order], w1.mT, offs=ends) + b1[expert]
    act: Any = _Swiglu.apply
    y = F.grouped_mm(act(h, limit), w2.mT, offs=ends) + b2[expert]
    return torch.zeros_like(y).index_copy(0, order, y)[1:]


class _Swiglu(torch.autograd.Function):
    """Keeps its input alone, where autograd would keep several of its size."""

    @staticmethod
    def forward(ctx: Any, h_nF2: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(h_nF2)
        ctx.limit = limit
        return swiglu(h_nF2, limit)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, da_nF: Tensor) -> tuple[Tensor | None, ...]:
        (h_nF2,) = ctx.saved_tensors
        slope_nF2 = swiglu_with_gradient(h_nF2, ctx.limit)[1]
        return slope_nF2.mul_(da_nF.repeat_interleave(2, dim=1)), None
