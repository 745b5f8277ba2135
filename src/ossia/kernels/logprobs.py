"""Log-probabilities of chosen tokens, and entropies, from the input of the unembedding.

One function for all who need them: the policy that is trained, the same weights before a step, a
reference, a teacher, and what an exact engine reports. Logits are made chunk by chunk, forward and
again in the backward pass, so that [R, V] is never held: the gradient by a row's logits needs what
the loss makes of that row's log-probability, which the forward pass cannot know.

Bound: 2*R*D*V FLOPs forward; backward 6*R*D*V, of which a third makes the logits again.

R rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ossia.kernels.products import product
from ossia.kernels.training import check_targets, softmax_gradient

CHUNK_ELEMENTS = 1 << 20  # logits held at a time: 4 MiB in float32, which stays in cache
CHUNK_ROWS = 64  # at least, or the products of a large vocabulary (201,088: 51 MB then) are slow


def chunk_rows(vocabulary: int) -> int:
    """Rows whose logits are held at a time."""
    return max(CHUNK_ROWS, CHUNK_ELEMENTS // vocabulary)


def logprobs(
    x_RD: Tensor,
    unembedding_VD: Tensor,
    target_R: Tensor,
    temperature: float | Tensor = 1.0,
    rows: int | None = None,
) -> Tensor:
    """log softmax(x W^T / T)[target] [R], in float32 at least; differentiable by x and W.

    `temperature`: one for all, or [R]. `rows`: of a chunk; they change no bit of the result where
    `products.hold_rows_alike` holds. Raises `IndexError` for a target outside of the vocabulary.
    """
    found, _ = _chunked(x_RD, unembedding_VD, target_R, temperature, rows, False)
    return found


def logprobs_and_entropy(
    x_RD: Tensor,
    unembedding_VD: Tensor,
    target_R: Tensor,
    temperature: float | Tensor = 1.0,
    rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`logprobs`, and the entropies of the same distributions in nats [R], differentiable too."""
    return _chunked(x_RD, unembedding_VD, target_R, temperature, rows, True)


def logits_of(x_RD: Tensor, unembedding_VD: Tensor) -> Tensor:
    """x W^T [R, V], as `logprobs` makes it; in float32 at least, not differentiable."""
    wide = torch.promote_types(x_RD.dtype, torch.float32)
    return product(x_RD, unembedding_VD.to(x_RD.dtype).T).to(wide)


def logprobs_of_logits(
    logits_RV: Tensor, target_R: Tensor, temperature: float | Tensor = 1.0
) -> Tensor:
    """As `logprobs`, of logits that are there already; not differentiable. They are overwritten."""
    check_targets(target_R, logits_RV.shape[1])
    found, _ = _of_chunk(logits_RV, target_R, _per_row(temperature, logits_RV))
    return found


def _chunked(
    x_RD: Tensor,
    unembedding_VD: Tensor,
    target_R: Tensor,
    temperature: float | Tensor,
    rows: int | None,
    entropy: bool,
) -> tuple[Tensor, Tensor]:
    check_targets(target_R, len(unembedding_VD))
    wide = torch.promote_types(x_RD.dtype, torch.float32)
    temperature_R = _per_row(temperature, x_RD.new_empty(len(x_RD), 0, dtype=wide))
    rows = rows or chunk_rows(len(unembedding_VD))
    apply: Any = _Logprobs.apply
    found: tuple[Tensor, Tensor] = apply(
        x_RD, unembedding_VD, target_R, temperature_R, rows, entropy
    )
    return found


def _per_row(temperature: float | Tensor, like_RN: Tensor) -> Tensor:
    """[R] in the dtype of `like`. One form for both sides of an exact comparison: dividing by a
    number and by a tensor may round differently.
    """
    if isinstance(temperature, Tensor):
        return temperature.to(like_RN.device, like_RN.dtype)
    return like_RN.new_full(like_RN.shape[:1], temperature)


