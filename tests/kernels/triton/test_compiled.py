"""What the kernels are compiled to, for every architecture that they serve, on a machine without
one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from device_kernels import needs_triton

import ossia
from ossia.kernels.triton import tiles

PROGRAM = Path(__file__).parents[2] / "compiled_for_gpus.py"
# instructions of tensor cores; bytes of shared memory that a block may have
ARCHITECTURES = {
    80: ("mma.sync", 166_912),
    90: ("wgmma", 232_448),
    100: ("tcgen05.mma", 232_448),
    120: ("mma.sync", 101_376),
}
PRODUCTS = ("_up", "_down", "_linear", "_attend", "_route")
WHOLE_TILES = 64  # rows that wgmma and tcgen05 want of the first factor


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_kernels_use_tensor_cores_and_fit(architecture: int, tmp_path: Path) -> None:
    """Two blocks fit beside each other, and nothing spills."""
    newest, shared = ARCHITECTURES[architecture]
    paths = [str(Path(ossia.__file__).parents[1]), *filter(None, sys.path)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "TRITON_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, str(PROGRAM), str(architecture)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = [json.loads(line) for line in run.stdout.splitlines()]
    for kernel in found:
        assert kernel["local"] == kernel["stack"] == 0, kernel
        assert kernel["shared"] <= shared // 2, kernel
        if kernel["kernel"] in PRODUCTS:
            assert kernel["shared"] > 0, kernel  # its factors lie there
            # of the experts and the product of fixed tiles the weight is the first factor
            rows, columns, _ = kernel["tile"]
            first = rows if kernel["kernel"] in ("_attend", "_route") else columns
            wanted = newest if first >= WHOLE_TILES else "mma.sync"
            assert kernel["instructions"], kernel
            assert all(name.startswith(wanted) for name in kernel["instructions"]), kernel
    assert {kernel["kernel"] for kernel in found} > set(PRODUCTS)
    experts = tiles.EXPERTS[architecture]
    attention = tiles.ATTENTION[architecture]
    linear = ((tiles.ANY, tiles.LINEAR[architecture]),)
    choices = {"_up": experts, "_down": experts, "_attend": attention, "_linear": linear}
    for name, table in choices.items():
        compiled = {tuple(k["tile"]) for k in found if k["kernel"] == name}
        assert compiled == {(tile.rows, tile.columns, tile.depth) for _, tile in table}, name


def test_every_architecture_has_its_tiles() -> None:
    for table in (tiles.EXPERTS, tiles.ATTENTION, tiles.LINEAR):
        assert set(table) == {0, *ARCHITECTURES}
    assert [tiles.family(n) for n in (80, 86, 89, 90, 100, 103, 110, 120)] == [
        80, 80, 80, 90, 100, 100, 100, 120,
    ]  # fmt: skip
