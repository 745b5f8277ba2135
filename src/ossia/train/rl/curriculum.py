"""Which problems are asked: more of those that are neither always nor never solved. No tensors.

A group all of whose samples are right, or wrong, teaches nothing: at a success of 0.9 that are 43%
of groups of 8. An arm is a task at one effort and one difficulty; its success is followed, and arms
outside the middle are drawn seldom, so that it is seen when they come into it. Where thoughts cost,
success is what right answers are paid (`worth.progress`): always right is not yet 1.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MIDDLE = (0.2, 0.8)
SELDOM = 0.1  # weight of an arm outside it
KEPT = 0.9  # of an arm's success, when a new group comes


@dataclass
class Curriculum:
    """`arms` in their order; `success` is part of a run's state."""

    arms: Sequence[str]
    success: dict[str, float] = field(default_factory=dict)

    def weight(self, arm: str) -> float:
        """1 for an arm that was never seen."""
        success = self.success.get(arm)
        if success is None or MIDDLE[0] <= success <= MIDDLE[1]:
            return 1.0
        return SELDOM

    def draw(self, generator: random.Random, arms: Sequence[str]) -> str:
        """One of some arms, by the weights of this moment."""
        weights = [self.weight(arm) for arm in arms]
        return generator.choices(arms, weights)[0]

    def learn(self, arm: str, share: float) -> None:
        """That the answers of a group of `arm` came to this share of what they could be worth."""
        before = self.success.get(arm)
        if before is None:
            self.success[arm] = share
        else:
            self.success[arm] = KEPT * before + (1 - KEPT) * share

    def state_dict(self) -> dict[str, float]:
        return dict(self.success)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.success = dict(state)
