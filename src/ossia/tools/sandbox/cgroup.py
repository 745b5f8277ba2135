"""A control group for a sandbox, where one may be made: the kernel itself keeps its memory within
the limit, and counts what a watch from outside sees late.

    group = make(limits.memory)              None: no group may be made here
    argv = group.entering(argv)              a command that enters it before it is anything else
    group.is_exceeded(); group.end()

Both versions of control groups are known. As who is not root, one is needed that was handed over
(systemd: `Delegate=yes`), with memory among the controllers of the groups in it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
NAME = re.compile(r"ossia-(\d+)-[0-9a-f]{8}")
END_SECONDS = 5.0  # that processes may take to be gone after they were killed
DELEGATED = ("user.delegate", "trusted.delegate")  # attributes by which systemd says so
OLD_SECONDS = 60.0
PROCESSES = "cgroup.procs"
# enters a group, and becomes the command
ENTER = 'echo $$ > "$0" && exec "$@"'


@dataclass(frozen=True)
class Version:
    """Names of files: `limit` and `swap` are written, `events` has a line `oom_kill N`."""

    limit: str
    swap: str
    swap_holds_all: bool  # whether its limit is that of memory and swap together
    events: str


V1 = Version("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", True, "memory.oom_control")
V2 = Version("memory.max", "memory.swap.max", False, "memory.events")


@dataclass(frozen=True)
class Group:
    path: Path
    version: Version

    def entering(self, argv: list[str]) -> list[str]:
        return ["/bin/sh", "-c", ENTER, str(self.path / PROCESSES), *argv]

    def is_exceeded(self) -> bool:
        """Whether the kernel has ended a process in it for want of memory."""
        with contextlib.suppress(OSError, ValueError):
            for line in (self.path / self.version.events).read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count) > 0
        return False

    def processes(self) -> list[int]:
        with contextlib.suppress(OSError, ValueError):
            return [int(pid) for pid in (self.path / PROCESSES).read_text().split()]
        return []

    def end(self) -> None:
        """Kill what is left in it, and remove it."""
        until = time.monotonic() + END_SECONDS
        while time.monotonic() < until:
            left = self.processes()
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if not left and _removed(self.path):
                return
            time.sleep(0.005)


def make(memory: int) -> Group | None:
    """A new group whose processes may take so many bytes together."""
    for folder, version in _places():
        _remove_old(folder)
        path = folder / f"ossia-{os.getpid()}-{os.urandom(4).hex()}"
        try:
            path.mkdir()
        except OSError:
            continue
        group = Group(path, version)
        try:
            _limit(group, memory)
        except OSError:  # there is no memory controller in it
            _removed(path)
            continue
        if _can_be_entered(group):
            return group
        _removed(path)
    return None


def _can_be_entered(group: Group) -> bool:
    """Who may make a group need not be allowed to move a process into it."""
    command = group.entering(["/bin/sh", "-c", ":"])
    try:
        return subprocess.run(command, capture_output=True, timeout=END_SECONDS).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _limit(group: Group, memory: int) -> None:
    version = group.version
    _write(group.path / version.limit, memory)
    try:
        _write(group.path / version.swap, memory if version.swap_holds_all else 0)
    except OSError:  # a machine without accounting of swap: what is over the limit would go there
        with contextlib.suppress(OSError):
            _write(group.path / "memory.swappiness", 0)
    if version is V2:
        _write(group.path / "memory.oom.group", 1)


def _write(path: Path, value: int) -> None:
    """The file is there already, or it is none of the kernel's."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def _places() -> Iterator[tuple[Path, Version]]:
    """Groups in which ours might be: our own, or the one around it, which has no processes."""
    with contextlib.suppress(OSError):
        for line in OWN.read_text().splitlines():
            _, controllers, inner = line.split(":", 2)
            below = inner.lstrip("/")
            if "memory" in controllers.split(","):
                yield ROOT / "memory" / below, V1
            elif not controllers:
                yield ROOT / below, V2
                around = (ROOT / below).parent
                if below and _is_ours(around):
                    yield around, V2


def _is_ours(folder: Path) -> bool:
    """Whether a group was handed over to us: in any other, what is started would escape from the
    limits of our own. Root may write to all of them, so it has to be said.
    """
    if os.geteuid():
        return True
    for name in DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


def _remove_old(folder: Path) -> None:
    """Empty groups of processes that were killed; none that is being entered just now."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            found = NAME.fullmatch(path.name)
            if found is None or Path(f"/proc/{found[1]}").exists():
                continue
            if time.time() - path.stat().st_mtime > OLD_SECONDS:
                _removed(path)


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
