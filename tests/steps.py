"""How many steps Python takes: lines run, functions called, its own and C's. Unlike time, the same
on every machine and however busy it is; but what a single call of C takes does not show.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps(work: Callable[[], object]) -> int:
    """Of `work()`, in this thread."""
    count = 0

    def traced(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += 1
        return traced

    def profiled(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        count += 1

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(traced)
    sys.setprofile(profiled)
    try:
        work()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    return count


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """Of this thread's processor time, at best: for slow tests of what steps do not show."""
    best = float("inf")
    for _ in range(times):
        began = time.thread_time()
        work()
        best = min(best, time.thread_time() - began)
    return best
