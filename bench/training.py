"""How fast nano trains here: steps of the recipe in several settings, side by side, and their share of the peak.

    python bench/training.py [--steps 6] [--tokens 4096]

Settings are taken in turn, over and over, so that a machine that slows down slows all of them. The bound is the
float32 (or bfloat16) matrix product rate of all cores together, measured in the same run; the FLOPs counted are
6 per active parameter and token, attention left out. Prints medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent.parent / "recipes"))

import nano
import torch

from ossia.config import account
from ossia.data.packing import PackedBatch, split
from ossia.model import Transformer
from ossia.train import loop
from ossia.train.optim import Optimizers

SETTINGS = {
    "AdamW, 1 thread": {"muon": False, "shards": 1},
    "AdamW, 2 threads": {"muon": False, "shards": 2},
    "AdamW, 2 threads, bfloat16": {"muon": False, "shards": 2, "bfloat16": True},
    "Muon, 2 threads": {"muon": True, "shards": 2},
}


@dataclass
class Trainer:
    model: Transformer
    optimizer: Optimizers
    hyper: loop.Hyperparameters
    pool: ThreadPoolExecutor

    @staticmethod
    def make(run: loop.Run, hyper: loop.Hyperparameters) -> Trainer:
        model = Transformer(run.config).train()
        model.init_weights(0)
        model.compute_dtype = torch.bfloat16 if hyper.bfloat16 else torch.float32
        optimizer = Optimizers(model, hyper.peak_lr, hyper.weight_decay, hyper.betas, hyper.muon)
        pool = ThreadPoolExecutor(hyper.shards, initializer=torch.set_num_threads, initargs=(1,))
        return Trainer(model, optimizer, hyper, pool)

    def seconds(self, batch: PackedBatch) -> float:
        began = time.perf_counter()
        loop._step(self.model, self.optimizer, split(batch, self.hyper.shards), self.pool, self.hyper, 1e-3)
        return time.perf_counter() - began


def peak_flops(dtype: torch.dtype) -> float:
    a = torch.randn(2048, 2048).to(dtype)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return 2 * 2048**3 / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="measured steps a setting (default: 6)")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens a step (default: 4096)")
    args = parser.parse_args()
    nano.keep_memory()
    with TemporaryDirectory() as folder:
        recipe = nano.Recipe()
        recipe = replace(recipe, hyper=replace(recipe.hyper, tokens_per_step=args.tokens))
        tokenizer = nano.make_tokenizer(Path(folder) / "tokenizer.json", recipe)
        run = nano.make_run(recipe, tokenizer, Path(folder))
    batches = [batch for batch, _ in islice(loop._batches(run, run.stages[1], 0), args.steps + 2)]
    trainers = {name: Trainer.make(run, replace(recipe.hyper, **change)) for name, change in SETTINGS.items()}
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for batch in batches:
        for name, trainer in trainers.items():
            times[name].append(trainer.seconds(batch))
    flops = 6 * account(run.config).active * statistics.mean(len(b.tokens) for b in batches)
    peaks = {b: peak_flops(torch.bfloat16 if b else torch.float32) for b in (False, True)}
    print(f"peak: {peaks[False] / 1e9:.0f} GFLOP/s in float32, {peaks[True] / 1e9:.0f} in bfloat16")
    first = statistics.median(times[next(iter(times))][2:])
    for name, trainer in trainers.items():
        took = statistics.median(times[name][2:])
        share = flops / took / peaks[trainer.hyper.bfloat16]
        print(f"{name:28} {args.tokens / took:7.0f} tokens/s  x{first / took:4.2f}  {share:6.1%} of the peak")


if __name__ == "__main__":
    main()
