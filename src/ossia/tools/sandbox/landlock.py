"""A rung without namespaces: sandlock, that is Landlock and seccomp, for containers and machines
that forbid user namespaces.

A launcher outside of the confinement gives up root, then starts sandlock, which supervises; inside
it `inside.py` sets our limits and our filter. Landlock hides no names and has no view of files of
its own, so the area is where it is on this machine, and is the working directory.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from pathlib import Path
from typing import Any

from ossia.tools.sandbox import bpf
from ossia.tools.sandbox.interpreter import SETTINGS, SYSTEM
from ossia.tools.sandbox.limits import Job
from ossia.tools.sandbox.rung import (
    HERE,
    INSIDE,
    Here,
    Launch,
    environment,
    owner_of,
    resource_limits,
)

START = HERE / "landlock_start.py"
OLDEST = (6, 12)  # signals and abstract sockets are kept in
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


class Sandlock(Here):
    name = "sandlock"
    about = "Landlock and seccomp, without namespaces; names of files can be seen"
    confines = True

    def missing(self) -> str | None:
        if importlib.util.find_spec("sandlock") is None:
            return "sandlock is not installed: pip install 'ossia[tools]'"
        found = tuple(int(part) for part in platform.release().split(".")[:2] if part.isdigit())
        if found < OLDEST:
            return f"Linux {platform.release()} is too old: 6.12 or newer is needed"
        if bpf.program(platform.machine()) is None:
            return f"no system call filter for {platform.machine()}: x86_64 and aarch64 have one"
        return None

    def home(self, area: Path | None) -> str:
        return "/" if area is None else str(area)

    def launch(self, job: Job) -> Launch:
        as_root = os.geteuid() == 0
        home = self.home(job.area)
        outer: dict[str, Any] = {"subreaper": True, "no_new_privs": True, "limits": {"CORE": 0}}
        outer["dies_with_parent"] = True
        if as_root:
            outer["uid"] = owner_of(job.area)
        filtered = bpf.program(platform.machine(), sees_files=True)
        assert filtered is not None
        inner = {
            # a user's other programs count, too
            "limits": resource_limits(job.limits, processes=as_root),
            "dies_with_parent": True,
            "filter": filtered.hex(),
            "folder": home,
        }
        confinement = {
            "readable": self._readable(job),
            "writable": ["/dev/null", *([home] if job.area else [])],
            "memory": job.limits.memory,
            "processes": job.limits.processes,
            "environment": {**environment(home), "TMPDIR": home, "MPLCONFIGDIR": home},
        }
        python = [self.python, "-I"]
        argv = [*python, "-S", str(INSIDE), json.dumps(outer)]
        argv += [*python, str(START), json.dumps(confinement)]
        argv += [*python, "-S", str(INSIDE), json.dumps(inner), *job.argv]
        return Launch(argv, variables={"HOME": "/"})  # sandlock looks for one

    def _readable(self, job: Job) -> list[str]:
        shown = [*SYSTEM, *SETTINGS, *self.interpreter.folders, *DEVICES, str(INSIDE)]
        shown += map(str, job.files)
        return [path for path in shown if os.path.exists(path)]
