"""The many Unicode forms of a character, as the one that they are forms of.

"５² − ½"   ->   "5^2 - [MIXED]((1)/(2))"
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

THIN = "\u2009"  # a space that may stand between the digits of a number
MIXED = "\u2064"  # between the whole part and the fraction of a mixed number

_FORMS = {
    "\u2212": "-",  # the minus sign, and hyphens that are written for it
    "\u2010": "-",
    "\u2011": "-",
    "\ufe63": "-",
    "\u207b": "-",  # raised
    "\u207a": "+",
    "\u00d7": "*",
    "\u22c5": "*",
    "\u00b7": "*",
    "\u2217": "*",
    "\u00f7": "/",
    "\u2044": "/",
    "\u2215": "/",
    "\u02da": "°",
    "\u00ba": "°",
    "\u2018": "'",
    "\u2019": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u3002": ". ",
    "\u3001": ", ",
    "\uff0c": ", ",
    "\u3010": "[",
    "\u3011": "]",
    "\u2192": " => ",
    "\u21d2": " => ",
    "\u2234": " therefore ",
    "\u2248": "≈",
    "\u2245": "≈",
    "\u2243": "≈",
    THIN: THIN,
    "\u202f": THIN,
    "\u00a0": " ",
    "\u3000": " ",
    "\ufeff": "",
}
_CROSSES = "\u2717\u2718\u2716\u274c\u274e\U0001f6ab"  # behind or before what is wrong
_RAISED_SIGNS = "\u207a\u207b"
_WIDE_COMMA = re.compile(r"(?<=\d)\uff0c(?=\d{3}(?!\d))")


def folded(text: str) -> str:
    """ASCII for what is a form of an ASCII character: digits and letters of all widths and styles,
    minus signs, superscripts ("5²" -> "5^2"), fractions ("½" -> "1/2").
    """
    if text.isascii():
        return text
    text = _WIDE_COMMA.sub(",", text)
    out = []
    raised = False  # in a run of superscripts
    for char in text:
        if char.isascii():
            out.append(char)
            raised = False
            continue
        is_raised = _is_raised(char)
        if is_raised and not raised:
            out.append("^")
        out.append(_folded(char))
        raised = is_raised
    return "".join(out)


def _is_raised(char: str) -> bool:
    if char in _RAISED_SIGNS:
        return True
    form = unicodedata.decomposition(char)
    return form.startswith("<super>") and unicodedata.digit(char, None) is not None


@lru_cache(maxsize=4096)
def _folded(char: str) -> str:
    if char in _FORMS:
        return _FORMS[char]
    code = ord(char)
    if 0xE000 <= code <= 0xF8FF or unicodedata.category(char) == "Cf":
        return ""  # our marks are nobody else's; and what nobody sees
    digit = unicodedata.digit(char, None)
    if digit is not None:
        return str(digit)
    if unicodedata.decomposition(char).startswith("<fraction>"):
        top, _, below = unicodedata.normalize("NFKC", char).partition("\u2044")
        return f"{MIXED}(({top})/({below}))"
    for first in (0x1F150, 0x1F170):  # white letters on black
        if first <= code < first + 26:
            return chr(ord("A") + code - first)
    if unicodedata.category(char) == "Zs":
        return " "
    plain = unicodedata.normalize("NFKC", char)
    if len(plain) == 1 and plain.isascii():
        return plain
    if len(plain) == 3 and plain[0] == "(" and plain[2] == ")":  # ⒜
        return plain
    if char in _CROSSES:
        return " is wrong "
    if unicodedata.category(char) == "So" and char != "°":
        return " "  # a check mark, a hand that points
    return char
