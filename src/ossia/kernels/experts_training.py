"""The experts with a backward pass of its own: what training uses instead of autograd through `experts`.

Autograd through a loop over experts adds a full-size gradient per expert, for the tokens and for the weights; written
by hand, each expert's gradients go straight to their place. Bound: 18*T*k*D*F FLOPs forward and backward.

An assignment of weight 0 is not computed at all: it adds nothing, and gives no gradient, not even to its weight. That
is how tokens beyond an expert's capacity are dropped.

T tokens, D hidden, E experts, k chosen per token, F intermediate, n tokens of one expert.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ossia.config import SWIGLU_ALPHA
from ossia.kernels.experts import swiglu

PAD = (
    64  # matrix libraries prepare a bfloat16 product once per shape: few shapes, or preparing costs more than computing
)


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, choice_Tk: Tensor, weight_Tk: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor,
        limit: float,
    ) -> Tensor:  # fmt: skip
        wide = torch.promote_types(x_TD.dtype, torch.float32)
        order, place, counts = _places(choice_Tk.flatten(), weight_Tk.flatten() != 0, w1.shape[0])
        rows = order.new_zeros(sum(counts)).index_copy_(0, place, order // choice_Tk.shape[1])
        weight = torch.zeros(len(rows), 1, dtype=wide, device=x_TD.device)
        weight.index_copy_(0, place, weight_Tk.flatten()[order].to(wide).unsqueeze(1))
        x = x_TD.index_select(0, rows)
        h = x.new_empty(x.shape[0], w1.shape[1])
        y = torch.empty_like(x)
        for e, s in _slices(counts):
            h[s] = F.linear(x[s], w1[e], b1[e])
            y[s] = F.linear(swiglu(h[s], limit), w2[e], b2[e])
        ctx.save_for_backward(x, h, y, rows, order, place, weight, w1, w2)
        ctx.counts, ctx.limit, ctx.weight_like = counts, limit, (weight_Tk.shape, weight_Tk.dtype)
        out = torch.zeros(x_TD.shape, dtype=wide, device=x.device).index_add_(0, rows, y.to(wide) * weight)
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x, h, y, rows, order, place, weight, w1, w2 = ctx.saved_tensors
        g = grad_TD.index_select(0, rows)
        wide, (shape, dtype) = weight.dtype, ctx.weight_like
        d_weight = torch.zeros(shape.numel(), dtype=wide, device=x.device)
        d_weight[order] = (g.to(wide) * y.to(wide)).sum(-1)[place]
        g = (g * weight).to(x.dtype)
        dx = torch.empty_like(x)
        dw1, dw2 = torch.zeros_like(w1), torch.zeros_like(w2)
        db1, db2 = w1.new_zeros(w1.shape[:2]), w2.new_zeros(w2.shape[:2])
        for e, s in _slices(ctx.counts):
            a, da_dh = _swiglu_with_gradient(h[s], ctx.limit)
            dw2[e] = g[s].T @ a
            db2[e] = g[s].sum(0)
            dh = (g[s] @ w2[e]).repeat_interleave(2, dim=1).mul_(da_dh)
            dw1[e] = dh.T @ x[s]
            db1[e] = dh.sum(0)
            dx[s] = dh @ w1[e]
        dx_TD = torch.zeros(grad_TD.shape, dtype=wide, device=x.device).index_add_(0, rows, dx.to(wide))
        return dx_TD.to(x.dtype), None, d_weight.view(shape).to(dtype), dw1, db1, dw2, db2, None


def _places(choice: Tensor, kept: Tensor, experts: int) -> tuple[Tensor, Tensor, list[int]]:
    """The kept assignments sorted by expert, their rows in a table where each expert's part is padded to whole PADs,
    and the sizes of the parts. Padding rows weigh 0."""
    at = kept.nonzero().squeeze(1)
    order = at[torch.argsort(choice[at], stable=True)]
    counts = torch.bincount(choice[at], minlength=experts)
    padded = (counts + PAD - 1) // PAD * PAD
    shift = (padded.cumsum(0) - padded) - (counts.cumsum(0) - counts)
    place = torch.arange(len(order), device=order.device) + shift.repeat_interleave(counts)
    return order, place, padded.tolist()


def _slices(counts: list[int]) -> list[tuple[int, slice]]:
    """(expert, its rows) of those experts that have any."""
    ends = torch.tensor(counts).cumsum(0).tolist()
    return [(e, slice(end - n, end)) for e, (n, end) in enumerate(zip(counts, ends, strict=True)) if n]


def _swiglu_with_gradient(h_nF2: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """swiglu(h) [n, F] and its derivative by each input [n, 2F]; 0 where a clamp holds."""
    wide = h_nF2.to(torch.promote_types(h_nF2.dtype, torch.float32))
    gate_in, up_in = wide[..., 0::2], wide[..., 1::2]
    gate, up = gate_in.clamp(max=limit), up_in.clamp(-limit, limit)
    sigmoid = torch.sigmoid(SWIGLU_ALPHA * gate)
    glu = gate * sigmoid
    d = torch.empty_like(h_nF2)
    d[..., 0::2] = (sigmoid + SWIGLU_ALPHA * glu * (1 - sigmoid)) * (up + 1) * (gate_in <= limit)
    d[..., 1::2] = glu * (up_in.abs() <= limit)
    return (glu * (up + 1)).to(h_nF2.dtype), d


def experts_training(
    x_TD: Tensor, choice_Tk: Tensor, weight_Tk: Tensor, gate_up: tuple[Tensor, Tensor], down: tuple[Tensor, Tensor],
    limit: float,
) -> Tensor:  # fmt: skip
    """As `experts`, differentiable by everything but the choice. `gate_up`, `down`: all weights and biases [E, ...]."""
    tensors = (t.to(x_TD.dtype) for t in (*gate_up, *down))
    return _Experts.apply(x_TD, choice_Tk, weight_Tk, *tensors, limit)  # type: ignore[no-any-return, no-untyped-call]
