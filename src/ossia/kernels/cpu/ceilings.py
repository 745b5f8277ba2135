"""What this machine can do at most, measured: the ceilings that speeds are held against. Knows no kernels."""

from __future__ import annotations

from ossia.kernels.cpu.library import loaded
from ossia.kernels.cpu.memory import huge

READ_BYTES = 1 << 30  # far beyond the caches
SECONDS = 0.4  # a ceiling


def ceilings() -> dict[str, float]:
    """With all threads of the pool: read bandwidth from huge pages in GB/s, peaks of float32 fma and of bfloat16 and
    int8 dot products in GFLOP/s and GOP/s (a multiplication and an addition are two)."""
    library = loaded()
    memory = huge(READ_BYTES)
    memory.fill_(1)
    peaks = (library.ossia_peak_operations(kind, SECONDS) / 1e9 for kind in (0, 1, 2))
    read = library.ossia_peak_read(memory.data_ptr(), READ_BYTES, SECONDS) / 1e9
    return {"read_gb_s": read, **dict(zip(("fp32_gflop_s", "bf16_gflop_s", "int8_gop_s"), peaks, strict=True))}
