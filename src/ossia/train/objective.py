"""What a step minimizes: the cross-entropy of its targets, or another objective that a run is
given.

An objective sees the whole batch of a step once, before it is cut into parts for threads and
processes: there it works out what each target weighs, so that how a step is cut changes nothing.
Then it sees part after part. Knows batches, the model's unembedding and tensors; no steps.

R rows, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.data.packing import PackedBatch
from ossia.model import Transformer
from ossia.train.losses import cross_entropy

Normalizer = Literal["tokens", "samples", "constant"]


@dataclass(frozen=True)
class PartLoss:
    """A part's share of a step. `total` is differentiated, `loss` is reported and added up over
    parts. `sums` and `most` are metrics of the step: added up over its parts and processes, and the
    largest of them. Every part has the same names, one without targets too.
    """

    total: Tensor
    loss: Tensor
    sums: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)


class Objective(Protocol):
    def prepare(self, batch: PackedBatch) -> PackedBatch | None:
        """The batch of a step with what its parts need in its streams, such as `weights` of its
        targets. None: there is nothing to learn, and the step changes no weight.
        """
        ...

    def loss(
        self, model: Transformer, x_RD: Tensor, part: PackedBatch, of_targets: float
    ) -> PartLoss:
        """`x_RD`: the input of `model.unembedding` for the rows of `part`, which has the share
        `of_targets` of the step's targets. A part may have no rows; its loss is 0 then, and depends
        on `x_RD` and the unembedding all the same.
        """
        ...

    def measured(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """The metrics of the whole step as they are reported, before it changes a weight. Raises
        `TrainingError` for what must not be learned from.
        """
        ...

    def identity(self) -> Mapping[str, Any]:
        """JSON values that must not change between a run and its resumption."""
        ...


class CrossEntropy:
    """The mean over the targets of a step."""

    def prepare(self, batch: PackedBatch) -> PackedBatch:
        return batch

    def loss(
        self, model: Transformer, x_RD: Tensor, part: PackedBatch, of_targets: float
    ) -> PartLoss:
        targets = torch.tensor(part.targets, device=x_RD.device)
        mean = cross_entropy(x_RD, model.unembedding.weight, targets)
        loss = of_targets * mean
        return PartLoss(loss, loss.detach())

    def measured(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        return metrics

    def identity(self) -> Mapping[str, Any]:
        return {}


CROSS_ENTROPY: Objective = CrossEntropy()


def weights(
    keep_R: NDArray[np.floating],
    sequence_R: NDArray[np.int32] | NDArray[np.float32],
    normalizer: Normalizer,
    constant: float = 1.0,
) -> NDArray[np.float32] | None:
    """What each target of a whole step weighs, [R]: the step's loss is the sum of weight times the
    target's own. None if nothing is kept.

    tokens: all kept targets alike (DAPO, arXiv 2503.14476). samples: every sequence alike, its kept
    targets alike within it (GRPO, arXiv 2402.03300). constant: keep / `constant`, whatever is kept
    (Dr. GRPO, arXiv 2503.20783).

    `keep` is the mask, 0 for what does not count; the numbers that are divided by are those of the
    same mask.
    """
    keep_R = keep_R.astype(np.float64)
    weight_R = keep_R
    total = keep_R.sum()
    if total == 0:
        return None
    match normalizer:
        case "tokens":
            weight_R = keep_R / total
        case "constant":
            weight_R = keep_R / constant
        case "samples":
            _, own_R = np.unique(sequence_R, return_inverse=True)
            kept_S = np.bincount(own_R, weights=keep_R)
            samples = np.count_nonzero(kept_S)
            kept_S[kept_S == 0] = np.inf  # its weights are 0
            weight_R = keep_R / kept_S[own_R] / samples
    return weight_R.astype(np.float32)


def of_rows(part: PackedBatch, like: Tensor, *names: str) -> list[Tensor]:
    """These streams of a part as tensors [R], beside `like`."""
    columns = [part.streams[name] for name in names]
    return [torch.tensor(column, device=like.device) for column in columns]
