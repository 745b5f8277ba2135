"""triton itself, and what every kernel needs of it. The only importer of triton."""

from __future__ import annotations

import os
import sys
from typing import Any

from ossia.errors import ConfigError
from ossia.kernels.triton import interpreted

if interpreted():
    # Triton reads the switch when it is imported, and each kernel where it is defined.
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError(
            "OSSIA_KERNELS=interpret came too late: triton has been imported to compile; set "
            "TRITON_INTERPRET=1 before the process starts"
        )
    os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
import triton.language as tl

__all__ = ["both", "compute_type", "launched", "places", "tl", "triton"]


def compute_type(dtype: torch.dtype) -> Any:
    """The type that factors of products have. In the interpreter products of bfloat16 are wrong (it
    multiplies their bits), and everything is float32.
    """
    if dtype == torch.bfloat16 and os.environ.get("TRITON_INTERPRET") != "1":
        return tl.bfloat16
    return tl.float32


def launched(warps: int, stages: int, fused: bool = False) -> dict[str, Any]:
    """How a kernel is compiled. `fused`: a * b + c may be rounded once. Said each time, because
    triton's default changes with its version, and two kernels that must agree to the bit cannot
    leave it to the compiler.
    """
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": fused}


@triton.jit
def places(rows, columns, stride):
    """[n, m]: where the elements of a matrix lie whose rows are `stride` apart."""
    return rows[:, None] * stride + columns[None, :]


@triton.jit
def both(rows, columns):
    """[n, m]: whether a row and a column are inside."""
    return rows[:, None] & columns[None, :]
