"""What optimizers and gradient clipping need when parameters are spread over processes: whole
matrices, one norm.

AdamW works element by element and needs nothing. Muon works on matrices: where a parameter's
matrices are cut, the update is gathered, orthogonalized by every process of the group, and each
applies its part. The numbers are those of one process. Knows DTensors; no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    """Its updates are collective."""

    def direction(self, update: Tensor) -> Tensor:
        assert isinstance(update, DTensor)
        return on_whole_matrices(orthogonalize, update)

    def here(self, p: Tensor) -> Tensor:
        return local(p)


@torch.no_grad()
def norm_of_gradients(params: Sequence[Tensor]) -> float:
    """Of all gradients as one vector; what several processes hold the same part of counts once.
    Collective.
    """
    wide = torch.float64
    device = local(params[0]).device
    total = torch.zeros((), dtype=wide, device=device)
    for p in params:
        assert isinstance(p.grad, DTensor)
        here = torch.linalg.vector_norm(p.grad.to_local(), dtype=wide)
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
