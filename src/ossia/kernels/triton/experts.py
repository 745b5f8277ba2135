"""The experts of a batch from their published bytes: MXFP4 is decoded in registers, on its way into
the product.

Bound: for few tokens the bytes of the chosen experts, for many the tensor cores; in between perhaps
the six integer operations that decoding a value takes. The weight is the first factor, so tiles of
few tokens still use instructions for many rows. Products in the type of the tokens, exact for
bfloat16; sums, SwiGLU and weighting in float32. A token's experts are added up in the order of its
choice.

T tokens, D hidden, E experts, k chosen per token, F intermediate, A = T*k assignments; a tile has M
rows, N outputs, K of the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ossia.config import SWIGLU_ALPHA
from ossia.kernels.triton import architecture
from ossia.kernels.triton.language import both, compute_type, launched, places, tl, triton
from ossia.kernels.triton.routing import Routing, routing
from ossia.kernels.triton.tiles import EXPERTS, Tile, chosen

Packed = tuple[Tensor, Tensor, Tensor]  # as in kernels/experts.py


def experts_packed(
    x_TD: Tensor,
    choice_Tk: Tensor,
    weight_Tk: Tensor,
    gate_up: Packed,
    down: Packed,
    limit: float,
    same_bits: bool = False,
) -> Tensor:
    """Sum over the chosen experts of weight * (W2 swiglu(W1 x + b1) + b2): float32 [T, D]. A choice
    of E is no expert. `same_bits`: a token's result does not depend on the other tokens.
    """
    tokens, top_k = choice_Tk.shape
    experts, _, groups = gate_up[1].shape
    assert x_TD.shape == (tokens, 32 * groups)
    average = tokens * top_k / experts
    tile = chosen(EXPERTS, architecture(x_TD.device), average, same_bits)
    routed = routing(choice_Tk, experts, tile.rows)
    inner_AF = experts_up(x_TD.contiguous(), routed, gate_up, top_k, limit, tile)
    outer_AD = experts_down(inner_AF, weight_Tk.contiguous(), routed, down, tile)
    out_TD = torch.empty(tokens, outer_AD.shape[1], device=x_TD.device)
    width = 1024
    grid = (tokens, triton.cdiv(out_TD.shape[1], width))
    _add_up[grid](outer_AD, out_TD, out_TD.shape[1], top_k, width, **launched(4, 1))
    return out_TD


def experts_up(
    x_TD: Tensor, routed: Routing, packed: Packed, top_k: int, limit: float, tile: Tile
) -> Tensor:
    """swiglu(W1 x + b1) of every assignment, [A, F] in the order of `routed`."""
    blocks, scales, bias = packed
    _, outputs, groups = scales.shape
    assignments = len(routed.order_A)
    inner_AF = x_TD.new_empty(assignments, outputs // 2)
    grid = (triton.cdiv(outputs, tile.columns), len(routed.tiles_N3))
    tensors = (x_TD, blocks, scales, bias, inner_AF, routed.order_A, routed.tiles_N3)
    sizes = (32 * groups, outputs, limit, SWIGLU_ALPHA, top_k)
    shape = (tile.rows, tile.columns, tile.depth)
    options = launched(tile.warps, tile.stages)
    _up[grid](*tensors, *sizes, *shape, compute_type(x_TD.dtype), **options)
    return inner_AF


def experts_down(
    inner_AF: Tensor, weight_Tk: Tensor, routed: Routing, packed: Packed, tile: Tile
) -> Tensor:
    """weight * (W2 a + b2) of every assignment: float32 [A, D], token after token."""
    blocks, scales, bias = packed
    _, outputs, groups = scales.shape
    # float32, and written only where there is an expert
    outer_AD = torch.zeros(len(inner_AF), outputs, device=inner_AF.device)
    grid = (triton.cdiv(outputs, tile.columns), len(routed.tiles_N3))
    tensors = (inner_AF, blocks, scales, bias, outer_AD, weight_Tk, routed.order_A, routed.tiles_N3)
    shape = (tile.rows, tile.columns, tile.depth)
    options = launched(tile.warps, tile.stages)
    compute = compute_type(inner_AF.dtype)
    _down[grid](*tensors, 32 * groups, outputs, *shape, compute, **options)
    return outer_AD


@triton.jit
def _decoded(codes, scales):
    """float32 values of e2m1 codes [n, g, 32] times 2^(scale - 127), scales [n, g]: exact.

    Exponent and mantissa of a code lie as in a float32; its two values below 1 are set by hand.
    """
    magnitude = codes & 7
    bits = tl.where(magnitude > 1, (magnitude << 22) + 0x3F000000, magnitude * 0x3F000000)
    bits = bits | ((codes & 8) << 28)
    power = tl.where(scales == 0, 0x00400000, scales << 23)
    power = tl.where(scales == 255, 0x7FC00000, power)  # NaN
    factor = power.to(tl.float32, bitcast=True)
    return bits.to(tl.float32, bitcast=True) * tl.expand_dims(factor, 2)


@triton.jit
def _weights(blocks, scales, rows, row_inside, k, K, TILE_N: tl.constexpr, TILE_K: tl.constexpr):
    """[TILE_N, TILE_K] of a packed matrix of K columns: these rows of all experts' rows, the
    columns from k on, 0 where there are none.
    """
    at = k // 2 + tl.arange(0, TILE_K // 2)
    group = k // 32 + tl.arange(0, TILE_K // 32)
    inside = both(row_inside, at < K // 2)
    pairs = tl.load(blocks + places(rows, at, K // 2), mask=inside, other=0)
    pairs = pairs.to(tl.int32)
    inside = both(row_inside, group < K // 32)
    scale = tl.load(scales + places(rows, group, K // 32), mask=inside, other=0)
    scale = scale.to(tl.int32)
    low = pairs & 15  # the earlier value
    codes = tl.join(low, pairs >> 4)
    codes = tl.reshape(codes, (TILE_N, TILE_K // 32, 32))
    values = _decoded(codes, scale)
    return tl.reshape(values, (TILE_N, TILE_K))


@triton.jit
def _product(
    x,
    x_rows,
    x_inside,
    blocks,
    scales,
    bias,
    rows,
    row_inside,
    K,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """W x^T + b in float32 [TILE_N, TILE_M], of packed rows and of rows of x [*, K]."""
    total = tl.zeros((TILE_N, TILE_M), tl.float32)
    for k in range(0, K, TILE_K):
        at = k + tl.arange(0, TILE_K)
        inside = both(at < K, x_inside)
        x_KM = tl.load(x + places(at, x_rows * K, 1), mask=inside, other=0.0)
        x_KM = x_KM.to(COMPUTE)
        w_NK = _weights(blocks, scales, rows, row_inside, k, K, TILE_N, TILE_K)
        w_NK = w_NK.to(COMPUTE)
        total = tl.dot(w_NK, x_KM, total, input_precision="ieee")
    b_N = tl.load(bias + rows, mask=row_inside, other=0.0)
    b_N = b_N.to(tl.float32)
    return total + b_N[:, None]


@triton.jit
def _up(
    x,
    blocks,
    scales,
    bias,
    out,
    order,
    tiles,
    K,
    N,
    limit,
    alpha,
    top_k,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    tile = tiles + 3 * tl.program_id(1)
    count = tl.load(tile + 2)
    if count == 0:
        return
    expert = tl.load(tile).to(tl.int64)
    m = tl.arange(0, TILE_M)
    inside_M = m < count
    row_M = tl.load(tile + 1) + m
    token_M = tl.load(order + row_M, mask=inside_M, other=0) // top_k
    n = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    inside_N = n < N
    h_NM = _product(
        x,
        token_M.to(tl.int64),
        inside_M,
        blocks,
        scales,
        bias,
        expert * N + n,
        inside_N,
        K,
        TILE_M,
        TILE_N,
        TILE_K,
        COMPUTE,
    )
    # even rows gate, odd rows linear
    pairs = tl.permute(tl.reshape(h_NM, (TILE_N // 2, 2, TILE_M)), (0, 2, 1))
    gate, up = tl.split(pairs)
    gate = tl.minimum(gate, limit, propagate_nan=tl.PropagateNan.ALL)
    up = tl.minimum(up, limit, propagate_nan=tl.PropagateNan.ALL)
    up = tl.maximum(up, -limit, propagate_nan=tl.PropagateNan.ALL)
    a_FM = gate * tl.sigmoid(alpha * gate) * (up + 1)
    f = tl.program_id(0) * (TILE_N // 2) + tl.arange(0, TILE_N // 2)
    inside = both(f < N // 2, inside_M)
    at = places(f, row_M.to(tl.int64) * (N // 2), 1)
    a_FM = a_FM.to(out.dtype.element_ty)
    tl.store(out + at, a_FM, mask=inside)


@triton.jit
def _down(
    x,
    blocks,
    scales,
    bias,
    out,
    weights,
    order,
    tiles,
    K,
    N,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    tile = tiles + 3 * tl.program_id(1)
    count = tl.load(tile + 2)
    if count == 0:
        return
    expert = tl.load(tile).to(tl.int64)
    m = tl.arange(0, TILE_M)
    inside_M = m < count
    row_M = tl.load(tile + 1) + m
    assignment_M = tl.load(order + row_M, mask=inside_M, other=0)
    n = tl.program_id(0) * TILE_N + tl.arange(0, TILE_N)
    inside_N = n < N
    y_NM = _product(
        x,
        row_M.to(tl.int64),
        inside_M,
        blocks,
        scales,
        bias,
        expert * N + n,
        inside_N,
        K,
        TILE_M,
        TILE_N,
        TILE_K,
        COMPUTE,
    )
    weight_M = tl.load(weights + assignment_M, mask=inside_M, other=0.0)
    y_NM *= weight_M[None, :]
    inside = both(inside_N, inside_M)
    at = places(n, assignment_M.to(tl.int64) * N, 1)
    tl.store(out + at, y_NM, mask=inside)


@triton.jit
def _add_up(x, out, N, top_k, TILE: tl.constexpr):
    """out[t] = x[t*k] + x[t*k + 1] + ..., in this order."""
    token = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = n < N
    first = x + token * top_k * N + n
    total = tl.zeros((TILE,), tl.float32)
    for j in range(top_k):
        total += tl.load(first + j * N, mask=inside, other=0.0)
    tl.store(out + token * N + n, total, mask=inside)
