"""Texts as a file can hold them."""

from __future__ import annotations

import re

_SURROGATES = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


def well_formed(text: str) -> str:
    """Half a surrogate pair, which JSON may carry, cannot be written as UTF-8."""
    return _SURROGATES.sub(REPLACEMENT, text)
