"""RMSNorm. Bound: reads and writes T*D elements once."""

from __future__ import annotations

import torch
from torch import Tensor

from ossia.kernels import triton
from ossia.kernels.choice import in_training
from ossia.kernels.training import norm_training


def rms_norm(x_TD: Tensor, scale_D: Tensor, eps: float) -> Tensor:
    """x / rms(x) * scale, in float32 at least and cast last (Llama casts before the scale; gpt-oss
    does not).
    """
    if in_training(x_TD):
        # a frozen scale may be stored in bfloat16, which the compiled norm does not read
        trained = norm_training(x_TD, scale_D.to(x_TD.dtype), eps)
        if trained is not None:
            return trained
    if triton.serves(x_TD, scale_D):
        from ossia.kernels.triton.norm import norm_rows

        return norm_rows(x_TD, scale_D, eps)
    wide = torch.promote_types(x_TD.dtype, torch.float32)
    t_TD = x_TD.to(wide)
    mean_square_T1 = t_TD.square().mean(-1, keepdim=True)
    t_TD = t_TD * torch.rsqrt(mean_square_T1 + eps)
    return (t_TD * scale_D.to(wide)).to(x_TD.dtype)
