"""RMSNorm, a program a row. Bound: reads and writes T*D elements once. A row's sum has one order,
however many rows there are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ossia.kernels.triton.language import launched, tl, triton


def norm_rows(x_TD: Tensor, scale_D: Tensor, eps: float) -> Tensor:
    """x / rms(x) * scale in float32, in the dtype of x."""
    x_TD = x_TD.contiguous()
    width = x_TD.shape[-1]
    out_TD = torch.empty_like(x_TD)
    tile = triton.next_power_of_2(width)
    grid = (x_TD.numel() // width,)
    _norm[grid](x_TD, scale_D, out_TD, eps, width, tile, **launched(4, 1))
    return out_TD


@triton.jit
def _norm(x, scale, out, eps, D, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, TILE)
    inside = d < D
    x_D = tl.load(x + row * D + d, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x_D * x_D, 0) / D
    s_D = tl.load(scale + d, mask=inside, other=0.0).to(tl.float32)
    y_D = x_D * (1.0 / tl.sqrt_rn(mean + eps)) * s_D
    tl.store(out + row * D + d, y_D.to(out.dtype.element_ty), mask=inside)
