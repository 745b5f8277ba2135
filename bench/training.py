"""How fast nano trains here: steps with the recipe's settings and others, side by side, and their
share of the peak.

    python bench/training.py [--steps 6] [--tokens 4096]

Settings are taken in turn, over and over, so that a machine that slows down slows all of them. The
bound is the float32 (or bfloat16) matrix product rate of all cores together, measured in the same
run; the FLOPs counted are 6 per active parameter and token, attention left out. Prints medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes"))

import nano
import torch

from ossia.config import ModelConfig, account
from ossia.data.packing import Example, PackedBatch, State, pack
from ossia.kernels import products
from ossia.train.balance import Balancer
from ossia.train.plan.cost import peak_flops
from ossia.train.run import Run
from ossia.train.step import ThreadedStep
from ossia.train.weights.export import start

SETTINGS = {
    "AdamW, 1 thread": {"optimizer": "adamw", "shards": 1},
    "AdamW, 2 threads": {"optimizer": "adamw", "shards": 2},
    "AdamW, 2 threads, bfloat16": {"optimizer": "adamw", "shards": 2, "precision": "bfloat16"},
    "Muon, 2 threads": {"optimizer": "muon", "shards": 2},
}


def examples(state: State) -> Iterator[tuple[Example, State]]:
    """Random documents, whose second halves are learned: time depends on lengths alone."""
    index = state or 0
    while True:
        rng = Random(index)
        ids = [rng.randrange(2048) for _ in range(rng.randrange(60, 250))]
        index += 1
        yield Example(ids, [n >= len(ids) // 2 for n in range(len(ids))]), index


def worker(run: Run) -> ThreadedStep:
    model = start(run)
    return ThreadedStep(model, run, Balancer(model, run.hyper.balance, run.steps))


def seconds(trainer: ThreadedStep, batch: PackedBatch) -> float:
    began = time.perf_counter()
    trainer.step(batch, 1e-3)
    return time.perf_counter() - began


def muon_steps(trainer: ThreadedStep, rounds: int = 4) -> dict[str, float]:
    """Seconds of the optimizers' step by itself, its pieces side by side, with Muon's iteration in
    each dtype; the gradients are those of the last step.
    """
    chosen, times = products.serving(), {name: list[float]() for name in products.STACKS}
    for name in [*times] * rounds:
        products.use(replace(chosen, stacks=name))
        began = time.perf_counter()
        trainer.optimizer.step(1e-6, trainer.pool)
        times[name].append(time.perf_counter() - began)
    products.use(chosen)
    return {name: statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps", type=int, default=6, help="measured steps a setting (default: 6)"
    )
    parser.add_argument("--tokens", type=int, default=4096, help="tokens a step (default: 4096)")
    args = parser.parse_args()
    nano.keep_memory()
    hyper = replace(nano.Config().hyper, tokens_per_step=args.tokens)
    run = Run(
        "bench",
        ModelConfig.preset("nano"),
        examples,
        args.steps + 2,
        hyper,
        Path("unused"),
        device="cpu",
    )
    packed = pack(run.examples(None), run.hyper.tokens_per_step, run.hyper.longest)
    batches = [batch for batch, _ in islice(packed, args.steps + 2)]
    trainers = {
        name: worker(replace(run, hyper=replace(run.hyper, **change)))
        for name, change in SETTINGS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for batch in batches:
        for name, trainer in trainers.items():
            times[name].append(seconds(trainer, batch))
    flops = 6 * account(run.config).active * statistics.mean(len(b.tokens) for b in batches)
    peaks = {
        name: peak_flops(getattr(torch, name), os.cpu_count() or 1)
        for name in ("float32", "bfloat16")
    }
    print(
        f"peak: {peaks['float32'] / 1e9:.0f} GFLOP/s in float32, {peaks['bfloat16'] / 1e9:.0f} in "
        "bfloat16"
    )
    first = statistics.median(times[next(iter(times))][2:])
    for name, trainer in trainers.items():
        took = statistics.median(times[name][2:])
        share = flops / took / peaks[trainer.hyper.precision]
        print(
            f"{name:28} {args.tokens / took:7.0f} tokens/s  x{first / took:4.2f}  {share:6.1%} of "
            "the peak"
        )
    chosen = products.serving()
    steps = ", ".join(
        f"{1e3 * took:.0f} ms in {name}"
        for name, took in muon_steps(trainers["Muon, 2 threads"]).items()
    )
    print(
        f"a step of Muon alone: {steps}; serving: {chosen.product} and {chosen.stacks}, GFLOP/s "
        f"{dict(chosen.rates)}"
    )


if __name__ == "__main__":
    main()
