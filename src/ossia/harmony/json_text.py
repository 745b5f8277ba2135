"""JSON values as compact text for prompts: as the official format package writes them, or exactly.

Knows JSON and nothing else. A value that is not JSON, or is nested too deeply, raises one of
NOT_JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# Characters that some readers take for the end of a line, or ignore, and JSON leaves unescaped.
_BREAKS = re.compile("[\x7f-\x9f\u2028\u2029]")
_POWERS = tuple(float(f"1e{n}") for n in range(309))

NOT_JSON = (TypeError, ValueError, OverflowError, RecursionError)
MOST_LEVELS = 100  # of nested objects and lists, so that no writer runs out of stack


def dumped(value: Any) -> str:
    """JSON as Python writes it; any mapping is an object. Raises one of NOT_JSON."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, default=_object)
    except RecursionError as error:
        raise _too_deep() from error


def read(text: str) -> Any:
    """The value of JSON that `dumped` wrote. Raises ValueError beyond MOST_LEVELS."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise _too_deep() from error
    levels = 0
    level = [value]
    while containers := [item for item in level if isinstance(item, dict | list)]:
        levels += 1
        level = []
        for container in containers:
            level += container.values() if isinstance(container, dict) else container
    if levels > MOST_LEVELS:
        raise _too_deep()
    return value


def _too_deep() -> ValueError:
    return ValueError(f"more than {MOST_LEVELS} levels of objects and lists")


def _object(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a JSON type")


def literal(value: Any) -> str:
    """A value as JSON on one line: nothing in it ends a comment of one line."""
    return _BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", compact_json(value, exact=True))


def compact_json(value: Any, *, exact: bool = False) -> str:
    """JSON without spaces; numbers as the official package reads them, or `exact`."""
    if isinstance(value, dict):
        items = (f"{_quoted(key)}:{compact_json(item, exact=exact)}" for key, item in value.items())
        return "{" + ",".join(items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(compact_json(item, exact=exact) for item in value) + "]"
    if isinstance(value, float):
        return _digits(value if exact else _read_officially(value))
    if isinstance(value, int) and not isinstance(value, bool):
        fits = -(2**63) <= value < 2**64
        if not fits and not exact:
            return _digits(_read_officially(value))
    return _quoted(value)


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _read_officially(value: float) -> float:
    """The number that the official package reads from the digits of `value`: as many as fit 64
    bits, then one multiplication or division by a power of ten. The last place is not always the
    nearest.
    """
    sign = -1.0 if repr(value)[0] == "-" else 1.0
    text = repr(abs(value))
    mantissa, _, exponent = text.partition("e")
    whole, _, fraction = mantissa.partition(".")
    kept = whole + fraction
    power = int(exponent or 0) - len(fraction)
    while int(kept) >= 2**64:
        fits = 19 if int(kept[:20]) >= 2**64 else 20
        power += len(kept) - fits
        kept = kept[:fits]
    read = float(int(kept))
    while read and power < -308:
        read /= _POWERS[308]
        power += 308
    if read and power >= 0:
        read = read * _POWERS[power] if power <= 308 else float("inf")
    elif read:
        read /= _POWERS[-power]
    if read == float("inf"):
        raise OverflowError(f"the number {text:.20} is out of range")
    return sign * read


def _digits(value: float) -> str:
    """The shortest digits that read back as `value`: Python's, but positional down to 1e-5, and
    `e-6` rather than `e-06`.
    """
    if value in (float("inf"), -float("inf")) or value != value:
        raise ValueError(f"{value} is not JSON")
    sign = "-" if repr(value)[0] == "-" else ""
    text = repr(abs(value))
    if text.endswith("e-05"):
        return f"{sign}0.0000{text[:-4].replace('.', '')}"
    return sign + text.replace("e-0", "e-")
