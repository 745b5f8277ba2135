"""The launcher of the sandlock rung: makes the confinement, runs a command in it, supervises.

    python -I landlock_start.py '{"readable": [...], ...}' command argument...

Runs outside of the confinement, as the unprivileged user.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    import sandlock

    spec = json.loads(sys.argv[1])
    box = sandlock.Sandbox(
        fs_readable=spec["readable"],
        fs_writable=spec["writable"],
        clean_env=True,
        env=spec["environment"],
        max_memory=spec["memory"],
        max_processes=spec["processes"],
        no_coredump=True,
    )
    sys.exit(abs(box.run_interactive(sys.argv[2:])))


main()
