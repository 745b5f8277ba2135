"""What the profiles of recipes/nano.py spend, and what else can be set. Numbers alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ossia.tasks.effort import Price, Prices
from ossia.train.rl.settings import HYPER as REWARDS
from ossia.train.settings import Hyperparameters

Profile = Literal["smoke", "standard", "full"]
LABELLED = 4_000  # documents that the filter is fitted on, and as many that it is measured on
SHORTEST = 128  # tokens of the shortest needles


@dataclass(frozen=True)
class Sizes:
    """What a profile spends."""

    model: str  # preset
    texts: int  # that the vocabulary is learned from: documents and conversations each
    documents: int
    copying: int  # steps, like the following
    pretrain: int
    extend: int
    sft: int
    quantized: int
    rewards: int
    groups: int  # problems of a step of rewards
    answers: int  # to each of them
    longest: int  # tokens of such an answer
    samples: int  # held-out problems a task and effort
    messages: int  # that are answered to count the answers that never end


PROFILES: dict[Profile, Sizes] = {
    "smoke": Sizes(
        model="micro",
        texts=400,
        documents=1_500,
        copying=10,
        pretrain=12,
        extend=4,
        sft=12,
        quantized=6,
        rewards=1,
        groups=2,
        answers=2,
        longest=24,
        samples=1,
        messages=3,
    ),
    "standard": Sizes(
        model="nano",
        texts=12_000,
        documents=90_000,
        copying=350,
        pretrain=2_600,
        extend=150,
        sft=3_000,
        quantized=4_200,
        rewards=25,
        groups=24,
        answers=8,
        longest=256,
        samples=200,
        messages=1_000,
    ),
    "full": Sizes(
        model="nano",
        texts=12_000,
        documents=240_000,
        copying=350,
        pretrain=7_000,
        extend=300,
        sft=8_000,
        quantized=8_500,
        rewards=80,
        groups=24,
        answers=8,
        longest=256,
        samples=200,
        messages=1_000,
    ),
}
HYPER = Hyperparameters(tokens_per_step=4096, peak_lr=8e-3, warmup=30)
OF_REWARDS = replace(REWARDS, peak_lr=2e-4)
# Gold answers at low effort think for a few tokens: with the usual prices, thinking for thirty
# would pay there, and efforts would come to be alike.
PRICES = Prices(low=Price(16, 24, 0.8))


@dataclass(frozen=True)
class Config:
    profile: Profile = "standard"
    hyper: Hyperparameters = HYPER
    # entities of the fictional country: as many as so small a model can learn about
    world_size: int = 150
    seed: int = 1
