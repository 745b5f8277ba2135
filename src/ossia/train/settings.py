"""What a training run is, in numbers: every switch of the trainer, as frozen dataclasses.

Knows no tensors and no files. A recipe makes one of these; `ossia train RECIPE key=value` replaces
single fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, Literal, get_args

from ossia.errors import ConfigError

BalanceMode = Literal["none", "aux", "bias"]
Statistics = Literal["micro", "sequence", "global"]
Precision = Literal["float32", "bfloat16"]
Decay = Literal["cosine", "linear"]
Device = Literal["auto", "cpu", "cuda"]  # auto: a GPU where there is one
OptimizerName = Literal["adamw", "muon"]  # a row of `optim.OPTIMIZERS` for each


def _require(good: bool, name: str, must: str, found: Any) -> None:
    if not good:
        raise ConfigError(f"{name} must be {must}, found {found!r}")


def require_one_of(choices: Any, name: str, found: Any) -> None:
    _require(found in get_args(choices), name, f"one of {', '.join(get_args(choices))}", found)


def under_todays_names(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name as a version of ossia has stored them, under the names of this one.

    0.1.0 had a flag, `muon`, in place of `optimizer`.
    """
    settings = dict(stored)
    for name, value in stored.items():
        group, dot, last = name.rpartition(".")
        if last == "muon" and isinstance(value, bool):
            del settings[name]
            settings[f"{group}{dot}optimizer"] = _of_flag(value)
    return settings


def _of_flag(muon: bool) -> OptimizerName:
    return "muon" if muon else "adamw"


@dataclass(frozen=True)
class Balance:
    """How the router is kept from sending everything to a few experts.

    `aux` adds the Switch loss, over the tokens of a part of a step ("micro"), of each document
    ("sequence") or of the whole step on all ranks ("global"). `bias` adds no loss: a bias per
    expert, moved by the signs of the loads, takes part in the choice alone (arXiv 2408.15664) and
    is annealed to 0 before the end, because the published format has no such bias. What gpt-oss was
    trained with is not public.
    """

    mode: BalanceMode = "aux"
    statistics: Statistics = "global"
    aux: float = 1e-2  # coefficient of the Switch loss
    router_z: float = 1e-3  # coefficient of the router z-loss, in every mode
    bias_rate: float = 1e-2  # by how much a step moves a bias; in units of logits
    # of an expert, in units of k T / E tokens; the rest is dropped. None: no limit
    capacity: float | None = None

    def __post_init__(self) -> None:
        require_one_of(BalanceMode, "balance.mode", self.mode)
        require_one_of(Statistics, "balance.statistics", self.statistics)
        for name in ("aux", "router_z", "bias_rate"):
            value = getattr(self, name)
            _require(value >= 0, f"balance.{name}", "0 or more", value)
        if self.capacity is not None:
            _require(self.capacity > 0, "balance.capacity", "more than 0", self.capacity)


@dataclass(frozen=True)
class Lora:
    """Low-rank changes to frozen weights: W + (alpha / rank) B A (arXiv 2106.09685)."""

    rank: int = 8
    alpha: float = 16.0
    attention: bool = True  # q, k, v and out
    experts: bool = True  # gate_up and down of every expert, packed ones included

    def __post_init__(self) -> None:
        _require(self.rank >= 1, "lora.rank", "1 or more", self.rank)
        _require(math.isfinite(self.alpha), "lora.alpha", "a number", self.alpha)
        _require(self.attention or self.experts, "lora.attention or lora.experts", "true", False)


@dataclass(frozen=True)
class Parallel:
    """Processes by what they share; their product is the number of processes."""

    replicate: int = 1  # whole copies of the groups below
    fsdp: int = 1  # each holds a slice of every parameter
    # each holds some of the experts; processes of this dimension also see different tokens
    ep: int = 1
    # each holds some of the heads, and a slice of every expert's width; they see the same tokens
    tp: int = 1

    def __post_init__(self) -> None:
        for name in ("replicate", "fsdp", "ep", "tp"):
            value = getattr(self, name)
            _require(value >= 1, f"parallel.{name}", "1 or more", value)

    @property
    def processes(self) -> int:
        return self.replicate * self.fsdp * self.ep * self.tp


@dataclass(frozen=True)
class Hyperparameters:
    """How a run optimizes. Defaults suit a model of a few million parameters."""

    # of one optimizer step: all parts, accumulations and processes together
    tokens_per_step: int = 8192
    longest: int = 1024  # tokens of one example
    peak_lr: float = 2e-3
    warmup: int = 100  # steps
    # share of the steps, at the end; 1.0 with "cosine" is the usual cosine schedule
    decay: float = 0.5
    decay_shape: Decay = "cosine"
    floor: float = 0.0  # where the decay ends, as a share of the peak
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    # Muon steps matrices, and AdamW the rest; LoRA is always trained with AdamW
    optimizer: OptimizerName = "muon"
    clip: float = 1.0  # of the norm of all gradients; 0 for none
    # decay of an exponential moving average of the weights, which is then what a run ends with
    ema: float = 0.0
    balance: Balance = Balance()
    accumulate: int = 1  # parts of a step that are worked on one after the other, to save memory
    # parts of those that are worked on side by side, one thread each; their number shapes the sums
    shards: int = 2
    # of matrix products; weights, residual stream, router and loss stay float32
    precision: Precision = "float32"
    # compute a layer's activations again in the backward pass instead of keeping them
    checkpoint_layers: bool = False
    # torch.compile of what is not a hand-written kernel; needs a C++ compiler
    compile: bool = False
    seed: int = 0
    muon: InitVar[bool | None] = None  # how 0.1.0 spelled `optimizer`; still understood

    def __post_init__(self, muon: bool | None) -> None:
        if muon is not None:
            object.__setattr__(self, "optimizer", _of_flag(muon))
        require_one_of(OptimizerName, "optimizer", self.optimizer)
        require_one_of(Decay, "decay_shape", self.decay_shape)
        require_one_of(Precision, "precision", self.precision)
        for name in ("tokens_per_step", "longest", "accumulate", "shards"):
            value = getattr(self, name)
            _require(value >= 1, name, "1 or more", value)
        for name in ("warmup", "weight_decay", "clip"):
            value = getattr(self, name)
            _require(value >= 0, name, "0 or more", value)
        for name in ("decay", "floor"):
            value = getattr(self, name)
            _require(0 <= value <= 1, name, "between 0 and 1", value)
        # torch's generator on a CPU reads no more bits
        _require(0 <= self.seed < 1 << 32, "seed", "at least 0 and below 2^32", self.seed)
        good = all(0 <= beta < 1 for beta in self.betas)
        _require(good, "betas", "at least 0 and less than 1, each", self.betas)
        _require(self.peak_lr > 0, "peak_lr", "more than 0", self.peak_lr)
        _require(0 <= self.ema < 1, "ema", "at least 0 and less than 1", self.ema)
