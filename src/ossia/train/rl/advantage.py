"""How much better a sample was than the others of its group. Plain numbers, no tensors.

A group are the samples of one problem at one effort, G of them with a reward. What could not be
graded has no reward and takes no part: it is None here, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from ossia.errors import TrainingError

Advantage = Literal["centered", "rloo", "std", "maxrl"]
Rewards = Sequence[float]


def _centered(rewards: Rewards) -> list[float]:
    """r - mean. The expected gradient is (G-1)/G of the true one: each sample is in its own
    baseline.
    """
    mean = math.fsum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def _leave_one_out(rewards: Rewards) -> list[float]:
    """r - mean of the others (RLOO, arXiv 2402.14740): without bias."""
    scale = len(rewards) / (len(rewards) - 1)
    return [scale * value for value in _centered(rewards)]


def _standardized(rewards: Rewards) -> list[float]:
    """(r - mean) / (std + 1e-6), std over the group (GRPO, arXiv 2402.03300, eq. 3)."""
    centered = _centered(rewards)
    variance = math.fsum(value * value for value in centered) / len(centered)
    return [value / (math.sqrt(variance) + 1e-6) for value in centered]


def _by_mean(rewards: Rewards) -> list[float]:
    """(r - mean) / mean, of rewards that are 0 or more: towards the likelihood of a right answer
    (MaxRL, arXiv 2602.02710).
    """
    mean = math.fsum(rewards) / len(rewards)
    return [value / mean for value in _centered(rewards)]


ADVANTAGES: dict[Advantage, Callable[[Rewards], list[float]]] = {
    "centered": _centered,
    "rloo": _leave_one_out,
    "std": _standardized,
    "maxrl": _by_mean,
}


def is_dead(rewards: Sequence[float | None]) -> bool:
    """Whether a group teaches nothing: all its rewards are exactly the same, or there is none."""
    valued = [reward for reward in rewards if reward is not None]
    return not valued or max(valued) == min(valued)


def advantages(rewards: Sequence[float | None], kind: Advantage) -> list[float | None]:
    """Of each sample of a group, in float64; None for one without a reward, and for all of a dead
    group.

    Raises `TrainingError` for a negative reward with "maxrl", whose mean could be 0.
    """
    valued = [reward for reward in rewards if reward is not None]
    if is_dead(rewards):
        return [None] * len(rewards)
    if kind == "maxrl" and min(valued) < 0:
        raise TrainingError(
            f"objective.advantage=maxrl is of rewards that are 0 or more, found {min(valued)}: "
            "choose another advantage, such as rloo, or let the reward begin at 0"
        )
    values = iter(ADVANTAGES[kind](valued))
    return [None if reward is None else next(values) for reward in rewards]
