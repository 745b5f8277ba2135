"""What models and clients put around a patch: JSON, a shell's here-document, a code fence, stars.

Knows texts only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ossia.tools.texts import without_halves

KEYS = ("input", "patch", "command")
# The beginning of a here-document, alone or as a command's input.
_HEREDOC = re.compile(r"(?:apply_patch\s*)?<<-?\s*(['\"]?)(\w+)\1\s*")
_FENCE = re.compile(r"(`{3,}|~{3,})\s*\w*\s*")
_STARRED = re.compile(r"\*\*\* (Begin|End) Patch \*\*\*")


@dataclass(frozen=True)
class Unwrapped:
    """The lines from `*** Begin Patch` to `*** End Patch`, notes of what stood around them, and how
    lines end that the patch adds.
    """

    lines: list[str]
    notes: list[str]
    newline: str


def unwrapped(text: str) -> Unwrapped:
    notes: list[str] = []
    inner = _from_json(text)
    if inner is not None:
        notes.append("JSON around the patch")
        text = inner
    lines = text.split("\n")
    newline = "\n"
    if _ends_with_returns(lines):
        newline = "\r\n"
        lines = [line.removesuffix("\r") for line in lines]
    count = len(lines)
    lines = _trimmed(lines)
    if count - len(lines) > 1:
        notes.append("empty lines around the patch")
    lines = _without_heredoc(lines, notes)
    for index in {0, len(lines) - 1} if lines else ():
        found = _STARRED.fullmatch(lines[index].strip())
        if found:
            notes.append("stars at the end of a marker")
            lines[index] = f"*** {found[1]} Patch"
    return Unwrapped(lines, notes, newline)


def _ends_with_returns(lines: list[str]) -> bool:
    """Whether all lines of the patch, not just some of a file's, end with \\r\\n."""
    ends = [line.endswith("\r") for line in lines if line]
    return len(ends) > 1 and all(ends[:-1])


def _from_json(text: str) -> str | None:
    """The patch in `{"input": ...}` or `["apply_patch", ...]`; None if there is no such thing."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return None
    try:
        value = without_halves(json.loads(text, strict=False))
    except (ValueError, RecursionError):
        return None
    if isinstance(value, Mapping):
        value = next((value[key] for key in KEYS if key in value), None)
    return _last_text(value)


def _last_text(value: Any) -> str | None:
    if isinstance(value, list) and value:
        value = value[-1]
    return value if isinstance(value, str) else None


def _trimmed(lines: list[str]) -> list[str]:
    """Without empty lines at both ends."""
    start = 0
    end = len(lines)
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return lines[start:end]


def _without_heredoc(lines: list[str], notes: list[str]) -> list[str]:
    if len(lines) < 3:
        return lines
    fence = _FENCE.fullmatch(lines[0].strip())
    if fence and lines[-1].strip() == fence[1]:
        notes.append("a code fence around the patch")
        return _without_heredoc(_trimmed(lines[1:-1]), notes)
    opened = _HEREDOC.fullmatch(lines[0].strip())
    if opened and lines[-1].strip() == opened[2]:
        notes.append("a here-document around the patch")
        return _trimmed(lines[1:-1])
    return lines
