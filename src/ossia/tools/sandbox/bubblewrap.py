"""The best rung: bubblewrap, which makes namespaces: files, processes, network, users of its own.

As a user, everything is unprivileged: a user namespace, all capabilities dropped. As root there is
no user namespace; `inside.py` becomes an unprivileged user, because limits on the number of
processes do not bind root. The sandbox sees the system's programs and the interpreter, read-only,
and nothing else of this machine.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ossia.tools.sandbox import bpf
from ossia.tools.sandbox.interpreter import SETTINGS, SYSTEM, Interpreter
from ossia.tools.sandbox.limits import AREA, SCRATCH, SHARED_MEMORY, Job
from ossia.tools.sandbox.rung import (
    INSIDE,
    PROGRAMS,
    Launch,
    environment,
    inner_home,
    owner_of,
    resource_limits,
)

OLDEST = (0, 8)  # knows --size and --disable-userns
APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
PROFILE = """\
abi <abi/4.0>,
include <tunables/global>
profile bwrap /usr/bin/bwrap flags=(unconfined) {
  userns,
}"""


@dataclass(frozen=True)
class Bubblewrap:
    interpreter: Interpreter
    as_root: bool = field(default_factory=lambda: os.geteuid() == 0)
    confines = True
    is_watched = True
    own_scratch = True

    @property
    def name(self) -> str:
        return "bubblewrap as root" if self.as_root else "bubblewrap"

    @property
    def about(self) -> str:
        if self.as_root:
            return "namespaces without a user namespace; code runs as an unprivileged user"
        return "namespaces, a user namespace among them"

    @property
    def python(self) -> str:
        return self.interpreter.executable

    def missing(self) -> str | None:
        if self.program is None:
            return "bwrap is not installed: install the package bubblewrap"
        if self.version < OLDEST:
            found = ".".join(map(str, self.version))
            return f"bwrap {found} is too old: 0.8 or newer is needed"
        if bpf.program(platform.machine()) is None:
            return f"no system call filter for {platform.machine()}: x86_64 and aarch64 have one"
        if not self.as_root and _read(APPARMOR) == "1":
            return f"AppArmor forbids user namespaces; to /etc/apparmor.d/bwrap belongs:\n{PROFILE}"
        return None

    @cached_property
    def program(self) -> str | None:
        return shutil.which("bwrap")

    @cached_property
    def version(self) -> tuple[int, ...]:
        try:
            ran = subprocess.run(
                [str(self.program), "--version"], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError):
            return ()
        return tuple(map(int, re.findall(r"[0-9]++", ran.stdout[:100])))

    def place(self, file: Path) -> str:
        return f"{PROGRAMS}/{file.name}"

    def home(self, area: Path | None) -> str:
        return inner_home(area)

    def launch(self, job: Job) -> Launch:
        """Arguments go through a descriptor: everybody can read a command line, inside too."""
        filtered = bpf.program(platform.machine())
        assert filtered is not None and self.program is not None
        descriptors = [_memory_file(filtered)]
        options = [*self._options(job), "--seccomp", str(descriptors[0])]
        descriptors.append(_memory_file("\0".join(options).encode()))
        spec: dict[str, Any] = {
            "limits": resource_limits(job.limits),
            "folder": self.home(job.area),
        }
        if self.as_root:
            spec["uid"] = owner_of(job.area)
        first = [self.python, "-I", "-S", self.place(INSIDE), json.dumps(spec), *job.argv]
        argv = [self.program, "--args", str(descriptors[1]), "--", *first]
        # bwrap itself is process 1 inside, where its environment can be read
        return Launch(argv, descriptors, variables={})

    def _options(self, job: Job) -> Iterator[str]:
        yield from self._namespaces()
        size = str(job.limits.scratch)
        yield from ("--proc", "/proc", "--dev", "/dev")
        yield from ("--perms", "1777", "--size", size, "--tmpfs", SHARED_MEMORY)
        yield from ("--remount-ro", "/dev")
        yield from ("--perms", "1777", "--size", size, "--tmpfs", SCRATCH)
        yield from self._files(job)
        yield from ("--remount-ro", "/", "--clearenv")
        for name, value in environment(self.home(job.area)).items():
            yield from ("--setenv", name, value)

    def _namespaces(self) -> Iterator[str]:
        yield from ("--die-with-parent", "--new-session", "--hostname", "sandbox")
        yield from ("--cap-drop", "ALL")
        if not self.as_root:
            yield from ("--unshare-all", "--unshare-user", "--disable-userns")
            return
        for kind in ("ipc", "pid", "net", "uts", "cgroup-try"):
            yield f"--unshare-{kind}"
        for capability in ("SETUID", "SETGID", "SETPCAP"):  # inside.py gives them up
            yield from ("--cap-add", f"CAP_{capability}")

    def _files(self, job: Job) -> Iterator[str]:
        system = [path for path in SYSTEM if os.path.lexists(path)]
        shown = [*self.interpreter.folders, *filter(os.path.exists, SETTINGS)]
        yield from _folders([*shown, AREA, f"{PROGRAMS}/x"])
        for path in system:
            if os.path.islink(path):
                yield from ("--symlink", os.readlink(path), path)
            else:
                yield from ("--ro-bind", path, path)
        for path in shown:
            yield from ("--ro-bind", path, path)
        for file in (INSIDE, *job.files):
            yield from ("--ro-bind", str(file), self.place(file))
        if job.area is not None:
            yield from ("--bind", str(job.area), AREA)


def _folders(paths: Iterable[str]) -> Iterator[str]:
    """The folders that lead to these paths, for everybody to pass: those that bubblewrap makes by
    itself are root's alone.
    """
    made: dict[str, None] = {}
    for path in paths:
        made |= {str(parent): None for parent in reversed(Path(path).parents)}
    for folder in made:
        if folder not in ("/", "/usr", SCRATCH) and not folder.startswith("/usr/"):
            yield from ("--perms", "0755", "--dir", folder)


def _memory_file(content: bytes) -> int:
    """A descriptor from which this can be read."""
    made = os.memfd_create("ossia")
    os.write(made, content)
    os.lseek(made, 0, os.SEEK_SET)
    return made


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
