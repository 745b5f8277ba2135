"""Losses as pure functions. Knows tensors only.

R rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 21  # logits held at a time: 8 MiB in float32, which stays in cache


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, weight_VD: Tensor, target_R: Tensor) -> Tensor:
        rows = max(1, CHUNK_ELEMENTS // weight_VD.shape[0])
        w_VD = weight_VD.to(x_RD.dtype)
        dx_RD, dw_VD = torch.empty_like(x_RD), torch.zeros_like(weight_VD, dtype=torch.float32)
        losses = [x_RD.new_zeros(0, dtype=torch.float32)]
        for r in range(0, x_RD.shape[0], rows):
            x, target = x_RD[r : r + rows], target_R[r : r + rows, None]
            logits = (x @ w_VD.T).float()
            lse = logits.logsumexp(-1, keepdim=True)
            losses.append((lse - logits.gather(1, target)).squeeze(1))
            p = logits.sub_(lse).exp_()
            dlogits = p.scatter_add_(1, target, torch.full_like(lse, -1.0)).to(x.dtype)
            dx_RD[r : r + rows] = dlogits @ w_VD
            dw_VD += dlogits.T @ x
        ctx.save_for_backward(dx_RD, dw_VD)
        ctx.count = count = max(1, x_RD.shape[0])
        return torch.cat(losses).sum() / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dx_RD, dw_VD = ctx.saved_tensors
        scale = grad / ctx.count
        return dx_RD * scale.to(dx_RD.dtype), dw_VD * scale, None


def cross_entropy(x_RD: Tensor, unembedding_VD: Tensor, target_R: Tensor) -> Tensor:
    """Mean over rows of -log softmax(x W^T)[target], without ever holding [R, V]; 0 of no rows.

    The gradients are worked out chunk by chunk in the forward pass, while the logits are at hand.
    """
    return _ChunkedCrossEntropy.apply(x_RD, unembedding_VD, target_R)  # type: ignore[no-any-return, no-untyped-call]


def load_balance(logits_TE: Tensor, top_k: int) -> Tensor:
    """Switch Transformer load-balance loss (arXiv 2101.03961, eq. 4-6) for top-k routing; 1.0 when perfectly balanced.

    E * sum_i f_i P_i, f_i the share of the k*T assignments that went to expert i, P_i its mean probability.
    """
    experts = logits_TE.shape[1]
    chosen = logits_TE.topk(top_k, dim=-1).indices.flatten()
    share_E = torch.bincount(chosen, minlength=experts).float() / chosen.numel()
    return experts * (share_E * logits_TE.softmax(-1).mean(0)).sum()


def router_z(logits_TE: Tensor) -> Tensor:
    """Mean squared log-sum-exp of the router's logits (ST-MoE, arXiv 2202.08906, eq. 5): keeps them small."""
    return logits_TE.float().logsumexp(-1).square().mean()
