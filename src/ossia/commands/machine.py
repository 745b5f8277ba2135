"""What the operating system says of this machine: the processor and what it can do, memory, who
else is running.

Without /proc every answer is a fallback. Knows nothing of models and kernels.
"""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

# Of a processor's flags, as Linux writes them, those that choose kernels: x86's, then ARM's.
FLAGS = (
    *(
        "avx",
        "f16c",
        "fma",
        "avx2",
        "avx_vnni",
        "avx_vnni_int8",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vnni",
    ),
    *("avx512_bf16", "amx_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


def cpu_name(text: str | None = None) -> str:
    """The processor's name, from the text of /proc/cpuinfo."""
    text = _read("/proc/cpuinfo") if text is None else text
    found = re.search(r"^model name\s*+:\s*+(\S.*)$", text, re.MULTILINE)
    return found[1].rstrip() if found else platform.processor() or platform.machine()


def cpu_family(text: str | None = None) -> str:
    """What tells processors of the same name apart: "family 25 model 17 stepping 1"; empty where it
    is not said.
    """
    text = _read("/proc/cpuinfo") if text is None else text
    parts = []
    for key, name in (("cpu family", "family"), ("model", "model"), ("stepping", "stepping")):
        if found := re.search(rf"^{key}\s*+:\s*+(\d++)[ \t]*+$", text, re.MULTILINE):
            parts.append(f"{name} {found[1]}")
    return " ".join(parts)


def cpu_flags(text: str | None = None) -> list[str]:
    """Those of FLAGS that the processor has."""
    text = _read("/proc/cpuinfo") if text is None else text
    found = re.search(r"^(?:flags|Features)\s*+:[ \t]*+(.*)$", text, re.MULTILINE)
    has = set(found[1].split()) if found else set()
    return [flag for flag in FLAGS if flag in has]


def processors() -> int:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    return os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES")


def busy_seconds() -> float | None:
    """Processor time that the whole machine has spent on anything so far; None where it is not
    told.
    """
    # the rest is counted in them
    fields = [int(n) for n in _read("/proc/stat").partition("\n")[0].split()[1:9]]
    if len(fields) < 5:
        return None
    # idle, waiting for a disk
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


class Others:
    """Counts from its birth on how many processors other programs kept busy."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.busy = busy_seconds()

    def processors(self, own_seconds: float) -> float:
        """On average, less what we used ourselves; 0 where it is not told."""
        now, elapsed = busy_seconds(), time.perf_counter() - self.began
        if now is None or self.busy is None or elapsed <= 0:
            return 0.0
        return max(0.0, (now - self.busy - own_seconds) / elapsed)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
