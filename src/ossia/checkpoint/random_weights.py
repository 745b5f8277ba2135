"""Checkpoints of any size with random weights, to measure speed and memory without the published
files.

The numbers have the statistics of a freshly initialised model: matrices of variance 1 / fan in,
norms about 1, small biases and sinks. The same seed gives the same model in every layout. Works
piece by piece, in well under 1 GB.
"""

from __future__ import annotations

import math
import os
import zlib

import torch
from torch import Tensor

from ossia import mxfp4
from ossia.checkpoint.export import FloatDtype, Sink, destination
from ossia.checkpoint.names import Layout
from ossia.checkpoint.writer import SHARD_BYTES, Progress
from ossia.config import ModelConfig

CHUNK = 1 << 22  # elements made at once, unless one expert has more
SMALL = 0.02  # standard deviation of biases and sinks, and of norms about 1
# 2^16 equally likely values of a standard normal: choosing one is faster than computing one, and
# needs half the draws.
_MIDDLES = (torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16)
_QUANTILES = torch.special.ndtri(_MIDDLES).float()
# E[v^2] over the sixteen e2m1 codes, all equally likely
_CODE_VARIANCE = sum(v * v for v in mxfp4.VALUES) / len(mxfp4.VALUES)


def write_random(
    config: ModelConfig,
    dst: str | os.PathLike[str],
    seed: int,
    layout: Layout = "hf",
    progress: Progress | None = None,
    *,
    floats: FloatDtype = "bfloat16",
    max_shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Write a random checkpoint. Raises `CheckpointError` if `dst` is occupied or the disk too
    small.
    """
    with destination(dst, config, layout, floats, max_shard_bytes, overwrite, progress) as sink:
        for native in sink.rows:
            stem, _, kind = native.rpartition(".")
            if ".experts." not in native or kind == "bias":
                _put_floats(sink, native, seed)
            elif kind != "scales":  # scales are written with their blocks
                _put_experts(sink, stem, seed)
        sink.describe({})


def _generator(name: str, seed: int) -> torch.Generator:
    """A tensor's own, so that the order in which a layout stores them does not matter."""
    number = zlib.crc32(f"{seed} {name}".encode())  # torch uses 32 bits of a seed
    return torch.Generator().manual_seed(number)


def _put_floats(sink: Sink, native: str, seed: int) -> None:
    shape = sink.rows[native].native_shape
    rng = _generator(native, seed)
    mean = 0.0
    std = SMALL
    if native.endswith("scale"):
        mean = 1.0
    elif native.startswith("embedding"):
        std = 1.0
    elif native.endswith("weight"):
        std = shape[-1] ** -0.5
    values = (_QUANTILES * std + mean).to(sink.dtype)
    width = math.prod(shape[1:])
    step = max(1, CHUNK // width)
    for start in range(0, shape[0], step):
        rows = min(step, shape[0] - start)
        raw = _random_bytes(2 * rows * width, rng)
        draws = raw.view(torch.int16).int().add_(1 << 15)
        drawn = values.index_select(0, draws)
        sink.put(native, start, drawn.view(rows, *shape[1:]))


def _put_experts(sink: Sink, stem: str, seed: int) -> None:
    packed = f"{stem}.blocks" in sink.rows
    if packed:
        experts, rows, groups = sink.rows[f"{stem}.blocks"].native_shape[:3]
    else:
        experts, rows, columns = sink.rows[f"{stem}.weight"].native_shape
        groups = columns // mxfp4.BLOCK
    rng = _generator(stem, seed)
    for expert in range(experts):
        count = rows * groups
        blocks = _random_bytes(16 * count, rng).view(1, rows, groups, 16)
        scales = _random_scales(count, groups * mxfp4.BLOCK, rng)
        scales = scales.view(1, rows, groups)
        if packed:
            sink.put(f"{stem}.blocks", expert, blocks)
            sink.put(f"{stem}.scales", expert, scales)
        else:
            sink.put(f"{stem}.weight", expert, mxfp4.decode(blocks, scales, sink.dtype))


def _random_bytes(count: int, rng: torch.Generator) -> Tensor:
    """uint8 [count], eight from each 64-bit draw."""
    words = torch.empty((count + 7) // 8, dtype=torch.int64)
    return words.random_(-(1 << 63), None, generator=rng).view(torch.uint8)[:count]


def _random_scales(count: int, fan_in: int, rng: torch.Generator) -> Tensor:
    """uint8 [count]: the powers of two around the wanted scale, for a variance of 1/fan in."""
    wanted = 1 / (fan_in * _CODE_VARIANCE)  # the scale's square
    low = math.floor(math.log2(wanted) / 2)
    lower = 4.0**low
    upper = 4.0 ** (low + 1)
    share_high = (wanted - lower) / (upper - lower)
    limit = round(share_high * 256)
    high = _random_bytes(count, rng).lt(limit)
    return high.to(torch.uint8) + (low + mxfp4.BIAS)
