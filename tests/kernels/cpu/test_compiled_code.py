"""The compiled code of the hot loops: their vectors stay in registers.

Tests of numbers do not see it where a compiler keeps vectors in memory, and everything is ten times
slower (GCC does so with vectors that no register holds). This file reads the machine code of the
library instead, for every instruction set that was compiled, whatever this CPU has. Loops that are
not hot, and what comes before and behind a loop, may use the stack as they like.
"""

from __future__ import annotations

import ctypes
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from machine_code import Loop, functions, innermost_loops

from ossia.kernels.cpu.build import compiler

FMA = r"vfn?m(add|sub)\d+ps"
PRODUCT = rf"{FMA}|vdpbf16ps|mulps"
INT8 = r"vpdpbusd|v?pmaddubsw|v?pmaddwd"
EXTREMES = r"v?(max|min)ps"  # an exponential has them, and a product of matrices has none


@dataclass(frozen=True)
class Kernel:
    """Innermost loops of functions like `hosts` with at least `least` instructions like `work`,
    some like `besides` and none like `without`. A compiler may have inlined a kernel's function:
    then `hosts` names where it went.
    """

    hosts: str
    work: str
    least: int
    besides: str = ""
    without: str = "none"
    fewest: int = 1  # such loops that there must be
    # of the vector instructions, how many may write to the stack and read from it, as shares
    stores: float = 0.0
    loads: float = 0.0

    def loops(self, all_loops: list[Loop]) -> list[Loop]:
        return [
            loop
            for loop in all_loops
            if re.search(self.hosts, loop.function)
            and loop.count(self.work) >= self.least
            and loop.count(self.besides)
            and not loop.count(self.without)
        ]

    def too_much(self, loop: Loop) -> bool:
        return (
            loop.stack_stores > self.stores * loop.vectors
            or loop.stack_loads > self.loads * loop.vectors
        )


EXACT = "exact_multiply<|exact_of_few<|exact_tile_of_few<|tile_product"
INT8_LOOPS = (
    "int8_times<|int8_multiply<|int8_tile|int8_blocks<|int8_of_few<|int8_tile_of_few<|tile_product"
)
LINEARS = f"{INT8_LOOPS}|{EXACT}|exact_panel|bf16_times<"
# A few tokens' loops go over groups, whose weights are decoded at full length inside, and fetch
# ahead.
KERNELS = {
    "exact products of a tile": Kernel(
        "exact_times<|exact_tile<|bf16_times<", PRODUCT, 4, loads=0.13, stores=0.13, fewest=2
    ),
    "int8 products of a tile": Kernel(INT8_LOOPS, INT8, 8, loads=0.09, stores=0.09, fewest=2),
    "exact products of a few": Kernel(EXACT, PRODUCT, 16, without=INT8, loads=0.33, stores=0.04),
    "int8 products of a few": Kernel(
        INT8_LOOPS, INT8, 8, besides="prefetch", loads=0.07, stores=0.07
    ),
    "attention's scores and outputs": Kernel(
        "attend_block", PRODUCT, 16, without=EXTREMES, fewest=4, loads=0.12, stores=0.07
    ),
    "attention's probabilities": Kernel("attend_block", EXTREMES, 4, loads=0.25, stores=0.08),
    "router": Kernel("router", PRODUCT, 4, loads=0.21, stores=0.21),
    "norm": Kernel("rms_norm", PRODUCT, 1),
    "rope": Kernel("rope_run", r"v?(mul|sub|add)ps|" + FMA, 2),
    "training's products": Kernel(r"\bmultiply\(float", PRODUCT, 4, fewest=2),
    "training's attention": Kernel(
        "attention_training_(forward|backward)", PRODUCT, 8, fewest=2, loads=0.22
    ),
    "training's SwiGLU": Kernel(
        r"swiglu_(forward|backward)", PRODUCT, 8, fewest=2, loads=0.2, stores=0.04
    ),
    "training's norm": Kernel(r"norm_(forward|backward)", PRODUCT, 1, fewest=2),
    "training's rope": Kernel("rotate_heads", r"v?mulps", 2),
    "cross entropy": Kernel("cross_entropy", PRODUCT, 8, loads=0.1),
    "sampling's maxima": Kernel("chunk_tops", EXTREMES, 4),
    "sampling's sums": Kernel("piece_sum", PRODUCT, 8, loads=0.1),
    "sampling's cut": Kernel("Finisher", PRODUCT, 7, loads=0.25, stores=0.02),
}
# Plain C++ is not among them: its sixteen registers of four lanes hold no whole tile of any kernel.
ROWS = ("avx2", "avxvnni", "avx512_bw", "avx512_vnni", "avx512")


