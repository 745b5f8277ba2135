"""RMSNorm. Bound: reads and writes T*D elements once."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x_TD: Tensor, scale_D: Tensor, eps: float) -> Tensor:
    """x / rms(x) * scale, in float32 throughout and cast last (Llama casts before the scale; gpt-oss does not)."""
    t_TD = x_TD.float()
    t_TD = t_TD * torch.rsqrt(t_TD.square().mean(-1, keepdim=True) + eps)
    return (t_TD * scale_D.float()).to(x_TD.dtype)
