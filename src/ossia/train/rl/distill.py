"""Learning from a teacher's probabilities, on what the student samples itself.

Two ways (arXiv 2306.13649): by the tokens that were drawn, where log T - log S of a token is its
advantage; and by the whole vocabulary, the divergence of the two distributions in every row. Both
need one tokenizer for both models. Where teachers have another, or are behind an API, their answers
are examples for `ossia train sft`.

R rows, D and E hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ossia.data.packing import PackedBatch
from ossia.kernels.linear import linear
from ossia.kernels.logprobs import chunk_rows, logprobs
from ossia.model import Transformer
from ossia.train.step import hidden


@torch.no_grad()
def logprobs_of(
    model: Transformer, batch: PackedBatch, temperature: float, *, replay: bool = False
) -> NDArray[np.float32]:
    """[R]: what another model makes of a batch's targets, by experts that it chooses itself.
    `replay`: by those of the batch, which are its own.
    """
    if not replay:
        batch = replace(batch, experts=None)
    x_RD, _ = hidden(model, batch)
    targets = torch.tensor(batch.targets, dtype=torch.int64, device=x_RD.device)
    found = logprobs(x_RD, model.unembedding.weight, targets, temperature)
    return found.numpy(force=True)


def divergence(
    x_RD: Tensor,
    unembedding_VD: Tensor,
    teacher_x_RE: Tensor,
    teacher_unembedding_VE: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """KL(student || teacher) of each row [R], in nats; differentiable by the student's x and W.

    Logits are made chunk by chunk, forward and again in the backward pass: [R, V] is never held.
    """
    rows = chunk_rows(len(unembedding_VD))
    found = [x_RD.new_zeros(0)]
    for first in range(0, len(x_RD), rows):
        chunk = slice(first, first + rows)
        with torch.no_grad():
            teacher_RV = _log_p(teacher_x_RE[chunk], teacher_unembedding_VE, temperature)
        given = (x_RD[chunk], unembedding_VD, teacher_RV, temperature)
        found.append(checkpoint(_divergence, *given, use_reentrant=False))
    return torch.cat(found)


def _divergence(
    x_RD: Tensor, unembedding_VD: Tensor, teacher_RV: Tensor, temperature: float
) -> Tensor:
    own_RV = _log_p(x_RD, unembedding_VD, temperature)
    return (own_RV.exp() * (own_RV - teacher_RV)).sum(-1)


def _log_p(x_RD: Tensor, unembedding_VD: Tensor, temperature: float) -> Tensor:
    logits_RV = linear(x_RD, unembedding_VD)
    return (logits_RV / temperature).log_softmax(-1)
