"""The objective of a step: the policy loss, and what else moves the weights beside it. Knows
tensors of log-probabilities; no samples and no rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ossia.data.packing import SAMPLE, PackedBatch
from ossia.errors import TrainingError
from ossia.kernels.logprobs import logprobs_and_entropy
from ossia.model import Transformer
from ossia.train.objective import PartLoss, of_rows, weights
from ossia.train.rl import correction
from ossia.train.rl.distill import divergence
from ossia.train.rl.objectives import Sampled, is_clipped, kl_from, token_losses
from ossia.train.rl.settings import Objective, Sampling
from ossia.train.step import hidden

FAR = 0.05  # mean |O - M| at which engine and trainer are no longer the same model


class Policy:
    """`train.objective.Objective` of a run. A batch has the streams of `batches.packed`;
    "reference" too if there is a divergence to hold, and "old" if its samples are of older weights.
    `asked`: JSON values, what is learned from, which must not change either.
    """

    def __init__(
        self,
        settings: Objective,
        sampling: Sampling,
        teacher: Transformer | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        self.asked = asked or {}
        self.teacher = teacher
        self.settings = settings
        self.sampling = sampling

    def prepare(self, batch: PackedBatch) -> PackedBatch | None:
        """With what each token weighs: `weight` in the loss, `share` in what is reported."""
        keep = batch.streams["keep"]
        sample = batch.streams[SAMPLE]  # all segments of one: an answer counts once
        sampled = self.sampling
        constant = float(sampled.groups * sampled.samples * sampled.max_tokens)
        weight = weights(keep, sample, self.settings.normalizer, constant)
        echo = weights(batch.streams["echo"], sample, "tokens") if self.settings.echo else None
        if weight is None and echo is None:
            return None
        none = np.zeros_like(keep)
        share = weights(keep, sample, "tokens")
        return batch.with_streams(
            weight=none if weight is None else weight,
            share=none if share is None else share,
            echo_weight=none if echo is None else echo,
        )

    def loss(
        self, model: Transformer, x_RD: Tensor, part: PackedBatch, of_targets: float
    ) -> PartLoss:
        settings = self.settings
        targets = torch.tensor(part.targets, dtype=torch.int64, device=x_RD.device)
        now_R, entropy_R = logprobs_and_entropy(
            x_RD, model.unembedding.weight, targets, self.sampling.temperature
        )
        weight_R, share_R, echo_R = of_rows(part, x_RD, "weight", "share", "echo_weight")
        sampled = self._sampled(now_R, part)
        total = (weight_R * token_losses(settings.loss, sampled)).sum()
        if self.teacher is not None and settings.distill == "full":
            total = total + _kept(self._divergence(self.teacher, model, x_RD, part), weight_R)
        if settings.kl:
            (reference_R,) = of_rows(part, x_RD, "reference")
            total = total + settings.kl * _kept(
                kl_from(now_R, sampled.old_R, reference_R), weight_R
            )
        if settings.entropy:
            total = total - settings.entropy * _kept(entropy_R, weight_R)
        if settings.echo:
            total = total - settings.echo * _kept(now_R, echo_R)
        sums = _measures(settings, sampled, share_R)
        sums["policy_entropy"] = _kept(entropy_R.detach(), share_R).item()
        mismatch, most = self._mismatch(sampled, part, share_R)
        return PartLoss(total, total.detach(), sums | mismatch, most)

    def _divergence(
        self, teacher: Transformer, model: Transformer, x_RD: Tensor, part: PackedBatch
    ) -> Tensor:
        with torch.no_grad():
            # the experts of a replay are the student's
            its_x_RE, _ = hidden(teacher, replace(part, experts=None))
        its_weight = teacher.unembedding.weight
        own_weight = model.unembedding.weight
        return divergence(x_RD, own_weight, its_x_RE, its_weight, self.sampling.temperature)

    def measured(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Raises `TrainingError` if the samples are of another model."""
        found = dict(metrics)
        mean = found["mismatch_mean"]
        if mean > FAR:
            raise TrainingError(
                f"what was sampled is of another model than the one that learns: the mean "
                f"difference of log-probabilities is {mean:.3f}, more than {FAR}. Sample "
                "with sampling.sampler=exact, or with a smaller sampling.lag"
            )
        weight = found.pop("mismatch_weight")
        found["mismatch_ess"] = correction.effective(weight, found.pop("mismatch_square"))
        return found

    def identity(self) -> Mapping[str, Any]:
        found = asdict(self.settings) | {"sampling": asdict(self.sampling), **self.asked}
        if not self.settings.refresh:  # as runs from before there was such a thing have it
            del found["refresh"]
        found["sampling"]["efforts"] = [str(effort) for effort in self.sampling.efforts]
        return found

    def _sampled(self, now_R: Tensor, part: PackedBatch) -> Sampled:
        """Where nothing is older than this step, O is L without its gradient."""
        names = ("advantage", "keep", "behaviour")
        advantage_R, keep_R, behaviour_R = of_rows(part, now_R, *names)
        old_R = now_R.detach()
        if "old" in part.streams:
            (old_R,) = of_rows(part, now_R, "old")
        (sample_R,) = of_rows(part, now_R, SAMPLE)
        _, own_R = torch.unique(sample_R, return_inverse=True)
        weight_R = correction.weights(self.settings.correction, old_R, behaviour_R, keep_R, own_R)
        return Sampled(now_R, old_R, advantage_R, keep_R, weight_R, own_R)

    def _mismatch(
        self, sampled: Sampled, part: PackedBatch, share_R: Tensor
    ) -> tuple[dict[str, float], dict[str, float]]:
        (behaviour_R,) = of_rows(part, sampled.now_R, "behaviour")
        sums, most = correction.mismatch(sampled.old_R, behaviour_R, share_R)
        return _named(sums), _named(most)


def _named(found: Mapping[str, float]) -> dict[str, float]:
    return {f"mismatch_{name}": value for name, value in found.items()}


def _kept(values_R: Tensor, weight_R: Tensor) -> Tensor:
    """The weighed sum; what weighs nothing need not be finite."""
    zeros_R = torch.zeros_like(values_R)
    return (weight_R * torch.where(weight_R > 0, values_R, zeros_R)).sum()


def _measures(settings: Objective, sampled: Sampled, share_R: Tensor) -> dict[str, float]:
    """Means over the kept tokens of a step, as this part's shares of them."""
    clipped_R = is_clipped(settings.loss, sampled).to(share_R.dtype)
    return {
        "clipped": (share_R * clipped_R).sum().item(),
        "correction": (share_R * sampled.weight_R).sum().item(),
    }
