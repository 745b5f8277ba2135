"""The processes below one: which there are, what memory they hold, stopping and ending them all.

Reads /proc. Memory is PSS, the resident memory with shared pages divided among those that share
them: the sum of resident memory counts a library once for every process, and ends innocent ones.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
MOST = 4096  # processes that are looked at
ROUNDS = 8  # of finding processes that were started while others were stopped
PAGE = os.sysconf("SC_PAGESIZE")


def descendants(pid: int) -> list[int]:
    """`pid` and all processes below it, parents first."""
    found = [pid]
    if not (PROC / str(pid) / "task" / str(pid) / "children").exists():
        return _by_parents(pid)
    for one in found:  # grows while it is walked
        found += _children(one)
        if len(found) > MOST:
            break
    return found


def _children(pid: int) -> Iterator[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                yield from map(int, file.read().split())
        except OSError:
            continue


def _by_parents(pid: int) -> list[int]:
    """`descendants`, where the kernel keeps no lists of children."""
    below: dict[int, list[int]] = defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            below[int(fields[1])].append(int(name))
    found = [pid]
    for one in found:
        found += below[one]
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold anything: state, parent, ..."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def memory(pids: list[int]) -> int:
    """Bytes: proportional, and the tables that map them, which sparse maps make large."""
    return sum(_proportional(pid) + _page_tables(pid) for pid in pids)


def _proportional(pid: int) -> int:
    """What was swapped out is counted, too."""
    held = 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith((b"Pss:", b"SwapPss:")):
                    held += int(line.split()[1]) << 10
    except (OSError, ValueError):
        return _resident(pid)
    return held


def _resident(pid: int) -> int:
    """Too much rather than nothing, for a process that hides its maps."""
    try:
        return int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE
    except (OSError, ValueError, IndexError):
        return 0


def _page_tables(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"VmPTE:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError):
        pass
    return 0


def scratch(pid: int, folder: str, most: int) -> tuple[int, int]:
    """Bytes and files in a file system of `most` bytes in memory, as process `pid` sees it. The
    folder must be one that nobody inside can replace. A larger file system is the machine's: the
    process has not got its own yet.
    """
    try:
        found = os.statvfs(f"/proc/{pid}/root{folder}")
    except OSError:
        return 0, 0
    if found.f_blocks * found.f_frsize > most + PAGE:
        return 0, 0
    return (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_files - found.f_ffree


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def stop(top: int) -> None:
    """Stop the processes below `top`, those too that are being started meanwhile."""
    stopped: set[int] = set()
    for _ in range(ROUNDS):
        new = [pid for pid in descendants(top)[1:] if pid not in stopped]
        if not new:
            return
        send(new, signal.SIGSTOP)
        stopped.update(new)


def go_on(top: int) -> None:
    send(descendants(top)[1:], signal.SIGCONT)
