"""No sandbox at all: code runs as we do. For somebody alone on a machine who says so."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ossia.tools.sandbox.limits import SCRATCH, Job
from ossia.tools.sandbox.rung import INSIDE, Here, Launch, environment, resource_limits


class Unsafe(Here):
    name = "unsafe"
    about = "nothing is confined: code may do whatever you may"
    confines = False

    def missing(self) -> str | None:
        return None

    def home(self, area: Path | None) -> str:
        return SCRATCH if area is None else str(area)

    def launch(self, job: Job) -> Launch:
        home = self.home(job.area)
        # of root or a user with other programs no number of processes can be asked for
        spec = {
            "limits": resource_limits(job.limits, processes=False),
            "subreaper": True,
            "dies_with_parent": True,
            "folder": home,
        }
        argv = [self.python, "-I", "-S", str(INSIDE), json.dumps(spec), *job.argv]
        return Launch(argv, variables={**environment(home), "PATH": os.environ.get("PATH", "")})
