"""A recipe for tests: writes a number, then trains a very small model for a few steps. Also a `Run`
of that model.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ossia.config import ModelConfig
from ossia.data.packing import Example
from ossia.train.pipeline import Phase, training
from ossia.train.run import Run
from ossia.train.settings import Hyperparameters

TOY = ModelConfig(
    num_hidden_layers=2, hidden_size=32, intermediate_size=32, num_experts=4, experts_per_token=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=16, vocab_size=64, sliding_window=8,
    initial_context_length=64, max_context_length=64, rope_theta=100.0, rope_scaling="none",
)  # fmt: skip
HYPER = Hyperparameters(tokens_per_step=64, longest=16, shards=1, optimizer="adamw", warmup=2)


@dataclass(frozen=True)
class Config:
    steps: int = 4  # of the optimizer
    number: int = 7
    data: Path | None = None  # a file that must be there
    model: ModelConfig = TOY
    hyper: Hyperparameters = HYPER


def examples(state: int | None) -> Iterator[tuple[Example, int]]:
    """Slow, if the environment says so: for tests that kill."""
    index = state or 0
    while True:
        time.sleep(float(os.environ.get("OSSIA_TOY_DELAY", "0")))
        rng = Random(index)
        ids = [rng.randrange(64)] * rng.randrange(2, 16)
        index += 1
        yield Example(ids, [True] * len(ids)), index


def toy_run(
    out: Path, steps: int = 4, config: ModelConfig = TOY, hyper: Hyperparameters = HYPER
) -> Run:
    return Run("toy", config, examples, steps, hyper, out, save_every=1, device="cpu")


def phases(config: Config, out: Path) -> list[Phase]:
    def write() -> None:
        with (out / "numbers" / "number").open("a") as file:
            file.write(f"{config.number}\n")

    needs = () if config.data is None else (config.data,)
    run = toy_run(out / "pretrain", config.steps, config.model, config.hyper)
    return [
        Phase("numbers", "Write a number.", write, settings={"number": config.number}, needs=needs),
        training(run, "Learn repetitions.", context=10),
    ]
