"""What is done where the engine that sampled and the trainer do not agree, and how it is measured.

w = exp(O - M): O the log-probability of a sampled token in the trainer, at the weights that
sampled, M what the engine reported. A token's weight does not correct what led to it, so only the
sequence forms, uncapped, are without bias; the others trade it for variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ossia.train.rl.objectives import of_samples
from ossia.train.rl.settings import Correction

LARGEST = 20.0  # of |O - M| of a token, before it is raised to a power
TIS_MOST = 2.0  # truncated importance sampling (Ionides 2008)
MIS_RANGE = (0.5, 2.0)  # what is outside is left out
GEO_MOST = math.log(1.01)  # of a sample's mean |log w|'s size


def of_tokens(log_R: Tensor, keep_R: Tensor, sequence_R: Tensor) -> Tensor:
    """[R]: each token's own ratio."""
    return log_R.exp()


def of_sequences(log_R: Tensor, keep_R: Tensor, sequence_R: Tensor) -> Tensor:
    """[R]: the ratio of all kept tokens of its sample together."""
    total_R = of_samples(log_R, keep_R, sequence_R, "sum")
    return total_R.clamp(-LARGEST, LARGEST).exp()


def _truncated(weight_R: Tensor) -> Tensor:
    return weight_R.clamp(max=TIS_MOST)


def _masked(weight_R: Tensor) -> Tensor:
    low, high = MIS_RANGE
    inside_R = (weight_R >= low) & (weight_R <= high)
    return torch.where(inside_R, weight_R, torch.zeros_like(weight_R))


def _geometric(log_R: Tensor, keep_R: Tensor, sequence_R: Tensor) -> Tensor:
    """1 for the tokens of a sample whose mean log w is near 0, else 0."""
    mean_R = of_samples(log_R, keep_R, sequence_R, "mean")
    return (mean_R.abs() <= GEO_MOST).to(log_R.dtype)


WEIGHTS: dict[Correction, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "none": lambda log_R, keep_R, sequence_R: torch.ones_like(log_R),
    "tis": lambda *of: _truncated(of_tokens(*of)),
    "mis": lambda *of: _masked(of_tokens(*of)),
    "seq_tis": lambda *of: _truncated(of_sequences(*of)),
    "seq_mis": lambda *of: _masked(of_sequences(*of)),
    "geo": _geometric,
}


def weights(
    correction: Correction, old_R: Tensor, behaviour_R: Tensor, keep_R: Tensor, sequence_R: Tensor
) -> Tensor:
    """[R]: what each token's loss is multiplied by, without a gradient. 1 where O and M are the
    same bits, whatever the correction.
    """
    log_R = (old_R - behaviour_R).detach().clamp(-LARGEST, LARGEST)
    return WEIGHTS[correction](log_R, keep_R, sequence_R)


def mismatch(
    old_R: Tensor, behaviour_R: Tensor, share_R: Tensor
) -> tuple[dict[str, float], dict[str, float]]:
    """How far the engine is from the trainer. `share` is what each token has of all kept tokens of
    the step, 0 for others.

    First this part's shares of means: `mean` of |O - M|; `equal`, 1 where they are the same to the
    bit; `k3`, an estimate of KL(engine || trainer) a token; `weight` w and `square` w^2. Then the
    `largest` |O - M|.
    """
    kept_R = share_R > 0
    share_R = share_R[kept_R].double()
    log_R = (old_R - behaviour_R).detach()[kept_R].double()
    weight_R = log_R.clamp(-LARGEST, LARGEST).exp()
    shares = {
        "mean": log_R.abs(),
        "equal": (log_R == 0).double(),
        "k3": weight_R - log_R - 1,
        "weight": weight_R,
        "square": weight_R.square(),
    }
    sums = {name: (share_R * values_R).sum().item() for name, values_R in shares.items()}
    largest = log_R.abs().max().item() if len(log_R) else 0.0
    return sums, {"largest": largest}


def effective(weight: float, square: float) -> float:
    """The effective share of samples, (sum w)^2 / (n sum w^2), of the means of w and w^2."""
    return weight * weight / square if square else 1.0
