"""Where a batch lies in a cache of pages, and how attention over it is cut into pieces of work.

Everything is worked out on the host, where lengths are known, and goes to the device as integers.
Each array begins at a multiple of 16 bytes, as the device's own tensors do: triton compiles a
kernel anew for arguments that are aligned otherwise. Knows no triton.

T tokens, S sequences, P pages a sequence, K key-value heads, h head width. A tile is a few queries
of one sequence with all heads that share a key-value head; a piece is a tile and a range of keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.batch import PageTable
from ossia.config import PAGE
from ossia.kernels.transfer import uploaded
from ossia.kernels.triton import architecture
from ossia.kernels.triton.tiles import ATTENTION, Tile, chosen

# Keys that are summed up by themselves before sums are merged, counted from position 0: the same
# for every query, so that its sums do not depend on what it shares a step with.
SPLIT = 512
MOST_HEADS = 64  # of a group: rows of the largest tile
ALIGNED = 4  # int32 in 16 bytes
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Pieces:
    """`pieces_N7`: sequence, first row, rows, position of the first row, first key, end of keys,
    number of the part that the result is, -1 if it is all of the tile's. `merges_M4`: first row,
    rows, first part, parts. Those without rows are idle. `parts`: how many there are at most.
    """

    pieces_N7: Ints
    merges_M4: Ints
    parts: int


@dataclass(frozen=True)
class Placement:
    """A batch in one kind of layer, on the device. `slots_T` int32: page * PAGE + place, where the
    key and the value of a new token go; -1: nowhere. `pages_SP[s, n]` holds the positions from
    `(first_S[s] + n) * PAGE` on.
    """

    slots_T: Tensor
    pages_SP: Tensor
    first_S: Tensor
    pieces_N7: Tensor
    merges_M4: Tensor
    parts: int
    queries: int  # of a tile


def cache_layer(
    pages: int, kv_heads: int, width: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Keys and values of one layer: [2, pages, K, PAGE, h]."""
    return torch.empty(2, pages, kv_heads, PAGE, width, dtype=dtype, device=device)


def queries_of_tile(device: torch.device, longest: int, group: int, same_bits: bool = False) -> int:
    """How many queries a tile has if the sequence with most of them has `longest`."""
    return tile_of(device, longest, group, same_bits).rows // padded(group)


def tile_of(device: torch.device, queries: int, group: int, same_bits: bool) -> Tile:
    return chosen(ATTENTION, architecture(device), queries * padded(group), same_bits)


def padded(group: int) -> int:
    """Heads of a group, up to a power of two."""
    return 1 << (group - 1).bit_length()


