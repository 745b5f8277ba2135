"""docker and podman as a rung: a container without a network, privileges or a writable system.

The engine's daemon starts the processes, so that memory and numbers are its to limit, and nothing
is stopped between two calls. The interpreter is the image's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ossia.tools.sandbox.limits import AREA, SCRATCH, Job
from ossia.tools.sandbox.rung import (
    PROGRAMS,
    Launch,
    environment,
    inner_home,
    new_uid,
    resource_limits,
)

IMAGE = "python:3.12-slim"
IMAGE_VARIABLE = "OSSIA_SANDBOX_IMAGE"
SECONDS = 20.0  # that a daemon may take to answer
CPUS = "2"


@dataclass(frozen=True)
class Engine:
    """`name`: the program, docker or podman."""

    name: str
    confines = True
    is_watched = False
    own_scratch = False
    python = "python3"

    @property
    def about(self) -> str:
        return f"containers of the image {self.image}, without a network"

    @property
    def image(self) -> str:
        return os.environ.get(IMAGE_VARIABLE) or IMAGE

    def missing(self) -> str | None:
        if shutil.which(self.name) is None:
            return f"{self.name} is not installed"
        if (failed := self._fails("info")) is not None:
            return f"{self.name} does not answer: {failed}"
        if self._fails("image", "inspect", self.image) is not None:
            return f"the image is not here: {self.name} pull {self.image}"
        return None

    def _fails(self, *words: str) -> str | None:
        try:
            ran = subprocess.run(
                [self.name, *words], capture_output=True, text=True, timeout=SECONDS
            )
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
        said = (ran.stderr.strip() or "it failed").splitlines()
        return None if ran.returncode == 0 else said[-1]

    def place(self, file: Path) -> str:
        return f"{PROGRAMS}/{file.name}"

    def home(self, area: Path | None) -> str:
        return inner_home(area)

    def launch(self, job: Job) -> Launch:
        name = f"ossia-{os.urandom(8).hex()}"
        end = [self.name, "kill", name]
        return Launch([self.name, "run", *self._options(job, name), *job.argv], end=end)

    def _options(self, job: Job, name: str) -> list[str]:
        limits = job.limits
        size = f"size={limits.scratch},nr_inodes={limits.scratch_files}"
        user = _user(job.area)
        made = ["-i", "--rm", "--name", name, "--pull", "never", "--network", "none"]
        made += ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        made += ["--memory", str(limits.memory), "--memory-swap", str(limits.memory)]
        made += ["--pids-limit", str(limits.processes), "--cpus", CPUS, "--user", user]
        made += ["--tmpfs", f"{SCRATCH}:mode=1777,{size}", "--shm-size", str(limits.scratch)]
        made += ["--workdir", self.home(job.area), "--log-driver", "none", "--init"]
        most = resource_limits(limits, processes=False)
        for kind in ("CORE", "FSIZE", "CPU", "NOFILE"):  # the others are cgroups'
            made += ["--ulimit", f"{kind.lower()}={most[kind]}"]
        for key, value in environment(self.home(job.area)).items():
            if key != "PATH":  # the image's own
                made += ["--env", f"{key}={value}"]
        for file in job.files:
            made += _mount(str(file), self.place(file), read_only=True)
        if job.area is not None:
            made += _mount(str(job.area), AREA)
        return [*made, self.image]


def _user(area: Path | None) -> str:
    """The area's owner: we, unless we are root."""
    if area is not None:
        found = area.stat()
        if found.st_uid:
            return f"{found.st_uid}:{found.st_gid}"
    uid = new_uid()
    return f"{uid}:{uid}"


def _mount(source: str, target: str, *, read_only: bool = False) -> list[str]:
    return [
        "--mount",
        f"type=bind,source={source},target={target}{',readonly' if read_only else ''}",
    ]
