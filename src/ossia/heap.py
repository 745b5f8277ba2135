"""The C library's heap, from which Python's large objects, torch's small ones and the compiled
grammars come.

glibc gives every thread a heap of its own, and can give back to the system only the end of the
first one: the others keep as much as they ever held, up to 64 MiB each. Another library, or another
system, is left as it is.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

ARENA_MAX = -8  # mallopt's name for the number of heaps


def share() -> None:
    """All threads that begin from now on use the first heap."""
    _call("mallopt", ARENA_MAX, 1)


def trim() -> None:
    """Gives the system back the whole pages that are free."""
    _call("malloc_trim", 0)


@cache
def c_library() -> ctypes.CDLL:
    """Opened once: each time makes a class, which stays until garbage is collected."""
    return ctypes.CDLL(None)


def _call(name: str, *numbers: int) -> None:
    found = getattr(c_library(), name, None) if sys.platform == "linux" else None
    if found is not None:
        found(*numbers)
