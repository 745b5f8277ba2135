"""What samples are worth to training: rewards that tell efforts apart, advantages, and which tokens
take part. No tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ossia.tasks.effort import Prices
from ossia.tasks.environment import CUT
from ossia.train.rl.advantage import advantages
from ossia.train.rl.batches import Lesson
from ossia.train.rl.settings import Objective
from ossia.turn.rollout import Sample


@dataclass(frozen=True)
class Valued:
    """A sample with its reward as training sees it, None where there is none, and its advantage,
    None if the sample teaches nothing.
    """

    sample: Sample
    reward: float | None
    advantage: float | None

    @property
    def is_cut(self) -> bool:
        return self.sample.reason in CUT


def priced(sample: Sample, prices: Prices | None) -> float | None:
    """The reward, less what its thoughts cost at its effort; None: they cost nothing."""
    value = sample.reward.value
    if value is None or prices is None:
        return value
    return prices.of(sample.effort).reward(value, sample.counts.analysis)


def progress(sample: Sample, prices: Prices | None) -> float | None:
    """What a right answer is paid, from 0 to 1: how far an arm of the curriculum has come. None if
    nobody can say whether it is right. Where thoughts cost, answers that are always right can still
    be worth more, by thinking less; and those that are never paid teach nothing.
    """
    correct = sample.reward.correct
    if correct is None or prices is None:
        return correct if correct is None else float(correct)
    return max(0.0, prices.of(sample.effort).reward(float(correct), sample.counts.analysis))


def valued(group: Sequence[Sample], settings: Objective, prices: Prices | None) -> list[Valued]:
    """Of the samples of one group. One that is masked still counts for what the others are compared
    with: it was drawn from the same model.
    """
    rewards = [priced(sample, prices) for sample in group]
    worth = advantages(rewards, settings.advantage)
    if settings.distill != "none":
        worth = [0.0] * len(group)  # the teacher says it of each token
    found = []
    for sample, reward, advantage in zip(group, rewards, worth, strict=True):
        if _is_masked(sample, settings) or not sample.segments:
            advantage = None
        found.append(Valued(sample, reward, advantage))
    return found


def _is_masked(sample: Sample, settings: Objective) -> bool:
    if sample.reason == "failed":  # a teacher has not seen either what broke
        return True
    if settings.mask_cut and sample.reason in CUT:
        return True
    return settings.mask_invalid and sample.reason == "invalid"


def lessons(groups: Sequence[Sequence[Valued]]) -> list[list[Lesson]]:
    """What there is to learn, by group."""
    found = []
    for group in groups:
        taught = []
        for each in group:
            if each.advantage is not None:
                taught.append(Lesson(each.sample.segments, each.advantage))
        found.append(taught)
    return found


def is_live(group: Sequence[Valued]) -> bool:
    """Whether something can be learned from it."""
    return any(each.advantage is not None for each in group)