@pytest.fixture(scope="module")
def loops(kernels: ctypes.CDLL) -> dict[str, list[Loop]]:
    """Instruction set -> innermost loops of all its functions."""
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("no objdump (binutils)")
    found: dict[str, list[Loop]] = {}
    for name, code in functions(Path(kernels._name), objdump):
        isa = re.search(r"\b(\w+)::(?!ossia)", name.replace("ossia::", ""))
        if isa and isa[1] in ROWS:
            found.setdefault(isa[1], []).extend(innermost_loops(name, code))
    if not found:
        pytest.skip("the library was not compiled for x86-64, or has no symbols")
    return found


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_vectors_stay_in_registers(
    kernels: ctypes.CDLL, loops: dict[str, list[Loop]], row: str, kernel: str
) -> None:
    if row not in loops:
        pytest.skip(f"this compiler made no unit for {row}")
    if b"clang version" in Path(kernels._name).read_bytes():
        pytest.skip(
            "functions that clang inlines are not where these limits, which are GCC's, look for "
            "them"
        )
    mine = KERNELS[kernel].loops(loops[row])
    assert len(mine) >= KERNELS[kernel].fewest, "not found: name where the compiler has put it"
    bad = [
        f"{loop.function[:60]} at {loop.instructions[0].address:#x}: of {loop.vectors} vector "
        "instructions "
        f"{loop.stack_stores} write to the stack, {loop.stack_loads} read from it"
        for loop in mine
        if KERNELS[kernel].too_much(loop)
    ]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("row", ROWS)
def test_no_loop_of_products_lives_on_the_stack(loops: dict[str, list[Loop]], row: str) -> None:
    """Whatever the function: also where a kernel is new, or a compiler has put it elsewhere.
    Vectors that are kept in memory are stored at two of five instructions.
    """
    if row not in loops:
        pytest.skip(f"this compiler made no unit for {row}")
    hot = [loop for loop in loops[row] if loop.count(f"{PRODUCT}|{INT8}") >= 16]
    assert len(hot) > 10
    assert not [loop.function for loop in hot if loop.stack_stores > 0.25 * loop.vectors]


@pytest.mark.parametrize("row", ROWS)
def test_weights_are_fetched_into_the_second_cache(loops: dict[str, list[Loop]], row: str) -> None:
    """In the first they would take the place of activations and sums before their turn comes."""
    if row not in loops:
        pytest.skip(f"this compiler made no unit for {row}")
    linears = [loop for loop in loops[row] if re.search(LINEARS, loop.function)]
    assert sum(loop.count("prefetcht1") > 0 for loop in linears) >= 4
    assert not [loop.function for loop in linears if loop.count("prefetcht0")]


@pytest.mark.parametrize(("sums", "spills"), [(4, False), (24, True)])
def test_what_registers_cannot_hold_is_seen(tmp_path: Path, sums: int, spills: bool) -> None:
    """The check itself, on a loop whose sums fit into the sixteen registers, and on one whose do
    not.
    """
    cxx, objdump = compiler(), shutil.which("objdump")
    if cxx is None or objdump is None or platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("no compiler for x86-64, or no objdump (binutils)")
    source, made = tmp_path / "sums.cpp", tmp_path / "sums.o"
    source.write_text(SUMS)
    command = [cxx, "-O3", "-mavx2", "-mfma", f"-DN={sums}", "-c", str(source), "-o", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    ((name, code),) = [one for one in functions(made, objdump) if one[0].startswith("add_up")]
    hot = [loop for loop in innermost_loops(name, code) if loop.count(FMA) >= sums]
    assert len(hot) == 1
    assert (hot[0].stack_stores > 0, hot[0].stack_loads > 0) == (spills, spills)


SUMS = """
typedef float Vector __attribute__((vector_size(32), aligned(4), may_alias));
void add_up(const float *x, int n, Vector *out) {
  Vector sums[N] = {}, by = *(const Vector *)x;
  for (int i = 0; i < n; i++, x += 8 * N)
#pragma GCC unroll 64
    for (int j = 0; j < N; j++) sums[j] += by * *(const Vector *)(x + 8 * j);
  for (int j = 0; j < N; j++) out[j] = sums[j];
}
"""
