"""What docs/clients.md shows, so that tests run that and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/clients.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(PAGE.read_text()) if name == language]


def sections() -> dict[str, list[tuple[str, str]]]:
    """By heading, the blocks below it with their languages."""
    parts = re.split(r"^## (.+)\n", PAGE.read_text(), flags=re.MULTILINE)
    return {
        heading: BLOCK.findall(text) for heading, text in zip(parts[1::2], parts[2::2], strict=True)
    }
