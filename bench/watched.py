"""Processes that are measured from outside: how long they ran, what memory they took, what else the
machine did.

Knows no benchmark and no model.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from ossia.commands.machine import Others

QUIET = 0.1  # processors that others may use before a measurement is marked


@dataclass(frozen=True)
class Done:
    """A process that has ended well."""

    out: str
    err: str
    seconds: float
    peak_bytes: int  # the largest resident size; touched pages of mapped files count
    others: float  # processors that other programs used meanwhile, on average


def run(
    command: Sequence[object], env: Mapping[str, str] | None = None, folder: Path | None = None
) -> Done:
    """Run it in `folder`. Where it fails, the end of what it said is printed, and that is the
    end.
    """
    words = [str(part) for part in command]
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        others, began = Others(), time.perf_counter()
        whole = os.environ | (env or {})
        nothing = subprocess.DEVNULL
        process = subprocess.Popen(
            words, stdin=nothing, stdout=out, stderr=err, env=whole, cwd=folder
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        busy = others.processors(usage.ru_utime + usage.ru_stime)
        for stream in (out, err):
            stream.seek(0)
        said, complained = out.read(), err.read()
    if process.returncode:
        sys.exit(f"{' '.join(words)}: {process.returncode}\n{complained[-3000:]}\n{said[-1000:]}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Done(said, complained, seconds, peak, busy)


def first_token(
    command: Sequence[object], env: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Seconds from the start of a process to "loaded" (if it says so) and to the line after; what
    is resident then.
    """
    pipe = subprocess.PIPE
    words = [str(part) for part in command]
    found: dict[str, float] = {}
    whole = os.environ | (env or {})
    began = time.perf_counter()
    with (
        TemporaryFile("w+") as errors,
        subprocess.Popen(
            words, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=whole
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        if line.startswith("loaded"):
            found["load_s"] = time.perf_counter() - began
            line = process.stdout.readline()
        found["first_token_s"] = time.perf_counter() - began
        if not line:
            errors.seek(0)
            sys.exit(f"{' '.join(words)}: said nothing\n{errors.read()[-3000:]}")
        found["resident_bytes"] = resident_bytes(process.pid)
        process.communicate("")
    return found


def resident_bytes(pid: int) -> float:
    """0 where there is no /proc, or where the process has ended already."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(
        1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")
    )


def wait_until_quiet(patience: float, window: float = 5.0) -> float:
    """Returns when others used less than QUIET processors over `window` seconds, or after
    `patience` seconds; what they used last.
    """
    end = time.monotonic() + patience
    while True:
        others, own = Others(), time.process_time()
        time.sleep(window)
        used = others.processors(time.process_time() - own)
        if used < QUIET or time.monotonic() + window > end:
            return used
