"""The mixture of experts: tokens grouped by expert, clamped SwiGLU, weighted sum.

Bound: for few tokens the bytes of the chosen experts (4.25 bits a weight when packed), for many
6*T*k*D*F FLOPs. Tokens go to their expert's matrices, never the matrices to the tokens: each chosen
expert's weights are decoded once a forward pass.

T tokens, D hidden, E experts, k chosen per token, F intermediate, n tokens of one expert.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ossia.config import SWIGLU_ALPHA
from ossia.kernels import triton
from ossia.kernels.choice import same_bits
from ossia.kernels.linear import widened

# Of one expert at a time, so that memory stays bounded however unevenly tokens are routed.
MAX_ROWS = 4096
# blocks uint8 [E, rows, G, 16], scales uint8 [E, rows, G], biases [E, rows]
Packed = tuple[Tensor, Tensor, Tensor]
# (expert, dtype) -> that expert's matrix [rows, columns]
MatrixOf = Callable[[int, torch.dtype], Tensor]


def swiglu(h_nF2: Tensor, limit: float) -> Tensor:
    """[n, F] from the interleaved [n, 2F]: even columns gate, odd columns linear; the gate has no
    lower clamp.
    """
    gate = h_nF2[..., 0::2].clamp(max=limit)
    up = h_nF2[..., 1::2].clamp(-limit, limit)
    return gate * torch.sigmoid(SWIGLU_ALPHA * gate) * (up + 1)


def experts(
    x_TD: Tensor,
    choice_Tk: Tensor,
    weight_Tk: Tensor,
    gate_up: tuple[MatrixOf, Tensor],
    down: tuple[MatrixOf, Tensor],
    limit: float,
) -> Tensor:
    """Sum over the k chosen experts of weight * (W2 swiglu(W1 x + b1) + b2), added up in float32;
    [T, D]. A choice of E is no expert.

    `gate_up` and `down` are (matrix of an expert, biases [E, rows]). An expert's sum order does not
    depend on which other tokens are in the batch: experts are visited in the order of their
    numbers.
    """
    num_experts = gate_up[1].shape[0]
    top_k = choice_Tk.shape[1]
    order = torch.argsort(choice_Tk.flatten(), stable=True)
    counts = torch.bincount(choice_Tk.flatten(), minlength=num_experts).tolist()
    weight_sorted = weight_Tk.flatten()[order].float().unsqueeze(1)
    token_sorted = order // top_k
    y_TD = torch.zeros(x_TD.shape, dtype=torch.float32, device=x_TD.device)
    dtype = widened(x_TD[:0]).dtype
    begin = 0
    for expert, count in enumerate(counts[:num_experts]):
        if not count:
            continue
        matrices = gate_up[0](expert, dtype), down[0](expert, dtype)
        for n in range(begin, begin + count, MAX_ROWS):
            part = slice(n, min(n + MAX_ROWS, begin + count))
            x_nD = x_TD.index_select(0, token_sorted[part])
            biases = (gate_up[1][expert], down[1][expert])
            y_nD = _expert(x_nD, *matrices, *biases, limit)
            y_TD.index_add_(0, token_sorted[part], y_nD.float() * weight_sorted[part])
        begin += count
    return y_TD.to(dtype)


def packed_experts(
    x_TD: Tensor, choice_Tk: Tensor, weight_Tk: Tensor, gate_up: Packed, down: Packed, limit: float
) -> Tensor | None:
    """As `experts`, float32 [T, D], from (blocks, scales, biases) in MXFP4, which are never
    expanded; a choice of E is no expert. None if nothing serves them so.
    """
    if not triton.serves(x_TD, gate_up[2], down[2]):
        return None
    from ossia.kernels.triton.experts import experts_packed

    x_TD = widened(x_TD)
    return experts_packed(x_TD, choice_Tk, weight_Tk, gate_up, down, limit, same_bits())


def _expert(x_nD: Tensor, w1: Tensor, w2: Tensor, b1: Tensor, b2: Tensor, limit: float) -> Tensor:
    h_nF2 = F.linear(x_nD.to(w1.dtype), w1, b1.to(w1.dtype))
    a_nF = swiglu(h_nF2, limit).to(x_nD.dtype)
    return F.linear(a_nF.to(w2.dtype), w2, b2.to(w2.dtype))
