"""Learning rates over a run. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, a constant plateau, then a decay to `floor` times the peak (warm-up, stable, decay)."""

    peak: float
    steps: int
    warmup: int = 100
    decay: float = 0.5  # share of the steps, at the end
    floor: float = 0.0

    def at(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        decay_steps = max(1, round(self.steps * self.decay))
        through = (step - (self.steps - decay_steps)) / decay_steps
        if through <= 0:
            return self.peak
        return self.peak * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, through))))
