"""Whether the kernels with a backward pass serve, or those for inference alone; and whether those
for GPUs.

Both compute the same, in another order of sums. Training needs the first ones for its gradients.
Where the numbers of training have to come out to the bit without a gradient (rollouts, the frozen
parts of a model that is trained), `as_in_training` asks for them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ossia.errors import ConfigError


class _OfThread(threading.local):
    in_training = False
    same_bits = False


_mine = _OfThread()


@contextmanager
def as_in_training() -> Iterator[None]:
    """Within, this thread computes by the kernels of training, wanted gradients or not."""
    before = _mine.in_training
    _mine.in_training = True
    try:
        yield
    finally:
        _mine.in_training = before


@contextmanager
def with_same_bits(wanted: bool = True) -> Iterator[None]:
    """Within, on a GPU, this thread computes every row in the same tiles and order of sums,
    whatever other rows there are; without, as is fastest for so many rows. On a CPU that is so
    anyway.
    """
    before = _mine.same_bits
    _mine.same_bits = wanted
    try:
        yield
    finally:
        _mine.same_bits = before


def same_bits() -> bool:
    """Whether `with_same_bits` holds."""
    return _mine.same_bits


def in_training(*tensors: Tensor) -> bool:
    """Whether the kernels of training serve: a gradient by one of these is wanted, or
    `as_in_training` holds.
    """
    if not torch.compiler.is_compiling() and _mine.in_training:
        return True
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def trains_as_on_gpu(device: torch.device) -> bool:
    """Whether training takes the ways that are made for GPUs: FlexAttention and grouped products.
    OSSIA_TRAIN_KERNELS says `gpu`, on a CPU too, slowly, for tests; or `torch`: not on a GPU
    either. Raises `ConfigError` for another word.
    """
    wanted = os.environ.get("OSSIA_TRAIN_KERNELS")
    if wanted not in (None, "", "gpu", "torch"):
        raise ConfigError(f"OSSIA_TRAIN_KERNELS must be gpu or torch, found {wanted!r}")
    if wanted:
        return wanted == "gpu"
    return device.type == "cuda" and os.environ.get("OSSIA_KERNELS") != "reference"
