"""Between the host and a device without waiting: numbers on their way there, and back.

A copy from memory that is not pinned waits for all that the device still has to do, and one to it
does too. Here both go through pinned memory, which torch keeps until the copy is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def uploaded(array: NDArray[Any], device: torch.device) -> Tensor:
    """On the device, once it gets there: what is computed with it is computed afterwards."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def integers(numbers: Sequence[int], device: torch.device) -> Tensor:
    """int64; through numpy, which is far faster than torch.tensor on a list."""
    return uploaded(np.array(numbers, dtype=np.int64), device)


class Download:
    """A tensor on its way to the host. What is asked of the device later does not hold it up."""

    def __init__(self, x: Tensor) -> None:
        self._x = x
        self._done: torch.cuda.Event | None = None
        if x.device.type == "cuda":
            self._x = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
            self._x.copy_(x, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record(torch.cuda.current_stream(x.device))

    def wait(self) -> Tensor:
        """On the CPU; waits until it is there."""
        if self._done is not None:
            self._done.synchronize()
        return self._x.cpu()
