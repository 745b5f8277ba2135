"""The C library's heap, from which Python's large objects, torch's small ones and the compiled
grammars come.
"""

from __future__ import annotations

import ctypes
import sys


def trim() -> None:
    """Gives the system back what is free, where the library can: whole pages, anywhere."""
    found = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if found is not None:
        found(0)
