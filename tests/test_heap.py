"""The C library's heap is one for all threads, and what is free in it goes back to the system."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

IS_GLIBC = sys.platform == "linux" and bool(os.confstr("CS_GNU_LIBC_VERSION"))
CHILD = """
import threading
from pathlib import Path
from ossia import heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if {shares}:
    heap.share()
large = b"x" * (30 << 20)
del large  # whoever frees such a block has glibc keep heaps of that size
ready = threading.Barrier(5)
stopping = threading.Event()

def work():
    mine = [b"x" * 5000 + bytes([n % 256]) for n in range(4000)]  # 20 MB
    ready.wait()
    del mine
    ready.wait()
    stopping.wait()

threads = [threading.Thread(target=work) for _ in range(4)]
before = resident()
for thread in threads:
    thread.start()
ready.wait()
ready.wait()
heap.trim()
print((resident() - before) >> 20)
stopping.set()
"""


def kept(*, shares: bool) -> int:
    """MiB that a process keeps of 80 that four threads have taken and freed."""
    code = CHILD.format(shares=shares)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(said.stdout)


@pytest.mark.skipif(not IS_GLIBC, reason="the heap of another C library")
def test_what_threads_have_freed_goes_back() -> None:
    assert kept(shares=True) < 8
    assert kept(shares=False) > 20, "the library has learned to do it itself"
