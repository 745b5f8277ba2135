"""Drawing a token from logits. One row at a time, on the CPU, with a generator per request: what a request draws never
depends on what else is in the batch.

A constraint's masks are asked for in worker threads, a few for all engines, so that they are ready when the model is.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ossia.engine.request import Constraint, SamplingParams

if TYPE_CHECKING:
    from ossia.engine.request import Mask


def sample(
    logits_V: Tensor, params: SamplingParams, rng: torch.Generator, allowed_V: Tensor | None = None
) -> tuple[int, float]:
    """(token id, log-probability of it before constraint, temperature and filters) from float32 logits [V].

    Only tokens of `allowed_V` (bool; None: all) are drawn, as if the others had a probability of zero.
    """
    logprobs_V = logits_V.log_softmax(-1)
    choice_V = logprobs_V if allowed_V is None else logprobs_V.masked_fill(~allowed_V, -torch.inf)
    if params.temperature == 0:
        token = int(choice_V.argmax())
        return token, float(logprobs_V[token])
    # the likeliest at 0 and the divisor within float32, so that no temperature, however small, gives nan
    tempered_V = (choice_V - choice_V.max()) / max(params.temperature, 1e-30)
    p_V = filtered(tempered_V, params).softmax(-1)
    token = int(torch.multinomial(p_V, 1, generator=rng))
    return token, float(logprobs_V[token])


def filtered(logits_V: Tensor, params: SamplingParams) -> Tensor:
    """Logits with -inf where a filter removes a token; the likeliest token always stays.

    In the order of transformers' processors: the `top_k` likeliest; then the smallest set whose probability reaches
    `top_p` (Holtzman et al., arXiv 1904.09751); then those at least `min_p` times as likely as the likeliest
    (arXiv 2407.01082).
    """
    if 0 < params.top_k < logits_V.shape[0]:
        kth = logits_V.topk(params.top_k).values[-1]
        logits_V = logits_V.masked_fill(logits_V < kth, -torch.inf)
    if params.top_p < 1:
        sorted_V, order_V = logits_V.sort(descending=True)
        before_V = sorted_V.softmax(-1).cumsum(-1) - sorted_V.softmax(-1)
        drop_V = (before_V >= params.top_p).index_fill(0, torch.tensor([0]), False)
        logits_V = logits_V.masked_fill(torch.zeros_like(drop_V).scatter(0, order_V, drop_V), -torch.inf)
    if params.min_p > 0:
        p_V = logits_V.softmax(-1)
        logits_V = logits_V.masked_fill(p_V < params.min_p * p_V.max(), -torch.inf)
    return logits_V


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="ossia-masks")


def mask_ahead(constraint: Constraint) -> Future[Mask]:
    """The constraint's next mask, worked out while the caller goes on."""
    return _workers().submit(constraint.mask)


def unpacked(mask: Mask, vocab_size: int) -> Tensor:
    """Words of bits -> bool [V]; ids beyond the mask are False."""
    bits = np.unpackbits(mask.astype("<u4", copy=False).view(np.uint8), count=vocab_size, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_))
