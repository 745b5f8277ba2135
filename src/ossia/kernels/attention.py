"""Attention of packed queries over packed keys: grouped heads, windows, sinks, an online softmax.

Bound: 4*H*h FLOPs for every (query, key) pair that is allowed, in float32; for one query a sequence
the bytes of its keys and values. Memory is O(tile x chunk), never T x N: a tile of queries walks
over its keys in chunks and keeps a running maximum and sum (Dao et al., FlashAttention, arXiv
2205.14135). Tiles of one shape are computed together.

The sink is a learned score s per head that takes part in the softmax and has no value:
    o = sum_j exp(z_j) v_j / (exp(s) + sum_j exp(z_j)) = softmax(z) v * sigmoid(logsumexp(z) - s)
so it costs one multiplication at the end, and autograd through it is exact.

T queries, N keys, H query heads, K key-value heads, G = H/K, h head width; n tiles of q queries and
m keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ossia.batch import Spans, Tile
from ossia.kernels.choice import same_bits

KEY_CHUNK = 1024
GROUP_ELEMENTS = 1 << 23  # scores held at once: 32 MiB of float32
# a running maximum that every score exceeds; finite, so that without any score exp gives 0, not NaN
NEVER = -1e30


def attention(
    q_THh: Tensor, k_NKh: Tensor, v_NKh: Tensor, spans: Spans, sink_H: Tensor | None, scale: float
) -> Tensor:
    """[T, H, h] in the dtype of q; scores, softmax and sums in float32. `sink_H` None: a plain
    softmax.
    """
    out_THh = torch.empty_like(q_THh)
    for tiles in groups_of(spans.tiles, q_THh.shape[1]):
        rows_nq, real_nq = rows_of(tiles, q_THh.device)
        o_nqHh = _tiles(q_THh, k_NKh, v_NKh, spans, tiles, rows_nq, sink_H, scale)
        out_THh.index_copy_(0, rows_nq[real_nq], o_nqHh[real_nq].to(q_THh.dtype))
    return out_THh


def attend_pages(
    q_THh: Tensor,
    k_TKh: Tensor,
    v_TKh: Tensor,
    rope: tuple[Tensor, Tensor],
    memory: Tensor,
    placed: Any,
    sink_H: Tensor | None,
    window: int | None,
    scale: float,
) -> Tensor:
    """Rotates queries and keys, writes keys and values to their pages, and attends over these:
    [T, H, h]. `memory` and `placed`: a layer and its `Placement` of `triton/paging.py`.
    """
    from ossia.kernels.triton import attention
    from ossia.kernels.triton import rope as rotation

    q_THh = rotation.rotate_and_write(q_THh, k_TKh, v_TKh, rope, memory, placed)
    return attention.attend_pages(q_THh, memory, placed, sink_H, window, scale, same_bits())


def groups_of(tiles: tuple[Tile, ...], heads: int) -> Iterator[list[Tile]]:
    """Tiles of about the same shape, as many together as the memory for scores allows."""
    by_shape: dict[tuple[int, int], list[Tile]] = defaultdict(list)
    for tile in tiles:
        shape = (_round_up(tile.q1 - tile.q0), _round_up(tile.k1 - tile.k0))
        by_shape[shape].append(tile)
    for (q, m), same in by_shape.items():
        together = max(1, GROUP_ELEMENTS // (heads * q * min(m, KEY_CHUNK)))
        for n in range(0, len(same), together):
            yield same[n : n + together]


def _round_up(n: int) -> int:
    """Powers of two up to 128, multiples of 128 above: the shapes that tiles are padded to."""
    if n <= 128:
        return 1 << (n - 1).bit_length()
    return (n + 127) // 128 * 128


def rows_of(tiles: list[Tile], device: torch.device) -> tuple[Tensor, Tensor]:
    """Query rows [n, q] of tiles padded to the longest, and which of them are real."""
    q = max(t.q1 - t.q0 for t in tiles)
    begin = torch.tensor([[t.q0] for t in tiles], device=device)
    last = torch.tensor([[t.q1 - 1] for t in tiles], device=device)
    rows_nq = begin + torch.arange(q, device=device)
    return torch.minimum(rows_nq, last), rows_nq <= last


def _tiles(
    q_THh: Tensor,
    k_NKh: Tensor,
    v_NKh: Tensor,
    spans: Spans,
    tiles: list[Tile],
    rows_nq: Tensor,
    sink_H: Tensor | None,
    scale: float,
) -> Tensor:
    """Outputs [n, q, H, h] in float32 of a group of tiles."""
    n, q = rows_nq.shape
    kv_heads, h = k_NKh.shape[1:]
    groups = q_THh.shape[1] // kv_heads
    q_nqHh = q_THh[rows_nq].float() * scale
    q_nKGqh = q_nqHh.view(n, q, kv_heads, groups, h).permute(0, 2, 3, 1, 4)
    q_bxh = q_nKGqh.reshape(n * kv_heads, groups * q, h)  # one matrix per tile and key-value head
    lo_nq1 = spans.lo_T[rows_nq].unsqueeze(2)
    hi_nq1 = spans.hi_T[rows_nq].unsqueeze(2)
    first = torch.tensor([[t.k0] for t in tiles], device=q_THh.device)
    most = max(t.k1 - t.k0 for t in tiles)
    peak = q_bxh.new_full((n * kv_heads, groups * q, 1), NEVER)
    total = torch.zeros_like(peak)
    acc = torch.zeros_like(q_bxh)
    for c in range(0, most, KEY_CHUNK):
        at_nm = first + torch.arange(c, min(c + KEY_CHUNK, most), device=q_THh.device)
        at_n1m = at_nm.unsqueeze(1)
        allowed_nqm = (at_n1m >= lo_nq1) & (at_n1m < hi_nq1)
        at_nm = at_nm.clamp(max=k_NKh.shape[0] - 1)
        k_bmh = k_NKh[at_nm].transpose(1, 2).float().flatten(0, 1)
        v_bmh = v_NKh[at_nm].transpose(1, 2).float().flatten(0, 1)
        z = torch.bmm(q_bxh, k_bmh.transpose(1, 2)).view(n, kv_heads, groups, q, -1)
        z = z.masked_fill(~allowed_nqm[:, None, None], -torch.inf)
        z = z.view(n * kv_heads, groups * q, -1)
        new_peak = torch.maximum(peak, z.detach().amax(-1, keepdim=True))
        p = torch.exp(z - new_peak)
        keep = torch.exp(peak - new_peak)
        total = total * keep + p.sum(-1, keepdim=True)
        acc = acc * keep + torch.bmm(p, v_bmh)
        peak = new_peak
    o = acc / total
    if sink_H is not None:
        sink_1KG1 = sink_H.float().view(1, kv_heads, groups, 1)
        sink = sink_1KG1.expand(n, -1, -1, q).reshape_as(total)
        o = o * torch.sigmoid(peak + torch.log(total) - sink)
    o_nKGqh = o.view(n, kv_heads, groups, q, h)
    return o_nKGqh.permute(0, 3, 1, 2, 4).reshape(n, q, -1, h)
