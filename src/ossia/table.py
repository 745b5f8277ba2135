"""Text for people: tables in Markdown that also read well as plain text, sizes, counts. Knows
nothing of what they are of.
"""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up as plain text."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        [
            "| "
            + " | ".join([cell.ljust(width) for cell, width in zip(line, widths, strict=True)])
            + " |"
            for line in lines
        ]
    )


def human_bytes(count: float) -> str:
    """1536 -> "1.5 KiB"."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size < 999.95:
            break
        size, unit = size / 1024, larger
    return f"{size:.1f} {unit}" if unit != "B" else f"{count:.0f} B"


def human_count(count: int) -> str:
    """520000 -> "0.52M", 5130000000 -> "5.13B", 116800000000 -> "116.8B"."""
    if count < 1e9:
        return f"{count / 1e6:.2f}M"
    return f"{count / 1e9:.2f}B" if count < 1e10 else f"{count / 1e9:.1f}B"
