"""What reasoning costs at each effort: the reward that ties the length of the analysis to it.

Pure functions of numbers; knows no tasks and no texts. Like the Max form of L1 (arXiv 2503.04697),
but multiplied with success: thinking less never pays for a wrong answer, and no length is rewarded
for its own sake. `over` adds what the bound of an effort is worth by itself, as DAPO's penalty for
answers that are too long does for all of them (arXiv 2503.14476, eq. 13).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ossia.errors import ConfigError
from ossia.harmony import Effort


@dataclass(frozen=True)
class Price:
    """Of one effort. `share`: of the reward, that `budget` tokens of analysis cost, and fewer in
    proportion; from there to `most` they cost no more. Beyond `most` there is no reward: without
    that bound, more would be free at low effort as soon as the budget is used up.

    `over`: what thinking beyond `most` loses, whether the answer is right or wrong, in proportion
    up to twice `most`. Without it a group in which nobody is right within the bound teaches
    nothing, while other efforts go on teaching the same weights to think for longer.
    """

    budget: int
    most: int
    share: float
    over: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.budget <= self.most:
            raise ConfigError(
                f"an effort's budget must be above 0 and at most its bound of {self.most} tokens, "
                f"found {self.budget}"
            )
        if not 0 <= self.share < 1:
            raise ConfigError(
                f"an effort's share must be at least 0 and below 1, found {self.share}; "
                "with 1 a right answer would be worth nothing"
            )
        if not (self.over >= 0 and math.isfinite(self.over)):
            raise ConfigError(f"an effort's `over` must be 0 or more, found {self.over}")

    def reward(self, correct: float, tokens: int) -> float:
        """`correct`: of the answer, 0 to 1; what is below 0 is a penalty, which thoughts must not
        make smaller. `tokens`: of its analysis.
        """
        if tokens > self.most:
            return min(correct, 0.0) - self.over * min(1.0, (tokens - self.most) / self.most)
        if correct <= 0:
            return correct
        return correct * (1 - self.share * min(1.0, tokens / self.budget))


@dataclass(frozen=True)
class Prices:
    """Of every effort. As they stand, for tasks whose gold answers think for 20 to 270 tokens:
    state, puzzles, machine, taken together. A task whose shortest way is much shorter needs a
    smaller `low`, or working everything out still pays at low effort.
    """

    low: Price = Price(32, 48, 0.6)
    medium: Price = Price(80, 128, 0.3)
    high: Price = Price(256, 400, 0.0)

    def of(self, effort: Effort) -> Price:
        return {Effort.LOW: self.low, Effort.MEDIUM: self.medium, Effort.HIGH: self.high}[effort]

    @property
    def punish(self) -> bool:
        """Whether a reward can be below 0 for its thoughts alone."""
        return max(self.low.over, self.medium.over, self.high.over) > 0


PRICES = Prices()
