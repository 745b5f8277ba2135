"""What a run of reinforcement learning is, in numbers: every switch of it, as frozen dataclasses.
No tensors, no files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ossia.errors import ConfigError
from ossia.harmony import Effort
from ossia.tasks.effort import Prices
from ossia.train.rl.advantage import Advantage
from ossia.train.settings import Balance, Hyperparameters

Loss = Literal["reinforce", "clip", "gspo", "cispo"]
Correction = Literal["none", "tis", "mis", "seq_tis", "seq_mis", "geo"]
Normalizer = Literal["tokens", "samples", "constant"]
Distill = Literal["none", "sampled", "full"]
Sampler = Literal["exact", "bf16", "int8", "float32"]
Sync = Literal["store", "folder", "broadcast"]

# What differs from pre-training: rewards move weights by little, and nothing else may.
HYPER = Hyperparameters(
    peak_lr=1e-4,
    warmup=5,
    decay=0.0,
    weight_decay=0.0,
    betas=(0.9, 0.99),
    optimizer="adamw",
    clip=1.0,
    balance=Balance("none", router_z=0.0),
)
# What a run of rewards has no use for: batches are as long as answers are.
UNUSED = ("tokens_per_step", "longest")


@dataclass(frozen=True)
class Objective:
    """What a step minimizes. docs/reinforcement.md has the formulas."""

    loss: Loss = "reinforce"
    updates: int = 1  # optimizer steps on the answers of a step, each on all of them
    advantage: Advantage = "centered"
    normalizer: Normalizer = "tokens"
    # where the engine that samples differs from the trainer
    correction: Correction = "none"
    kl: float = 0.0  # coefficient of the divergence from the model that the run began with
    refresh: int = 0  # steps after which that model is replaced by the one there is; 0: never
    entropy: float = 0.0  # coefficient of the entropy, which is raised
    # learn from a teacher instead of rewards: by the tokens that were sampled, or by all there are
    distill: Distill = "none"
    echo: float = 0.0  # weight of learning what tools and users said, as in pre-training
    mask_cut: bool = True  # answers that ran out of tokens teach nothing, instead of being wrong
    mask_invalid: bool = False  # nor do those that have no answer in them
    # measure the cosine of the gradients of a step's two halves; cuts a step in two, which shapes
    # the last bits of its sums
    halves: bool = False

    def __post_init__(self) -> None:
        for name, kind in (
            ("loss", Loss),
            ("advantage", Advantage),
            ("normalizer", Normalizer),
            ("correction", Correction),
            ("distill", Distill),
        ):
            _one_of(kind, f"objective.{name}", getattr(self, name))
        if self.updates < 1:
            raise ConfigError(f"objective.updates must be 1 or more, found {self.updates}")
        for name in ("kl", "entropy", "echo"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ConfigError(f"objective.{name} must be 0 or more, found {value}")
        if self.refresh < 0 or (self.refresh and not self.kl):
            raise ConfigError(
                f"objective.refresh must be 0 or more, and needs objective.kl, found {self.refresh}"
            )


@dataclass(frozen=True)
class Sampling:
    """What is asked in a step, and how it is answered."""

    groups: int = 24  # problems
    samples: int = 8  # answers to each
    max_tokens: int = 400  # of an answer, thoughts included
    temperature: float = 1.0
    efforts: tuple[Effort, ...] = (Effort.LOW, Effort.MEDIUM, Effort.HIGH)
    # thoughts cost of the reward what tasks/effort.py says, so that efforts come to differ
    price: bool = True
    prices: Prices = Prices()  # noqa: RUF009 - frozen
    curriculum: bool = True  # ask less of what is always, or never, answered right
    refill: int = 0  # more rounds of problems, in place of those that teach nothing
    # exact: by the module that is trained, to the bit; others: a compiled copy of it
    sampler: Sampler = "exact"
    replay: bool = False  # train on the experts that were chosen when sampling
    at_once: int = 192  # answers in a forward pass
    seconds: float = 30.0  # that a call of a tool, or a reward, may take
    turns: int = 8  # of the user, at most
    lag: int = 0  # steps by which the weights that sample are older than those that learn

    def __post_init__(self) -> None:
        _one_of(Sampler, "sampling.sampler", self.sampler)
        least = {"groups": 1, "samples": 2, "max_tokens": 1, "at_once": 1, "refill": 0, "lag": 0}
        for name, smallest in (least | {"turns": 1}).items():
            value = getattr(self, name)
            if value < smallest:
                raise ConfigError(f"sampling.{name} must be {smallest} or more, found {value}")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ConfigError(
                f"sampling.temperature must be above 0, found {self.temperature}: the samples of "
                "a group would all be the same"
            )
        if self.lag and (self.sampler != "exact" or self.replay):
            raise ConfigError(
                "sampling.lag needs what the trainer would have found for older samples: only "
                "sampling.sampler=exact, without sampling.replay, gives that"
            )
        if self.sampler != "exact" and self.temperature != 1:
            raise ConfigError(
                "engines report log-probabilities at temperature 1: leave sampling.temperature, or "
                "sample with sampling.sampler=exact"
            )
        if not self.efforts:
            raise ConfigError("sampling.efforts names no effort")
        if len(set(self.efforts)) < len(self.efforts):
            raise ConfigError(
                f"sampling.efforts names an effort twice: {', '.join(map(str, self.efforts))}"
            )
        if not self.seconds > 0:
            raise ConfigError(f"sampling.seconds must be above 0, found {self.seconds}")

    @property
    def charged(self) -> Prices | None:
        """None: thoughts cost nothing."""
        return self.prices if self.price else None

    @property
    def punishes(self) -> bool:
        """Whether thoughts alone can make a reward less than 0."""
        return self.price and self.prices.punish


@dataclass(frozen=True)
class Evaluating:
    """What is measured on held-out problems on the way, without any effect on the run."""

    every: int = 10  # steps; 0: never
    problems: int = 16  # of each task and effort
    samples: int = 8  # answers to each

    def __post_init__(self) -> None:
        if self.every < 0 or min(self.problems, self.samples) < 1:
            raise ConfigError(
                "evaluating.every must be 0 or more, problems and samples 1 or more, found "
                f"{self.every}, {self.problems} and {self.samples}"
            )


@dataclass(frozen=True)
class Actors:
    """Processes that sample, on this machine or others, while this one learns. With as many as one
    likes the result has the same bits. Needs Ray (`pip install 'ossia[ray]'`).
    """

    count: int = 0  # 0: this process samples itself
    # how weights get there: through the store of objects of a machine, a folder that all see
    # (OUT/train/weights), or from memory to memory
    sync: Sync = "store"
    address: str | None = None  # of a cluster of Ray that runs; None: processes of this machine
    threads: int = 1  # of each

    def __post_init__(self) -> None:
        _one_of(Sync, "actors.sync", self.sync)
        if self.count < 0 or self.threads < 1:
            raise ConfigError(
                "actors.count must be 0 or more and actors.threads 1 or more, found "
                f"{self.count} and {self.threads}"
            )
        has_settings = (self.sync, self.address, self.threads) != ("store", None, 1)
        if not self.count and has_settings:
            raise ConfigError(
                "actors.sync, actors.address and actors.threads have no effect without actors: set "
                "actors.count"
            )


def _one_of(choices: Any, name: str, found: Any) -> None:
    if found not in get_args(choices):
        raise ConfigError(f"{name} must be one of {', '.join(get_args(choices))}, found {found!r}")
