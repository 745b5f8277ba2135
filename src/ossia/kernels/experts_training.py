"""The experts with a backward pass of its own: training uses it instead of autograd through
`experts`.

Autograd through a loop over experts adds a full-size gradient per expert, for the tokens and for
the weights; written by hand, each expert's gradients go straight to their place. Bound: 18*T*k*D*F
FLOPs forward and backward. On a GPU in bfloat16 experts_grouped.py serves.

An assignment of weight 0 is not computed at all: it adds nothing, and gives no gradient, not even
to its weight. That is how tokens beyond an expert's capacity are dropped.

T tokens, D hidden, E experts, k chosen per token, F intermediate, n tokens of one expert.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ossia.kernels import experts_grouped
from ossia.kernels.products import product
from ossia.kernels.training import add_rows, swiglu_backward, swiglu_forward

# Rows. Matrix libraries prepare a product once per shape: with many shapes, preparing would cost
# more than computing.
PAD = 32


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        choice_Tk: Tensor,
        weight_Tk: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        limit: float,
    ) -> Tensor:
        wide = torch.promote_types(x_TD.dtype, torch.float32)
        order, place, counts = _places(choice_Tk.flatten(), weight_Tk.flatten() != 0, w1.shape[0])
        rows = order.new_zeros(sum(counts)).index_copy_(0, place, order // choice_Tk.shape[1])
        weight = torch.zeros(len(rows), dtype=wide, device=x_TD.device)
        weight.index_copy_(0, place, weight_Tk.flatten()[order].to(wide))
        x = x_TD.index_select(0, rows)
        out = torch.zeros(x_TD.shape, dtype=wide, device=x.device)
        hidden = []
        for e, s in _slices(counts):
            h = product(x[s], w1[e].T, b1[e])
            y = product(swiglu_forward(h, limit), w2[e].T, b2[e])
            add_rows(out, rows[s], y, weight[s])
            hidden.append(h)
        ctx.save_for_backward(x, rows, order, place, weight, w1, w2, b2, *hidden)
        ctx.counts = counts
        ctx.limit = limit
        ctx.weight_like = (weight_Tk.shape, weight_Tk.dtype)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x, rows, order, place, weight, w1, w2, b2, *hidden = ctx.saved_tensors
        g = grad_TD.index_select(0, rows)
        wide = weight.dtype
        shape, dtype = ctx.weight_like
        dw1 = torch.zeros_like(w1)
        dw2 = torch.zeros_like(w2)
        db1 = w1.new_zeros(w1.shape[:2])
        db2 = w2.new_zeros(w2.shape[:2])
        d_weight = torch.zeros_like(weight)  # through the features of an output, and its bias
        dx_TD = torch.zeros(grad_TD.shape, dtype=wide, device=x.device)
        for (e, s), h in zip(_slices(ctx.counts), hidden, strict=True):
            dh, a, along = swiglu_backward(h, product(g[s], w2[e]), weight[s], ctx.limit)
            d_weight[s] = along + (g[s] @ b2[e]).to(wide)
            dw2[e] = product(g[s].T, a)
            db2[e] = weight[s].to(g.dtype) @ g[s]
            dw1[e] = product(dh.T, x[s])
            db1[e] = dh.sum(0)
            add_rows(dx_TD, rows[s], product(dh, w1[e]))
        d_choice_weight = torch.zeros(shape.numel(), dtype=wide, device=x.device)
        d_choice_weight[order] = d_weight[place]
        d_weight_Tk = d_choice_weight.view(shape).to(dtype)
        return dx_TD.to(x.dtype), None, d_weight_Tk, dw1, db1, dw2, db2, None


def _places(choice: Tensor, kept: Tensor, experts: int) -> tuple[Tensor, Tensor, list[int]]:
    """The kept assignments sorted by expert, their rows in a table where each expert's part is
    padded to whole PADs, and the sizes of the parts. Padding rows weigh 0.
    """
    at = kept.nonzero().squeeze(1)
    order = at[torch.argsort(choice[at], stable=True)]
    counts = torch.bincount(choice[at], minlength=experts)
    padded = (counts + PAD - 1) // PAD * PAD
    shift = (padded.cumsum(0) - padded) - (counts.cumsum(0) - counts)
    place = torch.arange(len(order), device=order.device) + shift.repeat_interleave(counts)
    return order, place, padded.tolist()


def _slices(counts: list[int]) -> list[tuple[int, slice]]:
    """(expert, its rows) for the experts that have any."""
    slices = []
    end = 0
    for expert, count in enumerate(counts):
        begin = end
        end += count
        if count:
            slices.append((expert, slice(begin, end)))
    return slices


def experts_training(
    x_TD: Tensor,
    choice_Tk: Tensor,
    weight_Tk: Tensor,
    gate_up: tuple[Tensor, Tensor],
    down: tuple[Tensor, Tensor],
    limit: float,
) -> Tensor:
    """As `experts`, differentiable by everything but the choice. `gate_up`, `down`: all weights and
    biases [E, ...].
    """
    if experts_grouped.serves(x_TD):
        return experts_grouped.experts_grouped(x_TD, choice_Tk, weight_Tk, gate_up, down, limit)
    tensors = [t.to(x_TD.dtype) for t in (*gate_up, *down)]
    apply: Any = _Experts.apply
    y_TD: Tensor = apply(x_TD, choice_Tk, weight_Tk, *tensors, limit)
    return y_TD
