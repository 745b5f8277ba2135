"""Memory for weights and caches: anonymous, in huge pages where the system has them, touched only
when used.

A mapped file is read through pages of 4 KiB, which costs 10 to 20% of the bandwidth; pages of 2 MiB
do not. Pages lie on the memory node of the thread that first writes them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ossia.heap import c_library

HUGE_PAGE = 2 << 20  # bytes
_DONTNEED = 4
_HUGE = 14
_NOT_HUGE = 15
_PAGEOUT = 21
_POPULATE_READ = 22
PIECE = 64 << 20  # bytes: of a file, that become resident before they are let go
SCARCE = 2 << 30  # bytes: what others should find available
MEMORY_INFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0


def huge(size: int) -> Tensor:
    """uint8 [size], all zero, aligned to a page."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(size, dtype=torch.uint8)
    # Linux puts a mapping of whole huge pages where they can be huge from its beginning to its end
    length = max(size, 1) if size < HUGE_PAGE else -(-size // HUGE_PAGE) * HUGE_PAGE
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    with suppress(OSError):  # a system without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)[:size]


def forget_file_pages(view: Tensor, scarce: bool) -> None:
    """Give back the resident pages of a view of a mapped file; reading it again fetches them again.

    Only for views that have not been written to. The file stays in the system's cache, which makes
    the next start quick, except if memory is scarce.
    """
    if scarce:
        _advise(view, _PAGEOUT)
    drop_resident(view)


def is_scarce(wanted: int) -> bool:
    """Whether the system cannot provide `wanted` bytes more, be it by dropping cached pages of
    files: which it drops it decides, and it may be the wrong ones.
    """
    return available_memory() < wanted + SCARCE


def available_memory() -> int:
    """Bytes that can be had without swapping, as the operating system estimates them, within the
    control group. What files have in the system's cache is among them.
    """
    try:
        fields = dict(line.split(":", 1) for line in MEMORY_INFO.read_text().splitlines())
        system = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        system = os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:
        most = int((CONTROL_GROUP / "memory.max").read_text())
        used = int((CONTROL_GROUP / "memory.current").read_text())
    except (OSError, ValueError):  # none, or "max"
        return system
    return min(system, most - used + _group_cache())


def _group_cache() -> int:
    """Bytes of the system's cache of files that count as the control group's use."""
    try:
        lines = (CONTROL_GROUP / "memory.stat").read_text().splitlines()
        fields = dict(line.split(" ", 1) for line in lines)
        return int(fields["active_file"]) + int(fields["inactive_file"])
    except (OSError, KeyError, ValueError):
        return 0


def drop_resident(view: Tensor) -> None:
    """The same, and the file stays in the system's cache in any case. Anonymous memory is zero
    afterwards.
    """
    _advise(view, _DONTNEED)


def take_huge_pages(view: Tensor, wanted: bool) -> None:
    """Whether the system may use huge pages for a view of anonymous memory. While it may, it makes
    whole ones again of those that were given back in part.
    """
    _advise(view, _HUGE if wanted else _NOT_HUGE)


def fetch_file_pages(view: Tensor) -> None:
    """Have a view of a mapped file read into the system's cache, a piece at a time; none of it
    stays resident.
    """
    for piece in _pieces(view):
        _advise(piece, _POPULATE_READ)
        _advise(piece, _DONTNEED)


def copy_from_file(view: Tensor) -> Tensor:
    """The same values in memory of the process. A piece at a time: what has been copied does not
    stay resident as a page of the file, too.
    """
    if not view.is_contiguous():  # its pieces are no ranges of pages
        return view.clone()
    made = torch.empty_like(view)
    for piece, target in zip(_pieces(view), _pieces(made), strict=True):
        target.copy_(piece)
        _advise(piece, _DONTNEED)
    return made


def _pieces(view: Tensor) -> tuple[Tensor, ...]:
    flat = view.view(-1)
    step = PIECE // view.element_size()
    return tuple(flat[begin : begin + step] for begin in range(0, flat.numel(), step))


def _advise(view: Tensor, advice: int) -> None:
    """A wish: where the system does not know it, nothing happens."""
    if sys.platform != "linux":
        return
    page = mmap.PAGESIZE
    begin = (view.data_ptr() + page - 1) // page * page
    end = (view.data_ptr() + view.numel() * view.element_size()) // page * page
    if end > begin:
        c_library().madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)
