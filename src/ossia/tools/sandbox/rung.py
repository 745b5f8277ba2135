"""What a way of confining a process is to the rest: a rung of the ladder, best first.

Knows jobs; a rung turns one into a command line for this machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ossia.tools.sandbox.interpreter import Interpreter
from ossia.tools.sandbox.limits import AREA, SCRATCH, Job, Limits

HERE = Path(__file__).parent
INSIDE = HERE / "inside.py"
PROGRAMS = "/run/ossia"  # inside, where a rung lays our own files
FIRST_UID = 1_800_000_000  # of the users that areas belong to; no system gives these to anybody
UIDS = 200_000_000


@dataclass
class Launch:
    """A command to start. `descriptors` are inherited by it, and closed here once it has started.
    `variables`: its environment; code inside may be able to read it. None: ours. `end`: a command
    that ends it, where killing the process does not.
    """

    argv: list[str]
    descriptors: list[int] = field(default_factory=list)
    variables: Mapping[str, str] | None = None
    end: list[str] | None = None


class Rung(Protocol):
    """`name` and `about` are for people. `confines`: whether strangers' code may run in it.
    `is_watched`: whether its processes are below the one we start, so that their memory can be
    counted and they can be stopped. `own_scratch`: whether `/tmp` and `/dev/shm` inside are
    its own, in memory. `python`: the interpreter, as seen from inside. `home`: what the area is
    called inside, if there is one.
    """

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    @property
    def confines(self) -> bool: ...

    @property
    def is_watched(self) -> bool: ...

    @property
    def own_scratch(self) -> bool: ...

    @property
    def python(self) -> str: ...

    def missing(self) -> str | None:
        """Why it cannot be had here, and what would help; None if nothing is known against it."""
        ...

    def place(self, file: Path) -> str:
        """Where a file of ours is seen from inside."""
        ...

    def home(self, area: Path | None) -> str: ...

    def launch(self, job: Job) -> Launch: ...


@dataclass(frozen=True)
class Here:
    """What rungs have in common that show files where they are on this machine."""

    interpreter: Interpreter
    is_watched = True
    own_scratch = False

    @property
    def python(self) -> str:
        return self.interpreter.executable

    def place(self, file: Path) -> str:
        return str(file)


def owner_of(area: Path | None) -> int:
    """The user that a job runs as, where we choose: the area's owner, or one of nobody's."""
    if area is not None and (owner := area.stat().st_uid):
        return owner
    return new_uid()


def new_uid() -> int:
    return FIRST_UID + int.from_bytes(os.urandom(4), "big") % UIDS


def resource_limits(limits: Limits, *, processes: bool = True) -> dict[str, int]:
    """By the names of `resource.RLIMIT_*`. Address space and data only keep what the watch counts
    from growing faster than it looks.
    """
    made = {
        "CORE": 0,
        "FSIZE": limits.file_bytes,
        "CPU": limits.cpu_seconds,
        "NOFILE": limits.open_files,
        "MEMLOCK": 1 << 20,
        "MSGQUEUE": 0,
        "SIGPENDING": 1024,
        "DATA": 2 * limits.memory,
        "AS": limits.memory + (8 << 30),
    }
    return made | ({"NPROC": limits.processes} if processes else {})


def environment(home: str | None) -> Mapping[str, str]:
    """All that confined code is told. Few threads: each of a library's takes memory."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": home or SCRATCH,
        "TMPDIR": SCRATCH,
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": f"{SCRATCH}/matplotlib",
        "XDG_CACHE_HOME": f"{SCRATCH}/cache",
        "OPENBLAS_NUM_THREADS": "2",
        "OMP_NUM_THREADS": "2",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def inner_home(area: Path | None) -> str:
    """Where sandboxes with a view of files of their own have the area."""
    return SCRATCH if area is None else AREA
