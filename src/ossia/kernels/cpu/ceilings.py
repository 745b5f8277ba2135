"""The highest speeds of this machine, measured: the ceilings that kernels are compared with. Does
not know kernels.

Every instruction set has its own, in ceilings.cpp, so that kernels that use AVX2 are compared with
AVX2 wherever they run. The peak of arithmetic is that of data in registers, by processor time: it
includes neither loads nor other programs. The read bandwidth is that of the best of many pieces of
a gigabyte, by the clock, but for a single thread by processor time.
"""

from __future__ import annotations

from torch import Tensor

from ossia.errors import RequestError
from ossia.kernels.cpu import library as c
from ossia.kernels.cpu.memory import huge

READ_BYTES = 1 << 30  # far more than the caches hold
SECONDS = 0.4  # for each ceiling
FLOAT32, BFLOAT16, INT8, INT8_SMALL = range(4)  # as in ceilings.cpp


def ceiling_isas() -> list[str]:
    """Instruction sets of this CPU whose ceilings are known, best first."""
    library = c.loaded()
    names: list[str] = []
    while (name := library.ossia_ceiling_isa(len(names))) is not None:
        names.append(name.decode())
    return names


def peaks(isa: str, threads: int, seconds: float = SECONDS) -> dict[str, float]:
    """Operations of `threads` threads together, where a multiplication and an addition are two: of
    float32, of dot products of bfloat16, of int8, and of int8 if four products fit into 16 bits, as
    they do with the codes of MXFP4. Raises `RequestError` for an instruction set that is unknown or
    that this CPU does not have.
    """
    if isa not in ceiling_isas():
        known = ", ".join(ceiling_isas())
        raise RequestError(f"no ceilings are known for {isa!r} on this CPU; they are for {known}")
    found = []
    for operation in (FLOAT32, BFLOAT16, INT8, INT8_SMALL):
        rate = c.loaded().ossia_ceiling_operations(isa.encode(), operation, threads, seconds)
        found.append(rate / 1e9)
    return {
        "fp32_gflop_s": found[FLOAT32],
        "bf16_gflop_s": max(found[BFLOAT16], found[FLOAT32]),  # they can be multiplied as float32
        "int8_gop_s": found[INT8],
        "int8_small_gop_s": max(found[INT8_SMALL], found[INT8]),
    }


def read_bandwidth(
    threads: int, seconds: float = 2 * SECONDS, size: int = READ_BYTES, memory: Tensor | None = None
) -> float:
    """GB/s that `threads` threads together read from `size` bytes in huge pages: from `memory` if
    it has as many, else from new memory.
    """
    if memory is None or memory.nbytes < size:
        memory = huge(size)
        memory.fill_(1)
    return float(c.loaded().ossia_ceiling_read(memory.data_ptr(), size, threads, seconds)) / 1e9


def ceilings(
    isa: str | None = None, threads: int | None = None, memory: Tensor | None = None
) -> dict[str, float]:
    """`read_gb_s`, and the peaks of an instruction set: by default of the one that the kernels work
    with, on as many threads as they use. `memory`: see `read_bandwidth`.
    """
    count = threads or c.threads()
    return {"read_gb_s": read_bandwidth(count, memory=memory), **peaks(isa or c.isa(), count)}
