"""Figures for people: counted shares and how certain they are, sizes, counts, tables in Markdown.

Knows nothing of what they describe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def wilson(value: float, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a mean of `total` values from 0 to 1 (Wilson 1927)."""
    if not total:
        return 0.0, 1.0
    scale = 1 + z * z / total
    centre = (value + z * z / (2 * total)) / scale
    spread = math.sqrt(value * (1 - value) / total + z * z / (4 * total * total))
    half = z / scale * spread
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Share:
    """`right` out of `total`."""

    right: int
    total: int

    @property
    def value(self) -> float:
        return self.right / self.total if self.total else 0.0

    def wilson(self, z: float = 1.96) -> tuple[float, float]:
        """Wilson's score interval, 95% by default (Wilson 1927); (0, 1) if nothing was counted."""
        return wilson(self.value, self.total, z)

    def __str__(self) -> str:
        if not self.total:
            return "-"
        low, high = self.wilson()
        return f"{self.value:.1%} ({self.right}/{self.total}, {low:.1%} to {high:.1%})"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up as plain text."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    lines = []
    for row in (head, rule, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def human_bytes(count: float) -> str:
    """1536 -> "1.5 KiB"."""
    most = 999.95  # what rounds to more would be four digits
    if count < most:
        return f"{count:.0f} B"
    if count < most * KIB:
        return f"{count / KIB:.1f} KiB"
    if count < most * MIB:
        return f"{count / MIB:.1f} MiB"
    return f"{count / GIB:.1f} GiB"


def human_count(count: int) -> str:
    """520000 -> "0.52M", 5130000000 -> "5.13B", 116800000000 -> "116.8B"."""
    if count < 1e9:
        return f"{count / 1e6:.2f}M"
    if count < 1e10:
        return f"{count / 1e9:.2f}B"
    return f"{count / 1e9:.1f}B"


def pass_at(k: int, right: int, count: int) -> float:
    """The chance that of k answers, drawn from `count` of which `right` are right, one is: 1 -
    C(n-c, k) / C(n, k), unbiased (arXiv 2107.03374, eq. 1).
    """
    if not 1 <= k <= count:
        raise ValueError(f"k must be from 1 to {count}, the number of answers; found {k}")
    return 1.0 - math.comb(count - right, k) / math.comb(count, k)
