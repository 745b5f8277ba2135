"""The losses of policy optimisation, as pure functions of log-probabilities.

R sampled tokens of S samples. `now` L is what the weights of this moment give (with a gradient),
`old` O what the weights that sampled give in the trainer, `behaviour` M what the engine reported
when it sampled. Where the engine is exact O and M are the same bits. Everything here is of a token;
what a token weighs in its step is `objective.weights`'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ossia.train.rl.settings import Loss

CLIP = (0.8, 1.28)  # of a token's ratio: more room upwards (DAPO, arXiv 2503.14476)
DUAL = 3.0  # how much a token with a negative advantage may weigh (arXiv 1912.09729, eq. 8)
GSPO_CLIP = (1 - 3e-4, 1 + 4e-4)  # of a sample's ratio (arXiv 2507.18071, section 5.1)
CISPO_MOST = 5.0  # of a token's weight (arXiv 2506.13585)


@dataclass(frozen=True)
class Sampled:
    """Of R sampled tokens: all float [R], but `sequence`, int [R], the sample each belongs to.

    `keep` is 1 for a token that takes part, 0 for any other; `weight` is what `correction.py` makes
    of O - M, without a gradient.
    """

    now_R: Tensor
    old_R: Tensor
    advantage_R: Tensor
    keep_R: Tensor
    weight_R: Tensor
    sequence_R: Tensor

    @property
    def ratio_R(self) -> Tensor:
        """rho = exp(L - O)"""
        return (self.now_R - self.old_R).exp()


def _reinforce(s: Sampled) -> Tensor:
    """-A w rho: its gradient where rho = 1 is that of -A w log p (REINFORCE, Williams 1992)."""
    return -s.advantage_R * s.weight_R * s.ratio_R


def _clip(s: Sampled) -> Tensor:
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7) with two ends, and a floor for what a
    negative advantage may push.
    """
    plain_R = s.ratio_R * s.advantage_R
    gain_R = torch.minimum(plain_R, s.ratio_R.clamp(*CLIP) * s.advantage_R)
    floored_R = torch.maximum(gain_R, DUAL * s.advantage_R)
    return -s.weight_R * torch.where(s.advantage_R < 0, floored_R, gain_R)


def _gspo(s: Sampled) -> Tensor:
    """One ratio a sample, the geometric mean of its tokens' (GSPO-token, arXiv 2507.18071,
    eq. 13-14).
    """
    ratio_R = of_samples(s.now_R - s.old_R, s.keep_R, s.sequence_R, "mean").exp().detach()
    ratio_R = ratio_R * (s.now_R - s.now_R.detach()).exp()
    clipped_R = ratio_R.clamp(*GSPO_CLIP)
    gain_R = torch.minimum(ratio_R * s.advantage_R, clipped_R * s.advantage_R)
    return -s.weight_R * gain_R


def _cispo(s: Sampled) -> Tensor:
    """The clipped weight has no gradient, so no token loses its own (CISPO, arXiv 2506.13585,
    eq. 4).
    """
    weight_R = s.ratio_R.detach().clamp(max=CISPO_MOST) * s.weight_R
    return -weight_R * s.advantage_R * s.now_R


LOSSES: dict[Loss, Callable[[Sampled], Tensor]] = {
    "reinforce": _reinforce,
    "clip": _clip,
    "gspo": _gspo,
    "cispo": _cispo,
}


def token_losses(loss: Loss, sampled: Sampled) -> Tensor:
    """[R]: what each token adds, before it is weighed; 0 for what is not kept."""
    values_R = LOSSES[loss](sampled)
    return torch.where(sampled.keep_R > 0, values_R, torch.zeros_like(values_R))


def is_clipped(loss: Loss, sampled: Sampled) -> Tensor:
    """bool [R]: whether the clip leaves a token without a gradient, or cuts its weight (cispo)."""
    ratio_R = sampled.ratio_R.detach()
    up_R = sampled.advantage_R > 0
    if loss == "gspo":
        log_R = of_samples(ratio_R.log(), sampled.keep_R, sampled.sequence_R, "mean")
        return _outside(log_R.exp(), up_R, GSPO_CLIP)
    if loss == "clip":
        return _outside(ratio_R, up_R, CLIP) | (~up_R & (ratio_R > DUAL))
    if loss == "cispo":
        return ratio_R > CISPO_MOST
    return torch.zeros_like(up_R)


def _outside(ratio_R: Tensor, up_R: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Whether the ratio has gone over the bound that its advantage moves it towards."""
    return torch.where(up_R, ratio_R > bounds[1], ratio_R < bounds[0])


def kl_to(now_R: Tensor, reference_R: Tensor) -> Tensor:
    """[R]: k3 = exp(R - L) - (R - L) - 1, 0 or more (Schulman, "Approximating KL divergence").

    On samples of the policy its mean is KL(pi || reference). Differentiated as it stands, its
    gradient is that of KL(reference || pi); times the ratio, `kl_from`'s, that of KL(pi ||
    reference).
    """
    difference_R = reference_R - now_R
    return difference_R.exp() - difference_R - 1


def kl_from(now_R: Tensor, old_R: Tensor, reference_R: Tensor) -> Tensor:
    """[R]: rho k3, whose gradient is an estimate of that of KL(pi || reference)."""
    return (now_R - old_R).exp() * kl_to(now_R, reference_R)


def of_samples(
    values_R: Tensor, keep_R: Tensor, sequence_R: Tensor, kind: Literal["sum", "mean"]
) -> Tensor:
    """[R]: for each token the sum, or mean, of the kept values of its sample."""
    count = int(sequence_R.max()) + 1 if len(sequence_R) else 0
    index_R = sequence_R.long()
    kept_R = torch.where(keep_R > 0, values_R, torch.zeros_like(values_R))
    sum_S = values_R.new_zeros(count).index_add(0, index_R, kept_R)
    if kind == "mean":
        ones_R = (keep_R > 0).to(values_R.dtype)
        kept_S = values_R.new_zeros(count).index_add(0, index_R, ones_R)
        sum_S = sum_S / kept_S.clamp(min=1)
    return sum_S[index_R]
