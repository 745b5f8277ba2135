"""y = x W^T + b, whatever dtype W is stored in.

Bound: for few rows the bytes of W, for many 2*T*N*K FLOPs. A weight stored in another dtype than
the one computed in is converted on the way, a chunk of rows at a time, so that no second copy of a
big matrix (the unembedding: 1.2 GB in bfloat16) is ever held.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ossia.kernels import triton
from ossia.kernels.choice import in_training, same_bits
from ossia.kernels.products import linear_training

CHUNK_ELEMENTS = 1 << 24  # of weight converted at a time: 64 MiB in float32


def linear(x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """[T, N] in the dtype of x; except that without training, bfloat16 on a CPU gives float32:
    products of bfloat16 are exact there, so the only rounding left is that of the sums, as in the
    compiled kernels.
    """
    is_trained = in_training(x_TK, weight_NK)
    if not is_trained:
        x_TK = widened(x_TK)
        if same_bits() and triton.serves(x_TK, weight_NK, bias_N):
            from ossia.kernels.triton.linear import linear_tiles

            return linear_tiles(x_TK, weight_NK, bias_N)
    if bias_N is not None:
        bias_N = bias_N.to(x_TK.dtype)
    rows = max(1, CHUNK_ELEMENTS // weight_NK.shape[1])
    if weight_NK.dtype != x_TK.dtype and weight_NK.shape[0] > rows:
        return _linear_in_chunks(x_TK, weight_NK, bias_N, rows, is_trained)
    weight_NK = weight_NK.to(x_TK.dtype)
    if is_trained and not torch.compiler.is_compiling():
        return linear_training(x_TK, weight_NK, bias_N)
    return F.linear(x_TK, weight_NK, bias_N)


def _linear_in_chunks(
    x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None, rows: int, is_trained: bool
) -> Tensor:
    """`rows` of the weight are converted at a time. For autograd the pieces must stay apart."""
    columns = weight_NK.shape[0]
    out_TN = None if is_trained else x_TK.new_empty(x_TK.shape[0], columns)
    pieces = []
    for n in range(0, columns, rows):
        weight = weight_NK[n : n + rows].to(x_TK.dtype)
        bias = None if bias_N is None else bias_N[n : n + rows]
        piece = F.linear(x_TK, weight, bias)
        if out_TN is None:
            pieces.append(piece)
        else:
            out_TN[:, n : n + rows] = piece
    return torch.cat(pieces, dim=1) if out_TN is None else out_TN


def widened(x: Tensor) -> Tensor:
    """float32 in place of bfloat16 on a CPU; anything else unchanged."""
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":
        return x.float()
    return x
