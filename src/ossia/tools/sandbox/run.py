"""One command in a sandbox, from start to end, with what it wrote."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

from ossia.tools.sandbox.limits import Job
from ossia.tools.sandbox.process import MEMORY_LIMIT, Confined
from ossia.tools.sandbox.rung import Rung
from ossia.tools.sandbox.text import HeadAndTail

TICK = 0.05  # seconds between two looks at a process's memory
CHUNK = 1 << 16  # bytes
TIME_LIMIT = "time limit"
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Finished:
    """`status`: as the command ended, negative for a signal. `reason`: why we ended it, "time
    limit", "memory limit" or "interrupted"; None: it ended by itself.
    """

    out: str
    err: str
    status: int
    reason: str | None = None


def run(
    rung: Rung,
    job: Job,
    *,
    seconds: float,
    given: bytes = b"",
    most: int = 1 << 20,
    interrupted: Callable[[], bool] = lambda: False,
) -> Finished:
    """`given`: what it reads. `most`: characters that are kept of each stream. Takes a thread for
    as long as it runs. Raises `SandboxError` if the sandbox cannot be started.
    """
    with tempfile.TemporaryFile() as file:
        file.write(given)
        file.seek(0)
        with Confined(rung, job, stdin=file) as process:
            texts = {process.out: HeadAndTail(most), process.err: HeadAndTail(most)}
            reason = _until_it_ends(process, texts, time.monotonic() + seconds, interrupted)
            if reason is None:
                try:
                    process.popen.wait(seconds)
                except subprocess.TimeoutExpired:  # it closed its streams and goes on
                    reason = TIME_LIMIT
            if reason is None and process.is_full():
                reason = MEMORY_LIMIT
            written = [texts[process.out].text(), texts[process.err].text()]
        return Finished(written[0], written[1], process.popen.returncode or 0, reason)


def _until_it_ends(
    process: Confined,
    texts: dict[int, HeadAndTail],
    until: float,
    interrupted: Callable[[], bool],
) -> str | None:
    """Read both streams until they end; or why to end the process."""
    open_streams = set(texts)
    looked = 0.0
    while open_streams:
        ready = select.select(list(open_streams), [], [], TICK)[0]
        for stream in ready:
            data = os.read(stream, CHUNK)
            texts[stream].feed(data)
            if not data:
                open_streams.remove(stream)
        now = time.monotonic()
        if now >= until:
            return TIME_LIMIT
        if interrupted():
            return INTERRUPTED
        if now - looked >= TICK:
            looked = now
            if (passed := process.over()) is not None:
                return passed
    return None
