"""A run that is over in a second: a model of two layers, and examples that are a pure function of
their index.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from ossia.config import ModelConfig
from ossia.data.packing import Example
from ossia.train.log import read_log
from ossia.train.loop import train
from ossia.train.run import Run, StepReport
from ossia.train.settings import Balance, Hyperparameters

TINY = replace(
    ModelConfig.preset("nano"), num_hidden_layers=2, layer_types=(), hidden_size=32,
    intermediate_size=32,
    num_experts=4, num_attention_heads=2, num_key_value_heads=1, head_dim=16, vocab_size=64,
    sliding_window=8,
    rope_ntk_beta=4.0,
)  # fmt: skip


def examples(state: Any) -> Iterator[tuple[Example, dict[str, int]]]:
    """One token again and again, of which a part is learned. The state is no bare number, as it
    need not be.
    """
    index = state["seen"] if state else 0
    while True:
        rng = Random(index)
        ids = [rng.randrange(64)] * rng.randrange(2, 30)
        index += 1
        yield Example(ids, [rng.random() < 0.6 for _ in ids]), {"seen": index}


def tiny_run(out: Path, steps: int = 6, save_every: int = 2, **hyper: Any) -> Run:
    small: dict[str, Any] = {"tokens_per_step": 200, "longest": 100, "peak_lr": 5e-3, "warmup": 2}
    return Run(
        "tiny",
        TINY,
        examples,
        steps,
        Hyperparameters(**small | hyper),
        out,
        save_every=save_every,
        device="cpu",  # where a run has the same bits again
    )


def losses(out: Path) -> list[float]:
    return [entry["loss"] for entry in read_log(out)]


def everything_on(out: Path, steps: int) -> Run:
    """All that has a state of its own: two optimizers, the average, the selection biases,
    accumulation.
    """
    balance = Balance(mode="bias", statistics="global")
    return tiny_run(out, steps, 3, ema=0.9, accumulate=2, balance=balance, checkpoint_layers=True)


def train_slowly(out: Path, steps: int) -> None:
    """`everything_on`, at a pace at which somebody can interfere."""

    def wait(report: StepReport) -> None:
        time.sleep(0.02)

    train(everything_on(out, steps), watchers=[wait])