def _of_chunk(logits_RV: Tensor, target_R: Tensor, temperature_R: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities [R], and probabilities minus 1 at the targets [R, V], in the memory of the
    logits.
    """
    logits_RV.div_(temperature_R.unsqueeze(1))
    loss_R, gradient_RV = softmax_gradient(logits_RV, target_R)
    return -loss_R, gradient_RV


def _entropy(p_RV: Tensor) -> Tensor:
    """-sum p log p [R]"""
    h_R: Tensor = torch.special.entr(p_RV).sum(-1)
    return h_R


def _as_probabilities(gradient_RV: Tensor, target_R: Tensor) -> Tensor:
    """The probabilities, in the memory of their difference to the targets."""
    one_R1 = gradient_RV.new_ones(len(target_R), 1)
    return gradient_RV.scatter_add_(1, target_R.unsqueeze(1), one_R1).clamp_(min=0)


class _Logprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_RD: Tensor,
        weight_VD: Tensor,
        target_R: Tensor,
        temperature_R: Tensor,
        rows: int,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x_RD, weight_VD, target_R, temperature_R)
        ctx.rows = rows
        weight_VD = weight_VD.to(x_RD.dtype)
        found_R = torch.empty_like(temperature_R)
        entropy_R = torch.zeros_like(temperature_R)
        for first in range(0, len(x_RD), rows):
            chunk = slice(first, first + rows)
            logits = logits_of(x_RD[chunk], weight_VD)
            target = target_R[chunk]
            found_R[chunk], gradient = _of_chunk(logits, target, temperature_R[chunk])
            if entropy:
                entropy_R[chunk] = _entropy(_as_probabilities(gradient, target))
        if not entropy:
            ctx.mark_non_differentiable(entropy_R)
        return found_R, entropy_R

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_R: Tensor | None, grad_entropy_R: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x_RD, weight_VD, target_R, temperature_R = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        w_VD = weight_VD.to(x_RD.dtype)
        dx_RD = torch.empty_like(x_RD) if wants_x else None
        dw_DV = None
        if wants_weight:
            dw_DV = torch.zeros(w_VD.T.shape, dtype=temperature_R.dtype, device=x_RD.device)
        for first in range(0, len(x_RD), ctx.rows):
            chunk = slice(first, first + ctx.rows)
            x = x_RD[chunk]
            logits = logits_of(x, w_VD)
            dlogits = _gradient_by_logits(
                logits,
                target_R[chunk],
                temperature_R[chunk],
                None if grad_R is None else grad_R[chunk],
                None if grad_entropy_R is None else grad_entropy_R[chunk],
            ).to(x.dtype)
            if dx_RD is not None:
                dx_RD[chunk] = product(dlogits, w_VD)
            if dw_DV is not None:
                # this way round the smaller of the two is the one that is transposed
                dw_DV += product(x.T, dlogits)
        dw_VD = None if dw_DV is None else dw_DV.T.contiguous().to(weight_VD.dtype)
        return dx_RD, dw_VD, None, None, None, None


def _gradient_by_logits(
    logits_RV: Tensor,
    target_R: Tensor,
    temperature_R: Tensor,
    grad_R: Tensor | None,
    grad_entropy_R: Tensor | None,
) -> Tensor:
    """[R, V]. By z = logits / T the gradient of log p[target] is onehot - p, and that of the
    entropy H is -p (log p + H).
    """
    _, gradient_RV = _of_chunk(logits_RV, target_R, temperature_R)
    of_entropy_RV = None
    if grad_entropy_R is not None:
        p_RV = _as_probabilities(gradient_RV.clone(), target_R)
        weighted_RV = torch.special.entr(p_RV)  # -p log p
        entropy_R1 = weighted_RV.sum(-1, keepdim=True)
        of_entropy_RV = weighted_RV.sub_(p_RV.mul_(entropy_R1))
        of_entropy_RV.mul_((grad_entropy_R / temperature_R).unsqueeze(1))
    if grad_R is None:
        gradient_RV.zero_()
    else:
        gradient_RV.mul_((-grad_R / temperature_R).unsqueeze(1))
    if of_entropy_RV is not None:
        gradient_RV.add_(of_entropy_RV)
    return gradient_RV
