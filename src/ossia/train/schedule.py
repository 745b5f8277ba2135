"""Learning rates over a run. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ossia.train.settings import Decay


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, a constant plateau, then a decay to `floor` times the peak (warm-up, stable,
    decay).

    `decay` 1.0 leaves no plateau: the usual cosine (or linear) schedule. 0.0 leaves no decay.
    """

    peak: float
    steps: int
    warmup: int = 100
    decay: float = 0.5  # share of the steps, at the end
    floor: float = 0.0
    shape: Decay = "cosine"

    def at(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        decay_steps = round(self.steps * self.decay)
        through = (step - (self.steps - decay_steps)) / decay_steps if decay_steps else 0.0
        return (
            self.peak
            * min(1.0, (step + 1) / max(1, self.warmup))
            * self._decayed(min(1.0, max(0.0, through)))
        )

    def _decayed(self, through: float) -> float:
        """Share of the peak after `through` [0, 1] of the decay."""
        left = 1 - through if self.shape == "linear" else 0.5 * (1 + math.cos(math.pi * through))
        return self.floor + (1 - self.floor) * left
