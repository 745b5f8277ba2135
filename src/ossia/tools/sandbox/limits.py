"""What a confined process may use, and what it is told to run. Knows no sandbox."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

MB = 1 << 20
SCRATCH = "/tmp"  # inside
SHARED_MEMORY = "/dev/shm"  # inside
AREA = "/mnt/data"  # inside; gpt-oss was told so


@dataclass(frozen=True)
class Limits:
    """Of one sandbox with all its processes, unless it says otherwise.

    `memory`: bytes, what lies in its temporary folders included. `file_bytes`: of one file.
    `cpu_seconds`, `open_files`: of one process. `scratch`: bytes of `/tmp`, and of `/dev/shm`.
    `scratch_files`: files in each of them; an empty one takes the kernel's memory.
    """

    memory: int = 1024 * MB
    processes: int = 64
    file_bytes: int = 256 * MB
    cpu_seconds: int = 1200
    open_files: int = 256
    scratch: int = 64 * MB
    scratch_files: int = 20_000


@dataclass(frozen=True)
class Job:
    """A command in a sandbox.

    `argv`: as seen from inside. `files`: files of ours that it may read; where, `Rung.place` says.
    `area`: the folder that is `/mnt/data` inside, None for none; its owner is who the command runs
    as, where we may choose.
    """

    argv: tuple[str, ...]
    files: tuple[Path, ...] = ()
    area: Path | None = None
    limits: Limits = field(default_factory=Limits)
