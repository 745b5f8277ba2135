"""What a recipe's phases would cost here: the dry run, and the checks before a run. Does none of
the work.

Knows phases, and this machine's disk, memory and speed.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ossia.config import account
from ossia.errors import TrainingError
from ossia.train.log import LOG, read_log
from ossia.train.pipeline import Phase, state_of
from ossia.train.plan import cost
from ossia.train.settings import Hyperparameters, Parallel

Peaks = dict[tuple[str, int], float]  # operations/s, by precision and threads
RECENT = 50  # steps of an unfinished run whose speed counts
# share of the measured peak that a run reaches on a CPU. Assumed: small models have small products
MFU = 0.25


@dataclass(frozen=True)
class PhaseCost:
    """Of one phase. What is None cannot be told: the phase does not say what it trains."""

    name: str
    does: str
    state: str  # "done", "unfinished" or "to do"
    tokens: int
    parameters: int | None = None
    active: int | None = None
    flops: float | None = None
    memory: dict[str, int] | None = None  # bytes by item
    seconds: float | None = None
    disk: int = 0
    processes: int = 1  # over which it is spread; memory is of one, and its time is not told

    @property
    def total_memory(self) -> int:
        return sum((self.memory or {}).values())


@dataclass(frozen=True)
class Estimate:
    phases: tuple[PhaseCost, ...]
    peak: float  # operations/s, measured; 0 if nothing trains
    threads: int
    free_disk: int
    memory: int  # bytes of this machine

    @property
    def left(self) -> tuple[PhaseCost, ...]:
        return tuple(phase for phase in self.phases if phase.state != "done")

    @property
    def seconds(self) -> float:
        """Of what is left, without the phases that cannot be told."""
        return sum(phase.seconds or 0.0 for phase in self.left)

    @property
    def disk(self) -> int:
        return sum(phase.disk for phase in self.left)

    def problems(self) -> list[str]:
        """What prevents the run here."""
        found = []
        if self.disk > self.free_disk:
            found.append(
                f"about {self.disk:,} bytes of disk are needed and {self.free_disk:,} are free: "
                "make room, or give an --out elsewhere"
            )
        # of other machines' memory nothing is known
        here = [phase for phase in self.left if phase.processes == 1]
        largest = max(here, key=lambda phase: phase.total_memory, default=None)
        if largest is not None and largest.total_memory > self.memory:
            found.append(
                f"phase {largest.name} needs about {largest.total_memory:,} bytes of memory and "
                f"this machine has {self.memory:,}: set checkpoint_layers=true, a larger "
                "accumulate, or a smaller tokens_per_step"
            )
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "phases": [asdict(phase) for phase in self.phases],
            "seconds": self.seconds,
            "disk": self.disk,
            "free_disk": self.free_disk,
            "memory": self.memory,
            "peak_flops": self.peak,
            "threads": self.threads,
            "mfu": MFU,
            "problems": self.problems(),
        }


def estimate(phases: Sequence[Phase], out: Path) -> Estimate:
    """Of all phases; measures the peak of this machine, which takes less than half a second."""
    peaks: Peaks = {}
    for phase in phases:
        if _trains(phase):
            hyper = phase.hyper or Hyperparameters()
            peaks[hyper.precision, hyper.shards] = _peak(hyper)
    costs = tuple(_cost(phase, out, peaks) for phase in phases)
    peak = 0.0
    threads = 0
    if peaks:
        (_, threads), peak = max(peaks.items(), key=lambda item: item[1])
    return Estimate(costs, peak, threads, free_disk(out), _machine_memory())


def check_disk(phases: Sequence[Phase], out: Path) -> None:
    """Raises `TrainingError` if what is left to do will not fit on the disk."""
    left = [phase for phase in phases if state_of(phase, out) != "done"]
    needed = sum(map(_disk, left))
    free = free_disk(out)
    if needed > free:
        raise TrainingError(
            f"{out}: the run needs about {needed:,} bytes of disk, {free:,} are free: make room, "
            "or give an --out elsewhere. Nothing was begun"
        )


def free_disk(out: Path) -> int:
    """Bytes, where `out` is or will be."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _trains(phase: Phase) -> bool:
    return phase.config is not None and phase.tokens > 0


def _cost(phase: Phase, out: Path, peaks: Peaks) -> PhaseCost:
    about = PhaseCost(
        name=phase.name,
        does=phase.does,
        state=state_of(phase, out),
        tokens=phase.tokens,
        disk=_disk(phase),
    )
    if phase.config is None or not _trains(phase):
        return about
    hyper = phase.hyper or Hyperparameters()
    counts = account(phase.config)
    context = phase.context or hyper.longest
    each = cost.flops_per_token(phase.config, context)
    flops = phase.tokens * each
    about = replace(about, parameters=counts.total, active=counts.active, flops=flops)
    if phase.parallel is not None:
        spread = _spread_memory(phase, hyper, phase.parallel)
        return replace(about, memory=spread, processes=phase.parallel.processes)
    seconds = _seconds_left(phase, out)
    if not seconds:
        each = cost.flops_per_token(phase.config, context, hyper.checkpoint_layers)
        peak = peaks[hyper.precision, hyper.shards]
        seconds = phase.tokens * each / (peak * MFU)
    memory = asdict(cost.memory(phase.config, hyper, phase.lora))
    return replace(about, memory=memory, seconds=seconds)


def _spread_memory(phase: Phase, hyper: Hyperparameters, parallel: Parallel) -> dict[str, int]:
    """Of the fullest process. Raises `ConfigError` if the model does not divide."""
    from ossia.train.plan.layout import Hardware, Job, lay_out

    assert phase.config is not None
    groups = parallel.processes // parallel.tp
    tokens = math.ceil(hyper.tokens_per_step / (groups * hyper.accumulate))
    job = Job(
        config=phase.config,
        tokens=tokens,
        context=min(tokens, phase.context or hyper.longest),
        precision=hyper.precision,
        optimizer=hyper.optimizer,
        checkpoint_layers=hyper.checkpoint_layers,
    )
    return dict(lay_out(job, Hardware(parallel.processes), parallel).memory)


def _seconds_left(phase: Phase, out: Path) -> float | None:
    """By the speed of the last steps of what has been trained already; None if nothing has."""
    log = read_log(out / phase.name / LOG)
    if not log or state_of(phase, out) == "done":
        return None
    last = log[-RECENT:]
    took = sum(line["seconds"] for line in last)
    speed = sum(line["tokens"] for line in last) / took
    trained = sum(line["tokens"] for line in log)
    return float(max(0, phase.tokens - trained) / speed)


def _disk(phase: Phase) -> int:
    if phase.disk is not None:
        return phase.disk
    if phase.config is None or not _trains(phase):
        return 0
    hyper = phase.hyper or Hyperparameters()
    return cost.disk(phase.config, hyper, phase.lora)


def _peak(hyper: Hyperparameters) -> float:
    import torch

    return cost.peak_flops(getattr(torch, hyper.precision), hyper.shards)


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
