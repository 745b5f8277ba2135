"""What optimizers and gradient clipping need when parameters are spread over processes: whole
matrices, one norm.

AdamW works element by element and needs nothing. Muon works on matrices: where a parameter's
matrices are cut, the update is gathered, orthogonalized by every process of the group, and each
applies its part. The numbers are those of one process. Knows DTensors; no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from ossia.model.parallel import copies, local, on_whole_matrices
from ossia.train.optim import Muon, Optimizers, orthogonalize


def spread(optimizers: Optimizers) -> None:
    """Make the optimizers work on parameters that are DTensors."""
    for optimizer in optimizers.all:
        if isinstance(optimizer, Muon):
            optimizer.__class__ = _SpreadMuon


class _SpreadMuon(Muon):
    @torch.no_grad()
    def update(self, group: dict[str, Any], p: Tensor) -> None:
        """Collective."""
        direction = on_whole_matrices(orthogonalize, _momentum(self, group, p))
        here = local(p)
        here.mul_(1 - group["lr"] * group["weight_decay"])
        here.add_(direction, alpha=-group["lr"] * 0.2 * max(p.shape[-2:]) ** 0.5)


def _momentum(optimizer: Muon, group: dict[str, Any], p: Tensor) -> DTensor:
    """The gradient, looked at through Nesterov momentum, which is kept in the optimizer's state."""
    assert isinstance(p.grad, DTensor)
    state = optimizer.state[p]
    if not state:
        state["momentum"] = torch.zeros_like(p.grad)
    state["momentum"].lerp_(p.grad, 1 - group["momentum"])
    update = p.grad.lerp(state["momentum"], group["momentum"])
    assert isinstance(update, DTensor)
    return update


@torch.no_grad()
def norm_of_gradients(params: Sequence[Tensor]) -> float:
    """Of all gradients as one vector; what several processes hold the same part of counts once.
    Collective.
    """
    total = torch.zeros((), dtype=torch.float64, device=local(params[0]).device)
    for p in params:
        assert isinstance(p.grad, DTensor)
        here = torch.linalg.vector_norm(p.grad.to_local(), dtype=torch.float64)
        total += here.square() / copies(p.grad)
    dist.all_reduce(total)
    return math.sqrt(total.item())


@torch.no_grad()
def clip_gradients(params: Sequence[Tensor], norm: float, most: float) -> None:
    """As torch.nn.utils.clip_grads_with_norm_."""
    factor = min(1.0, most / (norm + 1e-6))
    for p in params:
        assert isinstance(p.grad, DTensor)
        p.grad.to_local().mul_(factor)
