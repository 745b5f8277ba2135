"""Texts of strangers, made fit for a model, a terminal and a log: cut, and without control
characters.
"""

from __future__ import annotations

import json
import re
from typing import Any

_HALF = re.compile("[\ud800-\udfff]")
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


def read_json(text: str | bytes) -> Any:
    """What a model, a page or a program wrote as JSON, without halves of characters: its escapes
    can write some, and no reply, file or command can have them. Raises ValueError.
    """
    try:
        return without_halves(json.loads(text))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def without_halves(value: Any) -> Any:
    """A value of JSON, its halves of surrogate pairs U+FFFD, in keys too."""
    if isinstance(value, str):
        return value if value.isascii() else _HALF.sub("\ufffd", value)
    if isinstance(value, list | tuple):
        return type(value)(map(without_halves, value))
    if isinstance(value, dict):
        return {without_halves(key): without_halves(item) for key, item in value.items()}
    return value
