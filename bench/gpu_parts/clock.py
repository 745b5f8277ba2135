"""A device, the time it takes, and what was found."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpu_parts.bounds import Allowance, Ceilings, median_seconds

Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """What is measured: rows of the kernels, (rows, depth) of attention and of decoding, tokens of
    a prompt, streams of an engine and tokens each, rows of which tiles are tried.
    """

    rows: tuple[int, ...]
    attention: tuple[tuple[int, int], ...]
    decode: tuple[tuple[int, int], ...]
    prompts: tuple[int, ...]
    streams: tuple[int, ...]
    answer: int
    tiles: tuple[int, ...]
    alike: int  # rows of the test of bits
    copied: int  # bytes
    width: int  # of the square product


FULL = Sizes(
    rows=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    attention=tuple((rows, depth) for rows in (1, 8, 32, 128) for depth in (4096, 32768)),
    decode=tuple((rows, depth) for depth in (0, 4096, 32768) for rows in (1, 8, 32, 128)),
    prompts=(512, 2048, 8192),
    streams=(1, 32),
    answer=64,
    tiles=(8, 128, 2048),
    alike=64,
    copied=1 << 30,
    width=8192,
)
QUICK = Sizes(
    rows=(1, 32),
    attention=((1, 4096), (32, 4096)),
    decode=((1, 0), (32, 4096)),
    prompts=(2048,),
    streams=(1,),
    answer=32,
    tiles=(),
    alike=64,
    copied=1 << 30,
    width=8192,
)
DRY = Sizes(
    rows=(3,),
    attention=((2, 20),),
    decode=((2, 5),),
    prompts=(6,),
    streams=(2,),
    answer=3,
    tiles=(2,),
    alike=3,
    copied=1 << 12,
    width=16,
)


class Bench:
    """What is measured on one device, and with which clock."""

    def __init__(
        self, device: torch.device, sizes: Sizes, allowance: Allowance, repeat: int
    ) -> None:
        self.device = device
        self.sizes = sizes
        self.allowance = allowance
        self.repeat = repeat
        self.rng = torch.Generator(device=device).manual_seed(0)
        self.rows: list[Row] = []
        self.ceilings = Ceilings(1.0, 1.0)

    @property
    def is_dry(self) -> bool:
        """Without a device: everything runs, and its times mean nothing."""
        return self.device.type != "cuda"

    def seconds(self, call: Callable[[], object]) -> float:
        return median_seconds(call, self.wait, time.perf_counter, self.repeat)

    def wait(self) -> None:
        if not self.is_dry:
            torch.cuda.synchronize(self.device)

    def note(self, what: str, seconds: float, bound: tuple[float, float], **more: Any) -> Row:
        least = self.ceilings.seconds(*bound)
        row = {"what": what, "seconds": seconds, "bound": least, "share": least / seconds, **more}
        self.rows.append(row)
        return row

    def free_memory(self) -> int:
        """Bytes of the device that nothing has taken."""
        if self.is_dry:
            return 1 << 40
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self.device)[0]

    def random(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        made = torch.randn(shape, generator=self.rng, device=self.device)
        return made.to(dtype)

    def random_packed(self, experts: int, rows: int, columns: int) -> tuple[Tensor, ...]:
        shape = (experts, rows, columns // 32)
        settings = {"generator": self.rng, "device": self.device, "dtype": torch.uint8}
        blocks = torch.randint(0, 256, (*shape, 16), **settings)
        scales = torch.randint(117, 122, shape, **settings)
        return blocks, scales, self.random(experts, rows)


def measure_ceilings(bench: Bench) -> Ceilings:
    """Bytes a second of a copy (read and written), operations a second of a product."""
    size = bench.sizes.copied
    width = bench.sizes.width
    source = torch.empty(size, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    copied = bench.seconds(lambda: target.copy_(source))
    a = bench.random(width, width)
    multiplied = bench.seconds(lambda: a @ a)
    return Ceilings(2 * size / copied, 2 * width**3 / multiplied)


def largest_error(found: Tensor, wanted: Tensor) -> float:
    """Relative to the largest value."""
    difference = (found.float() - wanted.float()).abs().max()
    return float(difference / wanted.float().abs().max())
