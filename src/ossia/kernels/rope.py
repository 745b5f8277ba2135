"""Rotary position embedding, half-split: dimension i is paired with i + h/2. Bound: reads and
writes T*H*h once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ossia.kernels.choice import in_training
from ossia.kernels.training import rotate_training


def rotate(x_THh: Tensor, cos_Tr: Tensor, sin_Tr: Tensor) -> Tensor:
    """Rotate every pair of x [T, H, h] by its position's angle; cos and sin are [T, h/2],
    concentration included.
    """
    if in_training(x_THh):
        trained = rotate_training(x_THh, cos_Tr, sin_Tr)
        if trained is not None:
            return trained
    cos_T1r = cos_Tr.to(x_THh.dtype).unsqueeze(1)
    sin_T1r = sin_Tr.to(x_THh.dtype).unsqueeze(1)
    a, b = x_THh.chunk(2, dim=-1)
    first = a * cos_T1r - b * sin_T1r
    second = b * cos_T1r + a * sin_T1r
    return torch.cat((first, second), dim=-1)
