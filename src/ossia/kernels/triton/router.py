"""The router: float32 logits of all experts, the k largest, and a softmax over those k, at once.
Ties go to the lower number, whatever the batch. Bound: the bytes of its weight, and the start of a
kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ossia.kernels.triton.language import both, compute_type, launched, places, tl, triton

ROWS = 16  # of a tile: the same always


def route_rows(
    x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor, top_k: int, rows: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """choice int64 [T, k], best first, weight float32 [T, k], logits float32 [T, E]. `rows`, int32
    [1] on the device: later rows are padding, and choose E, which is no expert.
    """
    x_TD = x_TD.contiguous()
    weight_ED = weight_ED.contiguous()
    tokens, width = x_TD.shape
    experts = len(weight_ED)
    device = x_TD.device
    choice_Tk = torch.empty(tokens, top_k, dtype=torch.int64, device=device)
    weight_Tk = torch.empty(tokens, top_k, device=device)
    logits_TE = torch.empty(tokens, experts, device=device)
    # products of bfloat16 are exact in float32
    exact = x_TD.dtype == weight_ED.dtype == torch.bfloat16
    compute = compute_type(torch.bfloat16 if exact else torch.float32)
    tensors = (x_TD, weight_ED, bias_E, rows, choice_Tk, weight_Tk, logits_TE)
    padded = max(16, triton.next_power_of_2(experts))
    top_padded = triton.next_power_of_2(top_k)
    sizes = (tokens, width, experts, top_k, top_padded, ROWS, padded, depth_of(padded, exact))
    grid = (triton.cdiv(tokens, ROWS),)
    _route[grid](*tensors, *sizes, compute, **launched(4, 2))
    return choice_Tk, weight_Tk, logits_TE


def depth_of(experts: int, exact: bool) -> int:
    """Of the sum's tile, so that its loads fit in any GPU's shared memory."""
    return min(256, 8192 // experts) if exact else 64


@triton.jit(do_not_specialize=["T"])
def _route(
    x,
    weight,
    bias,
    rows,
    choices,
    weights,
    logits,
    T,
    D,
    E: tl.constexpr,
    TOP: tl.constexpr,
    TOP_PADDED: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_E: tl.constexpr,
    TILE_K: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    m = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    e = tl.arange(0, TILE_E)
    row_M = m.to(tl.int64)
    scores = tl.zeros((TILE_M, TILE_E), tl.float32)
    for k in range(0, D, TILE_K):
        at = k + tl.arange(0, TILE_K)
        inside = both(m < T, at < D)
        x_MK = tl.load(x + places(row_M, at, D), mask=inside, other=0.0)
        x_MK = x_MK.to(COMPUTE)
        inside = both(at < D, e < E)
        w_KE = tl.load(weight + places(at, e * D, 1), mask=inside, other=0.0)
        w_KE = w_KE.to(COMPUTE)
        scores = tl.dot(x_MK, w_KE, scores, input_precision="ieee")
    b_E = tl.load(bias + e, mask=e < E, other=0.0)
    b_E = b_E.to(tl.float32)
    scores += b_E[None, :]
    inside = both(m < T, e < E)
    tl.store(logits + places(m, e, E), scores, mask=inside)

    chosen, value = _largest(scores, E, TOP, TOP_PADDED, TILE_M, TILE_E)
    j = tl.arange(0, TOP_PADDED)
    largest = tl.max(value, 1)
    power = tl.exp(value - largest[:, None])
    total = tl.sum(power, 1)
    share = power / total[:, None]
    if rows is not None:
        is_real = m < tl.load(rows)
        chosen = tl.where(is_real[:, None], chosen, E)
    inside = both(m < T, j < TOP)
    at = places(m, j, TOP)
    tl.store(choices + at, chosen, mask=inside)
    tl.store(weights + at, share, mask=inside)


@triton.jit
def _largest(
    scores,
    E: tl.constexpr,
    TOP: tl.constexpr,
    TOP_PADDED: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_E: tl.constexpr,
):
    """The TOP best of the first E columns, best first: columns and scores [TILE_M, TOP_PADDED]."""
    e = tl.arange(0, TILE_E)
    left = tl.where(e[None, :] < E, scores, float("-inf"))
    j = tl.arange(0, TOP_PADDED)
    chosen = tl.zeros((TILE_M, TOP_PADDED), tl.int64)
    value = tl.full((TILE_M, TOP_PADDED), float("-inf"), tl.float32)
    for n in tl.static_range(TOP):
        best = tl.max(left, 1)
        is_best = left == best[:, None]
        lowest = tl.where(is_best, e[None, :], E - 1)  # NaN equals nothing
        at = tl.min(lowest, 1)
        is_nth = (j == n)[None, :]
        chosen = tl.where(is_nth, at[:, None], chosen)
        value = tl.where(is_nth, best[:, None], value)
        is_taken = e[None, :] == at[:, None]
        left = tl.where(is_taken, float("-inf"), left)
    return chosen, value
