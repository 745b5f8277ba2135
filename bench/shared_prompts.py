"""What it saves to compute a prompt once for all answers to it: a training step's forward and
backward pass on nano, with the prompt shared and repeated, and how far the two are apart.

    python bench/shared_prompts.py [--prompt 100] [--answer 70] [--groups 3] [--samples 8]

The two are taken in turn, on one thread. Prints medians of processor seconds, the largest
difference of a log-probability and of a gradient, and the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from random import Random

import torch
from torch import Tensor

from ossia.config import ModelConfig
from ossia.data.packing import PackedBatch
from ossia.data.samples import Answer, Group, packed_groups
from ossia.engine import Engine
from ossia.kernels.logprobs import logprobs
from ossia.model import Transformer
from ossia.train.step import hidden


def groups_of(args: argparse.Namespace, vocabulary: int) -> list[Group]:
    rng = Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(count)]

    return [
        Group(ids(args.prompt), [Answer(ids(args.answer)) for _ in range(args.samples)])
        for _ in range(args.groups)
    ]


def run(model: Transformer, batch: PackedBatch) -> tuple[Tensor, list[Tensor], float]:
    """Log-probabilities, gradients of their mean, processor seconds."""
    began = time.thread_time()
    x_RD, _ = hidden(model, batch)
    found = logprobs(x_RD, model.unembedding.weight, torch.tensor(batch.targets))
    gradients = torch.autograd.grad(found.mean(), list(model.parameters()))
    return found.detach(), list(gradients), time.thread_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt", type=int, default=100, help="tokens (default: 100)")
    parser.add_argument("--answer", type=int, default=70, help="tokens (default: 70)")
    parser.add_argument("--groups", type=int, default=3, help="prompts (default: 3)")
    parser.add_argument("--samples", type=int, default=8, help="answers to each (default: 8)")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds (default: 7)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.autograd.set_multithreading_enabled(False)
    model = Transformer(ModelConfig.preset("nano")).train()
    model.init_weights(0)
    engine = Engine(model, exact=True)  # a row's bits then do not depend on the rows beside it
    groups = groups_of(args, model.config.vocab_size)
    batches = {
        "shared": packed_groups(groups),
        "repeated": packed_groups(groups, share=False),
    }
    times: dict[str, list[float]] = {name: [] for name in batches}
    results: dict[str, tuple[Tensor, list[Tensor]]] = {}
    for round in range(args.rounds + 1):
        for name, batch in batches.items():
            *found, seconds = run(model, batch)
            results[name] = tuple(found)
            if round:
                times[name].append(seconds)
    engine.close()
    for name, batch in batches.items():
        median = statistics.median(times[name])
        print(f"{name:9} {len(batch.tokens):5} tokens  {median:.3f} s")
    ratio = statistics.median(times["repeated"]) / statistics.median(times["shared"])
    ordered = {name: in_order(batches[name], results[name][0]) for name in batches}
    apart = (ordered["shared"] - ordered["repeated"]).abs().max().item()
    pairs = zip(results["shared"][1], results["repeated"][1], strict=True)
    worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
    print(f"log-probabilities apart by {apart}, gradients by {worst:.1e} of the largest of each")
    print(f"shared is {ratio:.2f} times as fast")


def in_order(batch: PackedBatch, values_R: Tensor) -> Tensor:
    """Sequence by sequence, each in its order."""
    sequence_R = torch.tensor(batch.streams["sequence"])
    return values_R[torch.argsort(sequence_R, stable=True)]


if __name__ == "__main__":
    main()
