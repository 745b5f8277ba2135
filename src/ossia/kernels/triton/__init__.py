"""Kernels for NVIDIA GPUs, in Triton: experts that stay packed, attention over pages, norm, rope,
router, and a product of fixed tiles.

They serve by the device of the tensors: GPUs from compute capability 8.0 on.
OSSIA_KERNELS=interpret runs the same kernels on a CPU in Triton's interpreter, slowly and in
float32: for tests. OSSIA_KERNELS=reference leaves everything to torch. This file imports no triton,
which need not be installed; the others do, and are imported where a kernel is called.
"""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from ossia.errors import ConfigError
from ossia.kernels.choice import in_training
from ossia.kernels.triton import tiles

LEAST_CAPABILITY = (8, 0)
LEAST_CACHE = 64 << 20  # bytes
STEP_MEMORY = 1 << 30  # bytes that a step takes for itself
HOW = "pip install 'ossia[gpu-test]' brings triton to a machine without a GPU"


def interpreted() -> bool:
    """Whether Triton's interpreter computes on the CPU. Raises `ConfigError` if it cannot."""
    if os.environ.get("OSSIA_KERNELS") != "interpret":
        return False
    if find_spec("triton") is None:
        raise ConfigError(f"OSSIA_KERNELS=interpret needs triton, which is not installed; {HOW}")
    return True


def why_not(device: torch.device) -> str | None:
    """Why these kernels do not serve tensors on `device`; None if they do."""
    if os.environ.get("OSSIA_KERNELS") == "reference":
        return "OSSIA_KERNELS=reference"
    if device.type == "cpu":
        return None if interpreted() else "device cpu"
    if device.type != "cuda":
        return f"device {device.type}"
    return _missing_of_gpu(device.index)


@cache
def _missing_of_gpu(index: int | None) -> str | None:
    if torch.version.hip is not None:
        return "AMD's GPUs have not been tried"
    if find_spec("triton") is None:
        return "triton is not installed"
    if not any(map(shutil.which, (os.environ.get("CC", "gcc"), "gcc", "clang"))):
        return "triton finds no C compiler: install gcc (and Python's headers), or set CC"
    found = torch.cuda.get_device_capability(index)
    if found < LEAST_CAPABILITY:
        wanted = ".".join(map(str, LEAST_CAPABILITY))
        has = ".".join(map(str, found))
        return f"the GPU has compute capability {has}, bfloat16 on tensor cores begins at {wanted}"
    return None


def current(device: torch.device) -> AbstractContextManager[object]:
    """Within, `device` is the current one of this thread: triton starts kernels, and torch captures
    graphs, there and not where tensors are.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def serves(x: Tensor, *weights: Tensor | None) -> bool:
    """Whether these kernels serve x with such weights: in float32 or bfloat16, on a device that has
    them, and no gradient is wanted. They have no backward pass.
    """
    if x.dtype not in (torch.float32, torch.bfloat16) or why_not(x.device) is not None:
        return False
    if torch.compiler.is_compiling():
        return False
    return not in_training(x, *(weight for weight in weights if weight is not None))


def described(device: torch.device) -> list[tuple[str, str, str]]:
    """(operation, implementation, why) for `ossia info`, where these kernels serve."""
    number = architecture(device)
    row = tiles.family(number)
    how = f"Triton, compiled for compute capability {number / 10}"
    if number == tiles.INTERPRETED:
        how = "Triton's interpreter, in float32"
    tables = {
        "experts": tiles.EXPERTS[row],
        "attention": tiles.ATTENTION[row],
        "fixed product": ((tiles.ANY, tiles.LINEAR[row]),),
    }
    why = "tiles (rows x columns x depth): "
    about = {
        "experts": "MXFP4 as published, SwiGLU, weighted sum in a fixed order",
        "attention": "over pages, with sinks and windows, cut at multiples of 512 keys",
        "fixed product": "where bits must not depend on the batch; else cuBLAS",
    }
    rows = []
    for name, choices in tables.items():
        shapes = [f"{t.rows}x{t.columns}x{t.depth}" for _, t in choices]
        rows.append((f"GPU {name}", f"{how}: {about[name]}", why + ", ".join(shapes)))
    return [*rows, ("GPU norm, rope, router", how, "one kernel each")]


@cache
def architecture(device: torch.device) -> int:
    """Compute capability as a number: 90 for 9.0. 0 is the interpreter."""
    if device.type == "cpu":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def free_for_cache(device: torch.device) -> int | None:
    """The default size of a cache of keys and values in bytes, to be asked for when the weights are
    there: nine tenths of what the GPU has free, less what a step takes. None for other devices.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return max(LEAST_CACHE, 9 * free // 10 - STEP_MEMORY)
