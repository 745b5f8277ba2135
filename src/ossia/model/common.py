"""The two leaves that every part of the model uses: a norm and a linear map, as thin holders of
weights for kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ossia import kernels


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x_TD: Tensor) -> Tensor:
        return kernels.rms_norm(x_TD, self.scale, self.eps)


class Linear(nn.Module):
    """y = x W^T + b in the dtype of x, whatever W is stored in."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x_TK: Tensor) -> Tensor:
        return kernels.linear(x_TK, self.weight, self.bias)
