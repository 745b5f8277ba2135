"""Matrix products for training: a @ b, and y = x W^T + b with a backward pass made of such products.

Bound: 2*M*K*N FLOPs a product. torch multiplies float32 matrices with MKL, which uses the wide vectors of Intel's CPUs
alone; oneDNN, which comes with torch as well, uses those of any maker's, and is twice as fast on an AMD CPU with
AVX-512. So float32 products on a CPU go through oneDNN, which sums in float32 as well; everything else is torch.

M, T rows, K summed over, N columns.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SMALLEST = 1 << 18  # multiplications: below, the call costs more than the product


@cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(a_MK: Tensor, b_KN: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """a @ b (+ bias) [M, N], a new tensor, not differentiable. Views that are transposed cost no copy."""
    multiplications = a_MK.shape[0] * a_MK.shape[1] * b_KN.shape[1]
    if a_MK.dtype == torch.float32 and a_MK.device.type == "cpu" and multiplications >= SMALLEST and _has_onednn():
        bias = None if bias_N is None else bias_N.contiguous()  # of a bias the operator sees no strides
        return torch.ops.mkldnn._linear_pointwise(a_MK, b_KN.T, bias, "none", [], "")  # type: ignore[no-any-return]
    return a_MK @ b_KN if bias_N is None else torch.addmm(bias_N, a_MK, b_KN)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_TK, weight_NK)
        return product(x_TK, weight_NK.T, bias_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TN: Tensor) -> tuple[Tensor | None, ...]:
        x_TK, weight_NK = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        dx_TK = product(grad_TN, weight_NK) if wants_x else None
        dw_NK = product(grad_TN.T, x_TK) if wants_weight else None
        return dx_TK, dw_NK, grad_TN.sum(0) if wants_bias else None


def linear_training(x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    """x W^T + b [T, N], differentiable by all three; all of one dtype."""
    return _Linear.apply(x_TK, weight_NK, bias_N)  # type: ignore[no-any-return, no-untyped-call]
