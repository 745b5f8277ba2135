"""The experts with frozen matrices and trained low-rank changes: W + s B A, without ever holding
all decoded experts.

The frozen matrices come from a function, one expert at a time, in the forward and again in the
backward pass: of packed experts never more than two decoded matrices exist, where autograd would
keep them all. The change acts on the activations, s (x A^T) B^T. Adding B A to the matrix first
would be the same, but then the backward pass has to make the gradient of the whole matrix, a third
of all FLOPs of training, to get the two small ones. Only where the sum itself matters, because the
forward sees it rounded to MXFP4, is it made (`whole`); the gradients are the same expressions.

Bound: 12*T*k*D*F FLOPs forward and backward, plus 36*T*k*r*(D+F), and two decodings of each chosen
expert.

T tokens, D hidden, E experts, k chosen per token, F intermediate, r rank, n tokens of one expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ossia.kernels.experts import MatrixOf, swiglu
from ossia.kernels.experts_training import _places, _slices
from ossia.kernels.products import product
from ossia.kernels.training import swiglu_with_gradient


@dataclass(frozen=True)
class FrozenMatrices:
    """The frozen part: (expert, dtype) -> matrix [rows, columns], and biases [E, rows].

    `whole`: `matrix` already contains the low-rank change.
    """

    matrix: MatrixOf
    bias: Tensor
    whole: bool = False


@dataclass(frozen=True)
class LowRank:
    """`scale` * b[e] @ a[e] is the change of expert e: a [E, r, columns], b [E, rows, r]."""

    a: Tensor
    b: Tensor
    scale: float

    def delta(self, expert: int) -> Tensor:
        """[rows, columns], in the dtype of the two factors. The one place that says how the sum is
        rounded.
        """
        return (self.b[expert] @ self.a[expert]).mul_(self.scale)


class _Change:
    """One leaf's low-rank factors inside the function: their change, and their gradients."""

    def __init__(
        self, frozen: FrozenMatrices, a: Tensor | None, b: Tensor | None, scale: float
    ) -> None:
        self.frozen = frozen
        self.a = a
        self.b = b
        self.scale = scale

    def apply(self, e: int, x: Tensor) -> Tensor:
        """x W'^T + bias"""
        out = product(x, self.frozen.matrix(e, x.dtype).T, self.frozen.bias[e].to(x.dtype))
        if self.a is not None and self.b is not None and not self.frozen.whole:
            low = product(x, self.a[e].T)
            out.add_(product(low, self.b[e].T), alpha=self.scale)
        return out

    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        if self.a is None or self.b is None:
            return None, None
        return torch.zeros_like(self.a), torch.zeros_like(self.b)

    def backward(
        self, e: int, x: Tensor, g: Tensor, da: Tensor | None, db: Tensor | None
    ) -> Tensor:
        """The gradient by x, from that by the output; the factors' gradients go to their places."""
        dx = g @ self.frozen.matrix(e, g.dtype)
        if self.a is not None and self.b is not None and da is not None and db is not None:
            gb = (g @ self.b[e]) * self.scale
            da[e] = gb.T @ x
            db[e] = (g.T @ (x @ self.a[e].T)) * self.scale
            if not self.frozen.whole:
                dx.addmm_(gb, self.a[e])
        return dx


class _ExpertsLora(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        choice_Tk: Tensor,
        weight_Tk: Tensor,
        a1: Tensor | None,
        b1: Tensor | None,
        a2: Tensor | None,
        b2: Tensor | None,
        gate_up: FrozenMatrices,
        down: FrozenMatrices,
        scales: tuple[float, float],
        limit: float,
    ) -> Tensor:
        first = _Change(gate_up, a1, b1, scales[0])
        second = _Change(down, a2, b2, scales[1])
        wide = torch.promote_types(x_TD.dtype, torch.float32)
        experts, rows1 = gate_up.bias.shape
        order, place, counts = _places(choice_Tk.flatten(), weight_Tk.flatten() != 0, experts)
        rows = order.new_zeros(sum(counts)).index_copy_(0, place, order // choice_Tk.shape[1])
        weight = torch.zeros(len(rows), 1, dtype=wide, device=x_TD.device)
        weight.index_copy_(0, place, weight_Tk.flatten()[order].to(wide).unsqueeze(1))
        x = x_TD.index_select(0, rows)
        h = x.new_empty(x.shape[0], rows1)
        y = torch.empty_like(x)
        for e, s in _slices(counts):
            h[s] = first.apply(e, x[s])
            y[s] = second.apply(e, swiglu(h[s], limit))
        ctx.save_for_backward(x, h, y, rows, order, place, weight, a1, b1, a2, b2)
        ctx.counts = counts
        ctx.limit = limit
        ctx.scales = scales
        ctx.frozen = (gate_up, down)
        ctx.weight_like = weight_Tk.shape, weight_Tk.dtype
        out = torch.zeros(x_TD.shape, dtype=wide, device=x.device)
        out.index_add_(0, rows, y.to(wide) * weight)
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x, h, y, rows, order, place, weight, a1, b1, a2, b2 = ctx.saved_tensors
        gate_up, down = ctx.frozen
        first = _Change(gate_up, a1, b1, ctx.scales[0])
        second = _Change(down, a2, b2, ctx.scales[1])
        g = grad_TD.index_select(0, rows)
        wide = weight.dtype
        shape, dtype = ctx.weight_like
        d_weight = torch.zeros(shape.numel(), dtype=wide, device=x.device)
        d_weight[order] = (g.to(wide) * y.to(wide)).sum(-1)[place]
        g = (g * weight).to(x.dtype)
        dx = torch.empty_like(x)
        da1, db1 = first.gradients()
        da2, db2 = second.gradients()
        for e, s in _slices(ctx.counts):
            a, da_dh = swiglu_with_gradient(h[s], ctx.limit)
            da = second.backward(e, a, g[s], da2, db2)
            dh = da.repeat_interleave(2, dim=1).mul_(da_dh)
            dx[s] = first.backward(e, x[s], dh, da1, db1)
        dx_TD = torch.zeros(grad_TD.shape, dtype=wide, device=x.device)
        dx_TD.index_add_(0, rows, dx.to(wide))
        d_choice_weight = d_weight.view(shape).to(dtype)
        return dx_TD.to(x.dtype), None, d_choice_weight, da1, db1, da2, db2, None, None, None, None


def experts_lora(
    x_TD: Tensor,
    choice_Tk: Tensor,
    weight_Tk: Tensor,
    gate_up: tuple[FrozenMatrices, LowRank | None],
    down: tuple[FrozenMatrices, LowRank | None],
    limit: float,
) -> Tensor:
    """As `experts`, differentiable by x, the weights of the choice and the low-rank factors;
    nothing else is trained.

    None in place of factors leaves a matrix unchanged. Source of the change: arXiv 2106.09685,
    section 4.1.
    """
    factors: list[Tensor | None] = []
    for _, low in (gate_up, down):
        if low is None:
            factors += [None, None]
        else:
            factors += [low.a.to(x_TD.dtype), low.b.to(x_TD.dtype)]
    scales = tuple(1.0 if low is None else low.scale for _, low in (gate_up, down))
    return _ExpertsLora.apply(  # type: ignore[no-any-return, no-untyped-call]
        x_TD, choice_Tk, weight_Tk, *factors, gate_up[0], down[0], scales, limit
    )
