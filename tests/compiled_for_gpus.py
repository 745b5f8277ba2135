"""Compiles the kernels of a GPU for an architecture, where there is none, and says what became of
them. A program of its own, because a process interprets Triton's kernels or compiles them.

    python tests/compiled_for_gpus.py 90

prints a JSON object for each: name, tile, instructions of tensor cores, bytes of shared memory,
registers and bytes of local memory (spills).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)
os.environ.pop("OSSIA_KERNELS", None)

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ossia.kernels.triton import attention, experts, linear, norm, rope, router
from ossia.kernels.triton.language import launched
from ossia.kernels.triton.tiles import ATTENTION, EXPERTS, LINEAR, Choices, Tile

INTEGER = re.compile(r"^(K|N|T|D|top_k|page_stride)$")
VARYING = ("T", "page_stride")
FLOATS = ("scale", "limit", "alpha", "eps")
BFLOAT16 = ("x", "bias", "weight", "q", "k", "v", "keys", "values", "sinks", "scale_D")
BYTES = ("blocks", "scales")
WIDE = ("choices",)
FLOAT32 = ("part_values", "part_sums", "weights", "logits", "cos", "sin", "outer")
TENSOR_CORES = re.compile(r"\b(mma\.sync\.\S+|wgmma\.mma_async\.\S+|tcgen05\.mma\.\S+)")
Found = dict[str, Any]


def kind_of(name: str, float32_out: bool) -> str:
    """The type of a parameter in bfloat16's form of a kernel."""
    if INTEGER.match(name):
        return "i32"
    if name in FLOATS:
        return "fp32"
    if name in BYTES:
        return "*u8"
    if name in WIDE:
        return "*i64"
    if name in FLOAT32 or (name == "out" and float32_out):
        return "*fp32"
    return "*bf16" if name in BFLOAT16 or name == "out" else "*i32"


def compiled(
    kernel: Any,
    architecture: int,
    constants: dict[str, Any],
    tile: Tile,
    float32_out: bool = False,
    **kinds: str,
) -> Found:
    signature = {}
    attributes = {}
    for n, name in enumerate(kernel.arg_names):
        # for other numbers of these a step must not wait for the compiler
        assert kernel.params[n].do_not_specialize == (name in VARYING), name
        kind = kinds.get(name, kind_of(name, float32_out))
        signature[name] = "constexpr" if name in constants else kind
        is_width = name in ("K", "N", "D") and kind == "i32" and name not in constants
        if signature[name].startswith("*") or is_width:
            attributes[(n,)] = [["tt.divisibility", 16]]  # as a launch would find
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs=places, attrs=attributes)
    target = GPUTarget("cuda", architecture, 32)
    made = triton.compile(source, target=target, options=launched(tile.warps, tile.stages))
    return {
        "kernel": made.metadata.name,
        "architecture": architecture,
        "tile": [tile.rows, tile.columns, tile.depth],
        "warps": tile.warps,
        "instructions": dict(Counter(TENSOR_CORES.findall(made.asm["ptx"]))),
        "shared": made.metadata.shared,
        **resources(made.asm["cubin"]),
    }


def resources(binary: bytes) -> dict[str, int]:
    """Registers and bytes of local memory, as the assembler counted them."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [program, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for name, word in (("registers", "REG"), ("stack", "STACK"), ("local", "LOCAL")):
        match = re.search(rf"{word}:(\d+)", text)
        assert match, text
        found[name] = int(match[1])
    return found


def tiles(table: dict[int, Choices], architecture: int) -> Iterator[Tile]:
    for _, tile in table[architecture]:
        yield tile


def shape_of(tile: Tile, depth: bool = True) -> dict[str, Any]:
    shape = {"TILE_M": tile.rows, "TILE_N": tile.columns, "COMPUTE": tl.bfloat16}
    return shape | ({"TILE_K": tile.depth} if depth else {})


def everything(architecture: int) -> Iterator[Found]:
    for tile in tiles(EXPERTS, architecture):
        shape = shape_of(tile)
        yield compiled(experts._up, architecture, shape, tile)
        yield compiled(experts._down, architecture, shape, tile, float32_out=True)
    heads = {"K": 8, "G": 8, "PADDED": 8, "WIDTH": 64}
    for tile in tiles(ATTENTION, architecture):
        for window in (0, 128):
            shape = shape_of(tile, depth=False) | heads | {"WINDOW": window}
            yield compiled(attention._attend, architecture, shape, tile)
        merge = heads | {"TILE_M": tile.rows}
        yield compiled(attention._merge, architecture, merge, replace(tile, warps=4, stages=1))
    tile = LINEAR[architecture]
    yield compiled(linear._linear, architecture, shape_of(tile), tile)
    for number in (32, 128):
        small = Tile(router.ROWS, number, router.depth_of(number, exact=True), 4, 2)
        shape = {"E": number, "TILE_E": number, "TOP": 4, "TOP_PADDED": 4, "rows": None}
        shape |= {"TILE_M": small.rows, "TILE_K": small.depth, "COMPUTE": tl.bfloat16}
        yield compiled(router._route, architecture, shape, small)
    rows = Tile(1, 0, 0, 4, 1)
    norm_kinds = {"x": "*fp32", "scale": "*bf16", "out": "*fp32"}
    yield compiled(norm._norm, architecture, {"TILE": 4096}, rows, **norm_kinds)
    shape = {"H": 64, "K": 8, "PAGE": 16, "HALF": 32}
    yield compiled(rope._rotate, architecture, shape, Tile(1, 0, 0, 1, 1))
    yield compiled(experts._add_up, architecture, {"TILE": 1024}, rows, True, x="*fp32")


if __name__ == "__main__":
    for found in everything(int(sys.argv[1])):
        print(json.dumps(found), flush=True)
