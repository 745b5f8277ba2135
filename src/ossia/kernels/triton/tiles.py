"""Which tiles a kernel works in: a table of data, by architecture and by how many rows there are.

No device has run these kernels yet. The entries are what compiles to tensor-core instructions
without spilling, within the shared memory of the architecture; bench/gpu.py prints better ones.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """`rows` of tokens, `columns` of outputs (of keys, in attention), `depth` of the sum; warps,
    and stages of loads.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# (most rows on average, tile), ascending; the last one has no limit
Choices = tuple[tuple[float, Tile], ...]
ANY = float("inf")

# The interpreter takes a time for every operation, whatever its size.
INTERPRETED = 0

# By rows of an expert. The weight is the first factor of the product, so that even a tile of 16
# tokens has the 64 rows that wgmma wants.
EXPERTS: dict[int, Choices] = {
    INTERPRETED: ((ANY, Tile(16, 128, 256, 1, 1)),),
    80: (
        (16, Tile(16, 64, 64, 4, 3)),
        (64, Tile(32, 128, 64, 4, 3)),
        (ANY, Tile(64, 128, 64, 8, 3)),
    ),
    90: (
        (16, Tile(16, 64, 64, 4, 4)),
        (64, Tile(32, 128, 64, 4, 4)),
        (ANY, Tile(128, 128, 64, 8, 3)),
    ),
    100: (
        (16, Tile(16, 128, 64, 4, 4)),
        (64, Tile(32, 128, 64, 4, 4)),
        (ANY, Tile(128, 128, 64, 8, 3)),
    ),
    120: (
        (16, Tile(16, 64, 64, 4, 3)),
        (64, Tile(32, 128, 64, 4, 2)),
        (ANY, Tile(64, 128, 64, 8, 2)),
    ),
}
# By queries of a tile times the heads of a group.
ATTENTION: dict[int, Choices] = {
    INTERPRETED: ((16, Tile(16, 64, 0, 1, 1)), (ANY, Tile(64, 64, 0, 1, 1))),
    80: ((16, Tile(16, 64, 0, 4, 2)), (ANY, Tile(64, 64, 0, 8, 2))),
    90: ((16, Tile(16, 64, 0, 4, 3)), (ANY, Tile(64, 64, 0, 4, 3))),
    100: ((16, Tile(16, 64, 0, 4, 3)), (ANY, Tile(64, 64, 0, 4, 3))),
    120: ((16, Tile(16, 64, 0, 4, 2)), (ANY, Tile(64, 64, 0, 8, 2))),
}
# Of the dense products of fixed tiles, which serve where bits must not depend on the batch.
LINEAR: dict[int, Tile] = {
    INTERPRETED: Tile(16, 128, 256, 1, 1),
    80: Tile(16, 64, 64, 4, 3),
    90: Tile(16, 64, 64, 4, 4),
    100: Tile(16, 128, 64, 4, 4),
    120: Tile(16, 64, 64, 4, 3),
}


def family(architecture: int) -> int:
    """The row of the tables that serves an architecture: the last one that is not newer."""
    return max(known for known in EXPERTS if known <= architecture)


def chosen(table: dict[int, Choices], architecture: int, rows: float, same_bits: bool) -> Tile:
    """`same_bits`: one tile, whatever the rows."""
    choices = table[family(architecture)]
    if same_bits:
        return choices[-1][1] if table is ATTENTION else choices[0][1]
    return next(tile for most, tile in choices if rows <= most)
