"""Texts of strangers, made fit for a model, a terminal and a log: cut, and without control
characters.
"""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def cut(text: str, limit: int) -> str:
    """Head and tail of a text that has more than `limit` characters."""
    if len(text) <= limit:
        return text
    head = (limit + 1) // 2
    tail = text[len(text) - (limit - head) :]
    return f"{text[:head]}\n[... {len(text) - limit} characters left out ...]\n{tail}"


def clean(text: str, limit: int) -> str:
    """Its beginning, without control characters but line breaks and tabs."""
    text = _CONTROLS.sub("", text[: 2 * limit]).strip()
    return text if len(text) <= limit else text[: limit - 3] + "..."