def unsupported(heads: int, kv_heads: int, width: int) -> str | None:
    """Why the kernels cannot serve a model of this shape; None if they can."""
    if width < 16 or width & (width - 1):
        return f"head_dim {width} is no power of two of 16 at least"
    if padded(heads // kv_heads) > MOST_HEADS:
        return f"more than {MOST_HEADS} query heads share a key-value head"
    return None


def placement(
    table: PageTable,
    lengths: Sequence[int],
    starts: Sequence[int],
    window: int | None,
    queries: int,
    device: torch.device,
) -> Placement:
    """In one copy to the device."""
    cut = pieces(lengths, starts, window, queries)
    parts = (slots(table, lengths, starts), table.pages_SP, table.first_S)
    return moved(parts, cut, queries, device)


def moved(
    described: tuple[Ints, Ints, Ints], cut: Pieces, queries: int, device: torch.device
) -> Placement:
    """Slots, pages, first pages and pieces, in one copy to the device."""
    arrays = (*described, cut.pieces_N7, cut.merges_M4)
    flat = uploaded(end_to_end(arrays), device)
    parts = taken_apart(flat, [array.shape for array in arrays])
    slots_T, pages_SP, first_S, pieces_N7, merges_M4 = parts
    return Placement(slots_T, pages_SP, first_S, pieces_N7, merges_M4, cut.parts, queries)


def end_to_end(arrays: Sequence[Ints]) -> Ints:
    """One array of all, each from a multiple of ALIGNED on."""
    flat = np.zeros(sum(_aligned(array.size) for array in arrays), np.int32)
    begin = 0
    for array in arrays:
        flat[begin : begin + array.size] = array.ravel()
        begin += _aligned(array.size)
    return flat


def taken_apart(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The parts of what `end_to_end` has put together, as views."""
    views = []
    begin = 0
    for shape in shapes:
        size = math.prod(shape)
        views.append(flat[begin : begin + size].view(shape))
        begin += _aligned(size)
    return views


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def positions(lengths: Sequence[int], starts: Sequence[int], device: torch.device) -> Tensor:
    """int64 [T]"""
    found_T = np.repeat(np.asarray(starts), lengths) + _places(lengths)
    return uploaded(found_T, device)


def slots(table: PageTable, lengths: Sequence[int], starts: Sequence[int]) -> Ints:
    """int32 [T]: where new keys and values go."""
    sequence_T = np.repeat(np.arange(len(lengths)), lengths)
    position_T = np.repeat(np.asarray(starts), lengths) + _places(lengths)
    nth_T = position_T // PAGE - table.first_S[sequence_T]
    page_T = table.pages_SP[sequence_T, nth_T]
    found_T = page_T * PAGE + position_T % PAGE
    return np.asarray(found_T, np.int32)


def pieces(
    lengths: Sequence[int], starts: Sequence[int], window: int | None, queries: int
) -> Pieces:
    """Tiles of at most `queries` queries. A sequence of one tile has a piece for every SPLIT keys,
    so that few sequences still occupy the device; longer ones have a piece a tile.
    """
    length_S = np.asarray(lengths)
    tiles_S = -(-length_S // queries)
    sequence_N = np.repeat(np.arange(len(lengths)), tiles_S)
    begin_N = _places(tiles_S) * queries
    first_row_N = (np.cumsum(length_S) - length_S)[sequence_N] + begin_N
    rows_N = np.minimum(queries, length_S[sequence_N] - begin_N)
    position_N = np.asarray(starts)[sequence_N] + begin_N
    end_N = position_N + rows_N
    begin_key_N = np.zeros_like(position_N)
    if window is not None:
        begin_key_N = np.maximum(0, position_N - window + 1)
    first_split_N = begin_key_N // SPLIT
    parts_N = np.where(tiles_S[sequence_N] == 1, (end_N - 1) // SPLIT - first_split_N + 1, 1)

    is_whole_N = parts_N == 1
    tile_P = np.repeat(np.arange(len(sequence_N)), parts_N)
    is_whole_P = is_whole_N[tile_P]
    split_P = first_split_N[tile_P] + _places(parts_N)
    begin_P = begin_key_N[tile_P]
    end_P = end_N[tile_P]
    k0_P = np.where(is_whole_P, begin_P, np.maximum(begin_P, split_P * SPLIT))
    k1_P = np.where(is_whole_P, end_P, np.minimum(end_P, (split_P + 1) * SPLIT))
    part_P = np.where(is_whole_P, -1, np.cumsum(~is_whole_P) - 1)
    of_tiles = [sequence_N, first_row_N, rows_N, position_N]
    columns = [column[tile_P] for column in of_tiles]
    pieces_N7 = np.stack([*columns, k0_P, k1_P, part_P], axis=1)

    cut_parts_N = np.where(is_whole_N, 0, parts_N)
    first_part_N = np.cumsum(cut_parts_N) - cut_parts_N
    merges_N4 = np.stack([first_row_N, rows_N, first_part_N, parts_N], axis=1)
    merges_M4 = merges_N4[~is_whole_N]
    return Pieces(
        pieces_N7.astype(np.int32),
        merges_M4.astype(np.int32),
        int(cut_parts_N.sum()),
    )


def _places(counts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... counts[0] - 1, 0, 1, ... counts[1] - 1, and so on."""
    counts = np.asarray(counts, np.int64)
    ends = np.cumsum(counts)
    return np.arange(counts.sum()) - np.repeat(ends - counts, counts)
