"""Rotary embedding of queries and keys, and the write of keys and values to their pages, at once.
Bound: reads q, k, v once and writes them once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ossia.config import PAGE
from ossia.kernels.triton.language import launched, tl, triton
from ossia.kernels.triton.paging import Placement


def rotate_and_write(
    q_THh: Tensor,
    k_TKh: Tensor,
    v_TKh: Tensor,
    rope: tuple[Tensor, Tensor],
    memory: Tensor,
    placed: Placement,
) -> Tensor:
    """The rotated queries [T, H, h] in their dtype; keys, rotated, and values go to `memory`
    [2, pages, K, PAGE, h]. Angles and products in float32.
    """
    tokens, heads, width = q_THh.shape
    kv_heads = k_TKh.shape[1]
    out_THh = torch.empty_like(q_THh, memory_format=torch.contiguous_format)
    cos_Tr, sin_Tr = (part.float().contiguous() for part in rope)
    given = [part.contiguous() for part in (q_THh, k_TKh, v_TKh)]
    tensors = (*given, cos_Tr, sin_Tr, placed.slots_T, out_THh, memory[0], memory[1])
    grid = (tokens, heads + kv_heads)
    _rotate[grid](*tensors, heads, kv_heads, PAGE, width // 2, **launched(1, 1))
    return out_THh


@triton.jit
def _rotate(
    q,
    k,
    v,
    cos,
    sin,
    slots,
    out,
    keys,
    values,
    H: tl.constexpr,
    K: tl.constexpr,
    PAGE: tl.constexpr,
    HALF: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    d = tl.arange(0, HALF)
    c = tl.load(cos + token * HALF + d)
    s = tl.load(sin + token * HALF + d)
    if head < H:
        at = (token * H + head) * (2 * HALF) + d
        a = tl.load(q + at).to(tl.float32)
        b = tl.load(q + at + HALF).to(tl.float32)
        tl.store(out + at, (a * c - b * s).to(out.dtype.element_ty))
        tl.store(out + at + HALF, (b * c + a * s).to(out.dtype.element_ty))
    else:
        slot = tl.load(slots + token).to(tl.int64)
        if slot >= 0:
            kv = head - H
            at = (token * K + kv) * (2 * HALF) + d
            to = ((slot // PAGE * K + kv) * PAGE + slot % PAGE) * (2 * HALF) + d
            kind = keys.dtype.element_ty
            a = tl.load(k + at).to(tl.float32)
            b = tl.load(k + at + HALF).to(tl.float32)
            tl.store(keys + to, (a * c - b * s).to(kind))
            tl.store(keys + to + HALF, (b * c + a * s).to(kind))
            tl.store(values + to, tl.load(v + at).to(kind))
            tl.store(values + to + HALF, tl.load(v + at + HALF).to(kind))
