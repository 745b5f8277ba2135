"""y = x W^T + b in tiles that are the same whatever the number of rows, where libraries cut sums by
shape: a row has the same bits alone and among others. Bound: the bytes of W, or the tensor cores.
"""

from __future__ import annotations

from torch import Tensor

from ossia.kernels.triton import architecture
from ossia.kernels.triton.language import both, compute_type, launched, places, tl, triton
from ossia.kernels.triton.tiles import LINEAR, family


def linear_tiles(x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    """[T, N] in the dtype of x; a weight of another dtype is converted on the way."""
    x_TK = x_TK.contiguous()
    assert weight_NK.is_contiguous()
    rows, depth = x_TK.shape
    columns = weight_NK.shape[0]
    tile = LINEAR[family(architecture(x_TK.device))]
    out_TN = x_TK.new_empty(rows, columns)
    grid = (triton.cdiv(columns, tile.columns), triton.cdiv(rows, tile.rows))
    sizes = (rows, columns, depth, tile.rows, tile.columns, tile.depth)
    options = launched(tile.warps, tile.stages)
    compute = compute_type(x_TK.dtype)
    _linear[grid](x_TK, weight_NK, bias_N, out_TN, *sizes, compute, **options)
    return out_TN


@triton.jit(do_not_specialize=["T"])
def _linear(
    x,
    weight,
    bias,
    out,
    T,
    N,
    K,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * TILE_N + tl.arange(0, TILE_N)
    m = tl.program_id(1).to(tl.int64) * TILE_M + tl.arange(0, TILE_M)
    total = tl.zeros((TILE_N, TILE_M), tl.float32)
    for k in range(0, K, TILE_K):
        at = k + tl.arange(0, TILE_K)
        inside = both(n < N, at < K)
        w_NK = tl.load(weight + places(n, at, K), mask=inside, other=0.0)
        w_NK = w_NK.to(COMPUTE)
        inside = both(at < K, m < T)
        x_KM = tl.load(x + places(at, m * K, 1), mask=inside, other=0.0)
        x_KM = x_KM.to(COMPUTE)
        total = tl.dot(w_NK, x_KM, total, input_precision="ieee")
    if bias is not None:
        b_N = tl.load(bias + n, mask=n < N, other=0.0)
        b_N = b_N.to(tl.float32)
        total += b_N[:, None]
    at = places(n, m * N, 1)
    y_NM = total.to(out.dtype.element_ty)
    tl.store(out + at, y_NM, mask=both(n < N, m < T))
