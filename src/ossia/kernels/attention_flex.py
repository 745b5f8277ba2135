"""Attention of training on a GPU: torch's FlexAttention, with a mask of blocks made from spans.

The sink is folded in by the log-sum-exp: o = softmax(z) v * sigmoid(lse - s). FlexAttention
differentiates by its log-sum-exp too, so the gradients by q, k, v and s are those of the softmax
with the sink. Blocks that no query of a row of blocks sees are never visited, those that all of
them see whole need no mask: bound by the pairs of queries and keys that are allowed, in blocks.

On a GPU it is compiled by torch; uncompiled, as tests run it on a CPU, it holds all scores.

T queries, N keys, H query heads, K key-value heads, h head width; R rows and C columns of blocks.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ossia.batch import Spans
from ossia.kernels.choice import trains_as_on_gpu

BLOCK = 128  # queries, and keys: what FlexAttention's own kernels are written for


def serves(q_THh: Tensor) -> bool:
    return trains_as_on_gpu(q_THh.device)


def attention_flex(
    q_THh: Tensor, k_NKh: Tensor, v_NKh: Tensor, spans: Spans, sink_H: Tensor | None, scale: float
) -> Tensor:
    """As `attention_training`."""
    from torch.nn.attention.flex_attention import AuxRequest

    blocks = spans.once("blocks", lambda: _blocks(spans, len(k_NKh)))
    given = [x.transpose(0, 1).unsqueeze(0) for x in (q_THh, k_NKh, v_NKh)]
    attend = _attend(q_THh.device.type)
    wanted = AuxRequest(lse=True)
    o, found = attend(*given, block_mask=blocks, scale=scale, enable_gqa=True, return_aux=wanted)
    o_THh = o[0].transpose(0, 1)
    if sink_H is not None:
        share_TH = torch.sigmoid(found.lse[0].transpose(0, 1) - sink_H)
        o_THh = o_THh * share_TH.unsqueeze(-1)
    out_THh: Tensor = o_THh.to(q_THh.dtype)
    return out_THh


@cache
def _attend(device: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention


def _blocks(spans: Spans, keys: int) -> Any:
    """A `BlockMask`. What a row of blocks sees is worked out from its first and last query alone,
    for neither end of the spans ever decreases.
    """
    from torch.nn.attention.flex_attention import BlockMask

    lo_T = spans.lo_T
    hi_T = spans.hi_T

    def allowed(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= lo_T[query]) & (key < hi_T[query])

    queries = len(lo_T)
    first_R = torch.arange(0, queries, BLOCK, device=lo_T.device)
    last_R = (first_R + BLOCK - 1).clamp(max=queries - 1)
    begin_C = torch.arange(0, keys, BLOCK, device=lo_T.device)
    end_C = begin_C + BLOCK
    is_seen_RC = (end_C > lo_T[first_R, None]) & (begin_C < hi_T[last_R, None])
    is_whole_RC = (begin_C >= lo_T[last_R, None]) & (end_C <= hi_T[first_R, None])
    return BlockMask.from_kv_blocks(
        *_listed(is_seen_RC & ~is_whole_RC),
        *_listed(is_seen_RC & is_whole_RC),
        BLOCK_SIZE=BLOCK,
        mask_mod=allowed,
        seq_lengths=(queries, keys),
    )


def _listed(chosen_RC: Tensor) -> tuple[Tensor, Tensor]:
    """How many of each row, and which, these first; of one batch and head: int32 [1, 1, R] and
    [1, 1, R, C].
    """
    counts_R = chosen_RC.sum(1)
    order_RC = torch.argsort(chosen_RC.int(), dim=1, descending=True, stable=True)
    return counts_R.int()[None, None], order_RC.int()[None, None]
