"""A run and what it reports: the data that the trainer, its observers and the recipes share. No
torch, no files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossia.config import ModelConfig, as_dict
from ossia.data.packing import ExamplesFrom, PackedBatch, State
from ossia.errors import ConfigError
from ossia.train.settings import (
    Decay,
    Device,
    Hyperparameters,
    Lora,
    OptimizerName,
    Parallel,
    require_one_of,
)

if TYPE_CHECKING:
    from ossia.mxfp4 import ScaleRule
    from ossia.train.objective import Objective

# (the worker of the run, the state to go on from) -> batches of whole steps, each with the state
# after it. They are asked for one by one, between steps, so that they may come from
# `worker.model` as it is then. On several processes each makes the same ones.
BatchesFrom = Callable[[Any, State], Iterator[tuple[PackedBatch, State]]]


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, a constant plateau, then a decay to `floor` times the peak (warm-up, stable,
    decay).

    `decay` 1.0 leaves no plateau: the usual cosine (or linear) schedule. 0.0 leaves no decay.
    """

    peak: float
    steps: int
    warmup: int = 100
    decay: float = 0.5  # share of the steps, at the end
    floor: float = 0.0
    shape: Decay = "cosine"

    def at(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        decay_steps = round(self.steps * self.decay)
        through = 0.0
        if decay_steps:
            through = (step - (self.steps - decay_steps)) / decay_steps
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        return self.peak * warm * self._decayed(min(1.0, max(0.0, through)))

    def _decayed(self, through: float) -> float:
        """Share of the peak after `through` [0, 1] of the decay."""
        left = 0.5 * (1 + math.cos(math.pi * through))
        if self.shape == "linear":
            left = 1 - through
        return self.floor + (1 - self.floor) * left


@dataclass(frozen=True)
class Run:
    """`steps` optimizer steps on the examples that `examples(state)` yields as (example, state to
    go on from), or on the batches that `batches(worker, state)` makes; `objective` is what they
    minimize (None: cross-entropy).

    `out` gets `state.pt` (to resume), `log.jsonl`, and in the end `weights.safetensors` (native
    names, float32) with `config.json`. `start_from` is such a folder, or a released checkpoint in
    any published layout.
    """

    name: str
    config: ModelConfig
    examples: ExamplesFrom | None
    steps: int
    hyper: Hyperparameters
    out: Path
    start_from: Path | None = None
    # train experts as the MXFP4 values they will be exported as; True: by `rceil`
    quantize: bool | ScaleRule = False
    lora: Lora | None = None  # train low-rank changes only
    save_every: int = 200
    parallel: Parallel | None = None  # None: this process alone
    batches: BatchesFrom | None = None  # instead of examples
    objective: Objective | None = None
    updates: int = 1  # optimizer steps on each batch; together they are a step of the run
    # measure how alike the gradients of a step's two halves are; a step has two parts at least then
    halves: bool = False
    threads: int | None = None  # that work on parts side by side; None: one for each of them
    device: Device = "auto"  # auto: the CPU for batches of its own, which may need its bits

    def __post_init__(self) -> None:
        require_one_of(Device, "device", self.device)
        if min(self.steps, self.save_every) < 1:
            raise ConfigError(
                f"steps and save_every must be 1 or more, found {self.steps} and {self.save_every}"
            )
        if self.updates < 1 or (self.threads is not None and self.threads < 1):
            raise ConfigError(
                f"updates and threads must be 1 or more, found {self.updates} and {self.threads}"
            )
        if self.parts_wait and self.threads is not None and self.threads < self.hyper.shards:
            raise ConfigError(
                f"hyper.balance counts over all {self.hyper.shards} parts of a step (hyper.shards) "
                f"while they are worked on, which {self.threads} threads cannot do: set "
                "hyper.balance.statistics=micro, or as many threads"
            )
        if (self.examples is None) == (self.batches is None):
            raise ConfigError("a run learns from examples or from batches: give one of the two")
        if self.lora is not None and self.start_from is None:
            raise ConfigError("LoRA changes a model that is there already: give start_from")
        if self.lora is not None and self.quantize and not self.lora.experts:
            raise ConfigError(
                "quantize trains the experts, which lora.experts=false keeps as they are: "
                "choose one"
            )

    @property
    def parts_wait(self) -> bool:
        """Whether the parts of a step wait for each other while they are worked on."""
        balance = self.hyper.balance
        return balance.mode == "aux" and balance.statistics == "global"

    @property
    def optimizer(self) -> OptimizerName:
        """LoRA's factors are always AdamW's."""
        return self.hyper.optimizer if self.lora is None else "adamw"

    def lr(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        h = self.hyper
        return Schedule(h.peak_lr, self.steps, h.warmup, h.decay, h.floor, h.decay_shape).at(step)

    def identity(self) -> dict[str, Any]:
        """What must not change between a run and its resumption: JSON values by dotted name. The
        number of processes may change, and the device.
        """
        settings: dict[str, Any] = {
            "name": self.name,
            "steps": self.steps,
            "quantize": self.quantize,
            "config": as_dict(self.config),
            "hyper": asdict(self.hyper),
            "lora": self.lora and asdict(self.lora),
        }
        if self.updates != 1:
            settings["updates"] = self.updates
        if self.halves:
            settings["halves"] = True
        if self.objective is not None:
            settings["objective"] = dict(self.objective.identity())
        return _flat(settings)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = list(value) if isinstance(value, tuple) else value
    return out


@dataclass(frozen=True)
class StepReport:
    """What one step did. `metrics` go to the log as they are; `load` is [layer][expert], shares of
    assignments.
    """

    step: int  # of `steps`, counted from 1
    steps: int
    loss: float
    lr: float
    tokens: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    load: tuple[tuple[float, ...], ...] = ()


Watcher = Callable[[StepReport], None]
