"""Programs of ours that read hostile files: each file in a process of its own, under limits.

    text, why = await run_confined(PDF, data, seconds=20)

`why` says what went wrong, "" if nothing did. A program reads stdin, writes stdout, and ends with
the reason on stderr and a status above 0 if it cannot. Knows processes; nothing of what is read.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LAUNCH = HERE / "launch.py"
PDF = HERE / "pdf.py"
PROCESSOR_SECONDS = 10
MEMORY = 1 << 30  # bytes of address space
# what Python needs to find its packages; nothing else, such as keys
ENVIRONMENT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "SYSTEMROOT")
LONGEST_REASON = 200  # characters


async def run_confined(
    program: Path, data: bytes, seconds: float, *arguments: str
) -> tuple[bytes, str]:
    """What the program writes for `data`, and what is wrong. The process ends with this, however
    this ends.
    """
    limits = (str(PROCESSOR_SECONDS), str(MEMORY))
    command = (sys.executable, "-P", str(LAUNCH), *limits, str(program), *arguments)
    pipe = subprocess.PIPE
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=kept)
    try:
        return await asyncio.to_thread(_finish, process, data, seconds)
    finally:
        process.kill()  # nothing happens to one that has ended


def _finish(process: subprocess.Popen[bytes], data: bytes, seconds: float) -> tuple[bytes, str]:
    with process:
        try:
            out, errors = process.communicate(data, seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return b"", "it takes too long"
    if process.returncode < 0:  # by the limit of its processor time
        return b"", "it takes too long"
    if process.returncode:
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        return b"", lines[-1][:LONGEST_REASON] if lines else "it cannot be read"
    return out, ""
