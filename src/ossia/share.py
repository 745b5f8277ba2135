"""A share that was counted, and how sure one can be of it. Knows nothing of what was counted."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """`right` out of `total`."""

    right: int
    total: int

    @property
    def value(self) -> float:
        return self.right / self.total if self.total else 0.0

    def wilson(self, z: float = 1.96) -> tuple[float, float]:
        """Wilson's score interval, 95% by default (Wilson 1927); (0, 1) if there is nothing to go
        by.
        """
        n = self.total
        if not n:
            return 0.0, 1.0
        centre = (self.value + z * z / (2 * n)) / (1 + z * z / n)
        half = (
            z / (1 + z * z / n) * math.sqrt(self.value * (1 - self.value) / n + z * z / (4 * n * n))
        )
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        if not self.total:
            return "-"
        low, high = self.wilson()
        return f"{self.value:.1%} ({self.right}/{self.total}, {low:.1%} to {high:.1%})"
