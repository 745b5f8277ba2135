"""The processes that torchrun started, and this one's place among those that a model is spread over
to answer together. Knows groups and messages; what a process holds and computes is spread.py's.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ossia.errors import ConfigError, ProcessLost
from ossia.parts import Parts

# How long a process waits for another that computes the same step. One that has ended is noticed at
# once, by its closed connections; this is for one that hangs.
STEP = timedelta(minutes=10)
IDLE = timedelta(days=3650)  # for what there is to do next: a server may wait for ever


@dataclass
class Spread:
    """This process's place. `lost`: why the processes cannot go on together, once they cannot.
    `lock` is held from telling the others to the end of what they compute with this one. Runners
    have numbers (engine/beside.py); `dropped`: of those that the others are still to forget.
    """

    parts: Parts
    rank: int
    everybody: Any  # process groups
    heads: Any
    control: Any
    lost: str | None = None
    next_number: int = 0
    dropped: list[int] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def expert_part(self) -> int:
        return self.rank // self.parts.tp

    @property
    def head_part(self) -> int:
        return self.rank % self.parts.tp

    def tell(self, what: object) -> None:
        """To all others. Raises `ProcessLost`."""
        self._broadcast([what])

    def hear(self) -> Any:
        """What the leader says next. Raises `ProcessLost`."""
        heard: list[Any] = [None]
        self._broadcast(heard)
        return heard[0]

    def _broadcast(self, one: list[Any]) -> None:
        self.check()
        cpu = torch.device("cpu")
        try:
            dist.broadcast_object_list(one, src=0, group=self.control, device=cpu)
        except RuntimeError as error:
            raise self.lose(error) from error

    def summed(self, x: Tensor, group: Any, in_order: bool = False) -> Tensor:
        """The sum of x over a group, in its dtype. `in_order`: in the order of the processes, for
        every element; otherwise that may depend on its place, and so on what else is in x. Two
        numbers have one sum. Raises `ProcessLost`.
        """
        out = x.clone(memory_format=torch.contiguous_format)
        count = dist.get_world_size(group)
        try:
            if in_order and count > 2:
                parts = [torch.empty_like(out) for _ in range(count)]
                dist.all_gather(parts, out, group=group)
                return reduce(torch.add, parts)
            dist.all_reduce(out, group=group)
        except RuntimeError as error:
            raise self.lose(error) from error
        return out

    def check(self) -> None:
        """Raises `ProcessLost` if the processes cannot go on together."""
        if self.lost is not None:
            raise ProcessLost(self.lost)

    def lose(self, error: BaseException) -> ProcessLost:
        """What to raise, now and whenever something else is asked for."""
        if self.lost is None:
            self.lost = (
                f"process {self.rank} of {self.parts.processes} cannot go on without the others, "
                f"one of which has ended or failed; start all of them again ({error})"
            )
        return ProcessLost(self.lost)


def begin_processes(device: str, timeout: timedelta | None = None) -> None:
    """Make this one of the processes that torchrun started, or one alone. On "cuda" by NCCL, with
    gloo for what lies on the CPU, and on the GPU of this process's number; else by gloo. `timeout`:
    of what they do together, None: torch's. Raises `ConfigError` if there is no such GPU.
    """
    if device == "cuda":
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        count = torch.cuda.device_count()
        if rank >= count:
            raise ConfigError(
                f"process {rank} of this machine has no GPU of its own: torch sees {count}; start "
                f"no more processes than that on it (torchrun --nproc-per-node {count})"
            )
        torch.cuda.set_device(rank)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group(backend, timeout=timeout)
        else:
            store = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=store, rank=0, world_size=1)


def join(parts: Parts, device: str) -> Spread:
    """Make this one of the processes that torchrun started. Collective. Raises `ConfigError` if
    there are not as many as `parts` says.
    """
    found = int(os.environ.get("WORLD_SIZE", "1"))
    if found != parts.processes:
        raise ConfigError(
            f"parallel {parts} is for {parts.processes} processes, and WORLD_SIZE says {found}: "
            f"start them with torchrun --nproc-per-node {parts.processes} -m ossia ..., or change "
            "parallel"
        )
    begin_processes(device, STEP)
    rank = dist.get_rank()
    everybody = dist.group.WORLD
    heads = everybody
    if parts.ep > 1:
        for first in range(0, parts.processes, parts.tp):
            group = dist.new_group([*range(first, first + parts.tp)], timeout=STEP)
            if first == rank // parts.tp * parts.tp:
                heads = group
    control = dist.new_group(backend="gloo", timeout=IDLE)
    return Spread(parts, rank, everybody, heads, control)
