"""Runs a program of ours under limits of time and memory: `python launch.py SECONDS BYTES PROGRAM`.

A program of its own, of the standard library alone, so that nothing but what the program needs is
imported. `confined.py` starts it.
"""

from __future__ import annotations

import runpy
import sys


def main() -> None:
    _, seconds, memory, program, *arguments = sys.argv
    _limit(int(seconds), int(memory))
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")


def _limit(seconds: int, memory: int) -> None:
    """Where the system has limits; elsewhere only the caller's patience ends it."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
