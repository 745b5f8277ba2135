"""What the recipe's profiles spend, and what else can be set. Numbers alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ossia.tasks.effort import Price, Prices
from ossia.train.rl.settings import HYPER
from ossia.train.rl.settings import Sampler as SamplerName
from ossia.train.settings import Hyperparameters
from recipes.begun import FULL_UPDATES

Profile = Literal["smoke", "standard", "full"]


@dataclass(frozen=True)
class Sizes:
    """What a profile spends."""

    seeds: int  # steps of fine-tuning on gold conversations
    tokens: int  # of each of them
    steps: int  # of rewards
    groups: int  # problems of a step
    samples: int  # answers to each
    max_tokens: int
    runs: int  # of rewards, and of what is compared with them, with random numbers of their own
    held: int  # runs of rewards that hold low effort short
    gate: tuple[int, ...]  # lengths of the tracks that the gate looks at
    measured: tuple[int, ...]  # and of those that everything is measured on
    each: int  # problems of each length
    answers: int  # to each, at each effort
    forced: int  # problems of each length whose thoughts are cut
    budgets: tuple[int, ...]  # tokens of thought that they are cut at
    # E11: what engines are compared on
    compared: int  # problems, with `samples` answers each
    ahead: int  # steps of rewards before samples of older weights are compared
    curve: int  # steps of a short run with rewards; 0: none
    curve_groups: int  # problems of such a step
    # E12: tools
    tool_seeds: int  # steps
    tool_more: int  # steps of seeds that go on beyond the gate, without rewards
    tool_steps: int  # of rewards
    tool_groups: int  # problems of such a step
    tool_each: int  # problems of each kind
    tool_answers: int  # to each, at each effort
    # E13: distillation
    student: int  # steps on seeds
    distilled: int  # steps of learning from a teacher
    distilled_groups: int  # problems of such a step
    distilled_answers: int  # to each problem of the measurement, at each effort


STANDARD = Sizes(
    seeds=900,
    tokens=4096,
    steps=30,
    groups=24,
    samples=8,
    max_tokens=400,
    runs=2,
    held=1,
    gate=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12),
    measured=(4, 6, 8, 10, 12),
    each=16,
    answers=8,
    forced=4,
    budgets=(4, 8, 16, 32, 64, 128),
    compared=64,
    ahead=16,
    curve=10,
    curve_groups=8,
    tool_seeds=72,
    tool_more=150,
    tool_steps=16,
    tool_groups=12,
    tool_each=16,
    tool_answers=1,
    student=350,
    distilled=12,
    distilled_groups=8,
    distilled_answers=2,
)
PROFILES: dict[Profile, Sizes] = {
    "smoke": Sizes(
        seeds=20,
        tokens=1024,
        steps=2,
        groups=4,
        samples=4,
        max_tokens=48,
        runs=1,
        held=1,
        gate=(1, 2),
        measured=(1, 2),
        each=2,
        answers=2,
        forced=1,
        budgets=(4, 8),
        compared=2,
        ahead=2,
        curve=2,
        curve_groups=2,
        tool_seeds=10,
        tool_more=12,
        tool_steps=2,
        tool_groups=4,
        tool_each=1,
        tool_answers=2,
        student=10,
        distilled=2,
        distilled_groups=4,
        distilled_answers=2,
    ),
    "standard": STANDARD,
    "full": replace(
        STANDARD,
        steps=120,
        runs=3,
        held=3,
        each=40,
        answers=16,
        curve=60,
        tool_steps=40,
        distilled=40,
        distilled_groups=24,
        distilled_answers=8,
    ),
}


@dataclass(frozen=True)
class Config:
    profile: Profile = "standard"
    model: str = "nano"  # to start from
    kind: str = "number"  # of the tracks: one of tasks/long/state.py
    # steps of the tracks: one range an arm of the curriculum; the gate is for all of them
    ranges: tuple[str, ...] = ("1..4", "5..8", "9..12")
    longest: int = 12  # steps of the seeds' tracks, 1 to so many
    rewards: Hyperparameters = replace(HYPER, peak_lr=2e-4)  # noqa: RUF009 - frozen
    # the shortest way through a track is to say the answer: four tokens of thought
    prices: Prices = Prices(low=Price(16, 24, 0.6))  # noqa: RUF009 - frozen
    # what thinks for longer than 24 tokens at low effort loses, right or wrong
    held: Prices = Prices(low=Price(16, 24, 0.6, over=0.5))  # noqa: RUF009 - frozen
    hyper: Hyperparameters = FULL_UPDATES  # of the seeds
    calls: float = 2e-4  # rate of rewards with tools
    control: float = 5e-4  # rate of learning from kept answers
    # what they are sampled with: it needs no log-probabilities that agree with the trainer
    sampler: SamplerName = "int8"
    epochs: float = 1.0  # of them
    seed: int = 1
    docs: Path | None = None  # where the page goes; None: docs/recipe, and for smoke --out

    @property
    def sizes(self) -> Sizes:
        return PROFILES[self.profile]
