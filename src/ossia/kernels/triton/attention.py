"""Attention of a batch over a cache of pages: grouped heads, windows, sinks, an online softmax.

Bound: for one query a sequence the bytes of its keys and values, for many the tensor cores. All
heads that share a key-value head are rows of one tile, so its keys are read once. Keys are visited
in blocks aligned to position 0 and summed up apart in stretches of SPLIT keys, which are merged in
their order, whether one program has them all or each has its own (Flash-Decoding, Dao et al. 2023).
A key that a query does not see has a weight of exactly 0, and so changes no bit.

H query heads, K key-value heads, G = H/K, h head width; a tile has M rows (queries times heads of a
group), N keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ossia.config import PAGE
from ossia.kernels.triton.language import compute_type, launched, places, tl, triton
from ossia.kernels.triton.paging import SPLIT, Placement, padded, tile_of

LOG2E = tl.constexpr(1.4426950408889634)
OF_PAGE = tl.constexpr(PAGE)
STRETCH = tl.constexpr(SPLIT)
NEVER = tl.constexpr(-1e30)  # below every score, and finite: exp2 of differences is never NaN


def attend_pages(
    q_THh: Tensor,
    memory: Tensor,
    placed: Placement,
    sinks_H: Tensor | None,
    window: int | None,
    scale: float,
    same_bits: bool = False,
) -> Tensor:
    """[T, H, h] in the dtype of q, over keys and values `memory` [2, pages, K, PAGE, h], in which
    those of the batch have been written. Rows that no piece has are 0.
    """
    assert q_THh.is_contiguous()
    _, heads, width = q_THh.shape
    kv_heads = memory.shape[2]
    group = heads // kv_heads
    tile = tile_of(q_THh.device, placed.queries, group, same_bits)
    out_THh = torch.zeros_like(q_THh)
    # a part of the sums: values [h], the largest score and the sum of weights
    shape = (max(1, placed.parts), kv_heads, tile.rows)
    part_values = torch.empty(*shape, width, device=q_THh.device)
    part_sums = torch.empty(*shape, 2, device=q_THh.device)
    where = (placed.pages_SP, placed.first_S, placed.pieces_N7)
    tensors = (q_THh, memory[0], memory[1], *where, sinks_H, out_THh, part_values, part_sums)
    numbers = (scale * LOG2E.value, placed.pages_SP.shape[1], window or 0)
    heads_of = (kv_heads, group, padded(group))
    sizes = (tile.rows, tile.columns, width)
    options = launched(tile.warps, tile.stages)
    grid = (len(placed.pieces_N7), kv_heads)
    compute = compute_type(q_THh.dtype)
    _attend[grid](*tensors, *numbers, *heads_of, *sizes, compute, **options)
    if len(placed.merges_M4):
        parts = (part_values, part_sums, placed.merges_M4, sinks_H, out_THh)
        grid = (len(placed.merges_M4), kv_heads)
        _merge[grid](*parts, *heads_of, tile.rows, width, **launched(4, 1))
    return out_THh


@triton.jit
def _merged(peak, total, values, other_peak, other_total, other_values):
    """Two sums of weights 2^(score - peak), as one."""
    new = tl.maximum(peak, other_peak)
    keep = tl.exp2(peak - new)
    add = tl.exp2(other_peak - new)
    values = values * keep[:, None] + other_values * add[:, None]
    return new, total * keep + other_total * add, values


@triton.jit
def _stretch(
    q_Mh,
    k_at,
    v_at,
    pages,
    first_page,
    position_M,
    lowest,
    begin,
    end,
    scale,
    stride,
    WINDOW,
    TILE_N,
):
    """Peak, sum of weights and weighted values over the keys [begin, end), where `begin` is a
    multiple of TILE_N; keys before `lowest` may not be in any page.
    """
    TILE_M: tl.constexpr = q_Mh.shape[0]
    WIDTH: tl.constexpr = q_Mh.shape[1]
    d = tl.arange(0, WIDTH)
    peak = tl.full((TILE_M,), NEVER, tl.float32)
    total = tl.zeros((TILE_M,), tl.float32)
    values = tl.zeros((TILE_M, WIDTH), tl.float32)
    for n in range(begin, end, TILE_N):
        at = n + tl.arange(0, TILE_N)
        inside = (at >= lowest) & (at < end)
        page = tl.load(pages + at // OF_PAGE - first_page, mask=inside, other=0)
        place = page.to(tl.int64) * stride + (at % OF_PAGE) * WIDTH
        k_hN = tl.load(k_at + places(d, place, 1), mask=inside[None, :], other=0.0)
        k_hN = k_hN.to(q_Mh.dtype)
        score = tl.dot(q_Mh, k_hN, input_precision="ieee") * scale
        ahead = at[None, :] - position_M[:, None]
        seen = inside[None, :] & (ahead <= 0)
        if WINDOW:
            seen = seen & (ahead > -WINDOW)
        score = tl.where(seen, score, float("-inf"))
        new = tl.maximum(peak, tl.max(score, 1))
        weight = tl.exp2(score - new[:, None])
        keep = tl.exp2(peak - new)
        total = total * keep + tl.sum(weight, 1)
        v_Nh = tl.load(v_at + places(place, d, 1), mask=inside[:, None], other=0.0)
        v_Nh = v_Nh.to(q_Mh.dtype)
        weight = weight.to(q_Mh.dtype)
        values = values * keep[:, None]
        values = tl.dot(weight, v_Nh, values, input_precision="ieee")
        peak = new
    return peak, total, values


@triton.jit
def _summed(q_Mh, k_at, v_at, pages, first_page, position_M, k0, k1, scale, stride, WINDOW, TILE_N):
    """The same over the keys [k0, k1): stretches of SPLIT keys, merged in their order."""
    TILE_M: tl.constexpr = q_Mh.shape[0]
    WIDTH: tl.constexpr = q_Mh.shape[1]
    peak = tl.full((TILE_M,), NEVER, tl.float32)
    total = tl.zeros((TILE_M,), tl.float32)
    sums = tl.zeros((TILE_M, WIDTH), tl.float32)
    for split in range(k0 // STRETCH * STRETCH, k1, STRETCH):
        begin = tl.maximum(split, k0 // TILE_N * TILE_N)
        end = tl.minimum(split + STRETCH, k1)
        its_peak, its_total, its_sums = _stretch(
            q_Mh,
            k_at,
            v_at,
            pages,
            first_page,
            position_M,
            k0,
            begin,
            end,
            scale,
            stride,
            WINDOW,
            TILE_N,
        )
        peak, total, sums = _merged(peak, total, sums, its_peak, its_total, its_sums)
    return peak, total, sums


@triton.jit
def _finished(peak, total, values, sinks, head_M, real_M):
    """The softmax with the sink as one more term, if there is one."""
    if sinks is not None:
        sink = tl.load(sinks + head_M, mask=real_M, other=0.0)
        sink = sink.to(tl.float32) * LOG2E
        new = tl.maximum(peak, sink)
        keep = tl.exp2(peak - new)
        total = total * keep + tl.exp2(sink - new)
        values = values * keep[:, None]
    total = tl.where(total > 0, total, 1.0)
    return values / total[:, None]


@triton.jit(do_not_specialize=["page_stride"])
def _attend(
    q,
    keys,
    values,
    pages,
    first_pages,
    pieces,
    sinks,
    out,
    part_values,
    part_sums,
    scale,
    page_stride,
    WINDOW: tl.constexpr,
    K: tl.constexpr,
    G: tl.constexpr,
    PADDED: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    WIDTH: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    piece = pieces + 7 * tl.program_id(0)
    count = tl.load(piece + 2)
    if count == 0:
        return
    sequence = tl.load(piece)
    first = tl.load(piece + 3)
    k0 = tl.load(piece + 4)
    k1 = tl.load(piece + 5)
    part = tl.load(piece + 6)
    kv = tl.program_id(1)
    m = tl.arange(0, TILE_M)
    head_M = kv * G + m % PADDED
    is_query = m // PADDED < count
    real_M = is_query & (m % PADDED < G)
    row_M = tl.load(piece + 1) + m // PADDED
    row_M = row_M.to(tl.int64)
    d = tl.arange(0, WIDTH)
    at_Mh = places(row_M * (K * G) + head_M, d, WIDTH)
    q_Mh = tl.load(q + at_Mh, mask=real_M[:, None], other=0.0)
    q_Mh = q_Mh.to(COMPUTE)
    k_at = keys + kv.to(tl.int64) * OF_PAGE * WIDTH
    v_at = values + kv.to(tl.int64) * OF_PAGE * WIDTH
    first_page = tl.load(first_pages + sequence)
    pages += sequence.to(tl.int64) * page_stride
    position_M = first + m // PADDED
    stride = K * OF_PAGE * WIDTH
    peak, total, sums = _summed(
        q_Mh, k_at, v_at, pages, first_page, position_M, k0, k1, scale, stride, WINDOW, TILE_N
    )
    if part < 0:
        o_Mh = _finished(peak, total, sums, sinks, head_M, real_M)
        o_Mh = o_Mh.to(out.dtype.element_ty)
        tl.store(out + at_Mh, o_Mh, mask=real_M[:, None])
    else:
        at_M = (part.to(tl.int64) * K + kv) * TILE_M + m
        tl.store(part_values + places(at_M, d, WIDTH), sums)
        tl.store(part_sums + at_M * 2, peak)
        tl.store(part_sums + at_M * 2 + 1, total)


@triton.jit
def _merge(
    part_values,
    part_sums,
    merges,
    sinks,
    out,
    K: tl.constexpr,
    G: tl.constexpr,
    PADDED: tl.constexpr,
    TILE_M: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The parts of a tile, in their order."""
    merge = merges + 4 * tl.program_id(0)
    count = tl.load(merge + 1)
    if count == 0:
        return
    first_part = tl.load(merge + 2)
    parts = tl.load(merge + 3)
    kv = tl.program_id(1)
    m = tl.arange(0, TILE_M)
    d = tl.arange(0, WIDTH)
    head_M = kv * G + m % PADDED
    is_query = m // PADDED < count
    real_M = is_query & (m % PADDED < G)
    peak = tl.full((TILE_M,), NEVER, tl.float32)
    total = tl.zeros((TILE_M,), tl.float32)
    sums = tl.zeros((TILE_M, WIDTH), tl.float32)
    for n in range(parts):
        at_M = ((first_part + n).to(tl.int64) * K + kv) * TILE_M + m
        its_sums = tl.load(part_values + places(at_M, d, WIDTH))
        its_peak = tl.load(part_sums + at_M * 2)
        its_total = tl.load(part_sums + at_M * 2 + 1)
        peak, total, sums = _merged(peak, total, sums, its_peak, its_total, its_sums)
    o_Mh = _finished(peak, total, sums, sinks, head_M, real_M)
    o_Mh = o_Mh.to(out.dtype.element_ty)
    row_M = tl.load(merge) + m // PADDED
    row_M = row_M.to(tl.int64)
    at_Mh = places(row_M * (K * G) + head_M, d, WIDTH)
    tl.store(out + at_Mh, o_Mh, mask=real_M[:, None])
