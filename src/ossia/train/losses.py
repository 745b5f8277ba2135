"""Losses as pure functions. Knows tensors only.

R rows, D hidden, V vocabulary; T tokens, E experts, k chosen per token, S documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ossia.kernels.logprobs import chunk_rows
from ossia.kernels.products import product
from ossia.kernels.training import check_targets, softmax_gradient


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, weight_VD: Tensor, target_R: Tensor) -> Tensor:
        vocabulary = len(weight_VD)
        check_targets(target_R, vocabulary)
        rows = chunk_rows(vocabulary)
        w_VD = weight_VD.to(x_RD.dtype)
        w_DV = w_VD.T
        wide = torch.promote_types(x_RD.dtype, torch.float32)
        dx_RD = torch.empty_like(x_RD)
        dw_DV = torch.zeros(w_DV.shape, dtype=wide, device=x_RD.device)
        losses = [x_RD.new_zeros(0, dtype=wide)]
        for first in range(0, len(x_RD), rows):
            chunk = slice(first, first + rows)
            x = x_RD[chunk]
            logits = product(x, w_DV).to(wide)
            loss, dlogits = softmax_gradient(logits, target_R[chunk])
            dlogits = dlogits.to(x.dtype)
            losses.append(loss)
            dx_RD[chunk] = product(dlogits, w_VD)
            # this way round the smaller of the two is the one that is transposed
            dw_DV += product(x.T, dlogits)
        dw_VD = dw_DV.T.contiguous()
        ctx.save_for_backward(dx_RD, dw_VD)
        ctx.count = max(1, len(x_RD))
        mean: Tensor = torch.cat(losses).sum() / ctx.count
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dx_RD, dw_VD = ctx.saved_tensors
        scale = grad / ctx.count
        return dx_RD * scale.to(dx_RD.dtype), dw_VD * scale, None


def cross_entropy(x_RD: Tensor, unembedding_VD: Tensor, target_R: Tensor) -> Tensor:
    """Mean over rows of -log softmax(x W^T)[target], without ever holding [R, V]; 0 of no rows.

    The gradients are worked out chunk by chunk in the forward pass, while the logits are at hand.
    """
    apply: Any = _ChunkedCrossEntropy.apply
    loss: Tensor = apply(x_RD, unembedding_VD, target_R)
    return loss


def assignments(choice_Tk: Tensor, experts: int) -> Tensor:
    """int64 [E]: how many of the k*T assignments go to each expert."""
    return torch.bincount(choice_Tk.flatten(), minlength=experts)


def load_balance(logits_TE: Tensor, top_k: int, counts_E: Tensor | None = None) -> Tensor:
    """Switch Transformer load-balance loss (arXiv 2101.03961, eq. 4-6) for top-k routing; 1.0 when
    perfectly balanced.

    E * sum_i f_i P_i, f_i the share of the assignments that went to expert i, P_i its mean
    probability over these tokens. `counts_E` are the assignments that f is taken from; None: those
    of these tokens. f has no gradient.
    """
    experts = logits_TE.shape[1]
    if counts_E is None:
        counts_E = assignments(logits_TE.topk(top_k, dim=-1).indices, experts)
    p_TE = _wide(logits_TE).softmax(-1)
    share_E = counts_E.to(p_TE.dtype) / counts_E.sum()
    return experts * (share_E * p_TE.mean(0)).sum()


def sequence_load_balance(logits_TE: Tensor, top_k: int, lengths: Sequence[int]) -> Tensor:
    """`load_balance` of each document by itself (DeepSeek-V3, arXiv 2412.19437, eq. 17-20),
    averaged over tokens, so that a document weighs as much as it is long. `lengths` say how many of
    the T tokens each document has.
    """
    tokens, experts = logits_TE.shape
    assert sum(lengths) == tokens, (sum(lengths), tokens)
    device = logits_TE.device
    documents = len(lengths)
    length_S = torch.tensor(lengths, device=device)
    document_T = torch.arange(documents, device=device).repeat_interleave(length_S)
    choice_Tk = logits_TE.topk(top_k, dim=-1).indices
    pair_Tk = document_T.unsqueeze(1) * experts + choice_Tk
    counts_SE = assignments(pair_Tk, documents * experts).view(-1, experts)
    p_TE = _wide(logits_TE).softmax(-1)
    made_S1 = top_k * length_S.unsqueeze(1)
    share_SE = counts_SE.to(p_TE.dtype) / made_S1
    return experts / tokens * (share_SE[document_T] * p_TE).sum()


def router_z(logits_TE: Tensor) -> Tensor:
    """Mean squared log-sum-exp of the router's logits (ST-MoE, arXiv 2202.08906, eq. 5): keeps them
    small.
    """
    return _wide(logits_TE).logsumexp(-1).square().mean()


def _wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
