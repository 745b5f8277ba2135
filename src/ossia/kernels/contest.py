"""The fastest of several ways to compute the same thing: measured once on each machine, then
remembered.

Remembered because bits depend on it: two runs on one machine, or a run and its resumption, must
make the same choice. Knows calls without arguments and a file; does not know what they compute.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ossia.files import beside

MARGIN = 1.1  # how much faster another way has to be to take the place of the usual one
ROUNDS = 5

# What makes torch's libraries choose other code on the same machine.
SWITCHES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
)

Calls = Sequence[Callable[[], object]]


def seconds(
    ways: Mapping[str, Calls], clock: Callable[[], float] = time.thread_time
) -> dict[str, float]:
    """Of each way, the sum over its calls of the fastest of `ROUNDS`; the ways take turns, so that
    a machine that slows down slows all of them. Each call is made once before, because libraries
    prepare what they see for the first time.
    """
    best: dict[str, list[float]] = {}
    for name, calls in ways.items():
        for call in calls:
            call()
        best[name] = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for name, calls in ways.items():
            for n, call in enumerate(calls):
                began = clock()
                call()
                best[name][n] = min(best[name][n], clock() - began)
    return {name: sum(times) for name, times in best.items()}


def fastest(took: Mapping[str, float]) -> str:
    """The first way, the usual one, unless another is faster by `MARGIN`; then the fastest."""
    usual = next(iter(took))
    winner = min(took, key=lambda name: took[name])  # the first of equals
    return winner if took[winner] * MARGIN <= took[usual] else usual


def machine() -> str:
    """Everything that a measurement depends on: the processor and its instruction sets, torch, and
    the switches that limit it.
    """
    found = torch.cpu.get_capabilities()
    sets = sorted(name for name, there in found.items() if there is True)
    digest = hashlib.sha256(" ".join(sets).encode()).hexdigest()[:8]
    limits = [f"{name}={os.environ[name]}" for name in SWITCHES if os.environ.get(name)]
    named = f"{found.get('cpu_name') or platform.machine()} ({digest})"
    return ", ".join(
        [named, torch.backends.cpu.get_cpu_capability(), f"torch {torch.__version__}", *limits]
    )


def memory(machine: str) -> Path:
    """Where results for `machine` are kept. Raises `RuntimeError` if there is no home directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "ossia", f"speeds-{hashlib.sha256(machine.encode()).hexdigest()[:16]}.json")


def remembered(
    file: Path, measure: Callable[[], dict[str, object]], valid: Callable[[dict[str, object]], bool]
) -> dict[str, object]:
    """The JSON object in `file`, if it is `valid`; otherwise measured, and written there. Of
    several processes that measure at the same time, the first to write decides for all. If nothing
    can be written, the new measurement counts.
    """
    found = _read(file, valid)
    if found is not None:
        return found
    mine = measure()
    with suppress(OSError):
        _write(file, mine, valid)
    return _read(file, valid) or mine


def _read(file: Path, valid: Callable[[dict[str, object]], bool]) -> dict[str, object] | None:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and valid(found) else None


def _write(
    file: Path, value: dict[str, object], valid: Callable[[dict[str, object]], bool]
) -> None:
    """Unless another process was first. A damaged file, or another version's, is replaced."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=2) + "\n"
    with beside(file) as temporary:
        temporary.write_text(text)
        if _read(file, valid) is None:
            file.unlink(missing_ok=True)
        with suppress(FileExistsError):
            _appear(temporary, file, text)


def _appear(temporary: Path, file: Path, text: str) -> None:
    """Raises `FileExistsError` if there is `file` already."""
    try:
        os.link(temporary, file)  # never seen half written
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with open(file, "x") as new:
            new.write(text)
