"""What sampling takes from a step: eight rows of 201,088 logits, side by side with plain torch, row
by row.

    python bench/sampling.py [--rows 8] [--repeat 41] [--scale 8 3 1]

`--scale` is the standard deviation of the random logits: 8 is about as peaked as a trained model's,
1 is flat, the worst case for filters. Kernels and torch take turns in one process; prints the least
and the median milliseconds a step of the kernels, the median of torch (a few runs: it takes a
hundred times as long), and the medians' ratio. The torch side is what one would write without
kernels: log_softmax, topk, sort, softmax, multinomial.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ossia.engine.request import SamplingParams
from ossia.engine.sampling import RowState, edited, filtered, sample_rows, unpacked

VOCAB = 201_088
FILTERS: dict[str, Any] = {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.05}
PENALTIES: dict[str, Any] = {
    "repetition_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.2,
}
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature 1": {},
    "temperature 0.8": {"temperature": 0.8},
    "top_p 0.95": {"top_p": 0.95},
    "temperature, top_k 50, top_p, min_p": FILTERS,
    "top_k 1000": {"top_k": 1000},
    "penalties (1,000 seen)": PENALTIES,
    "penalties, temperature, filters": {**FILTERS, **PENALTIES},
    "mask of half, temperature 1": {},
    "mask of 100 tokens, filters": FILTERS,
    "top_logprobs 20, temperature 1": {"top_logprobs": 20},
}


def plain(
    logits_V: Tensor, state: RowState, mask: Any, rng: torch.Generator
) -> tuple[int, float, list[float]]:
    params = state.params
    logprobs_V = logits_V.log_softmax(-1)
    choice_V = edited(logits_V, state) if state.edits.length else logprobs_V
    if mask is not None:
        choice_V = choice_V.masked_fill(~unpacked(mask, VOCAB), -torch.inf)
    top = logprobs_V.topk(params.top_logprobs).values.tolist() if params.top_logprobs else []
    if params.temperature == 0:
        token = int(choice_V.argmax())
    else:
        p_V = filtered((choice_V - choice_V.max()) / params.temperature, params).softmax(-1)
        token = int(torch.multinomial(p_V, 1, generator=rng))
    return token, float(logprobs_V[token]), top


def milliseconds(run: Callable[[], object], repeat: int) -> list[float]:
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - begin))
    return times


def compare(
    logits: Tensor, change: dict[str, Any], mask: Any, repeat: int
) -> tuple[list[float], list[float]]:
    states = [
        RowState(SamplingParams(seed=n, **change), range(1000), VOCAB) for n in range(len(logits))
    ]
    masks, rng = [mask] * len(logits), torch.Generator().manual_seed(0)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(3):
        ours += milliseconds(lambda: sample_rows(logits, states, masks), repeat // 3)
        theirs += milliseconds(
            lambda: [
                plain(row, state, mask, rng) for row, state in zip(logits, states, strict=True)
            ],
            1,
        )
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=41)
    parser.add_argument("--scale", type=float, nargs="+", default=[8.0, 3.0, 1.0])
    args = parser.parse_args()
    rng = torch.Generator().manual_seed(0)
    half = np.random.default_rng(0).integers(0, 2**32, VOCAB // 32, dtype=np.uint32)
    few = np.zeros(VOCAB // 32, np.uint32)
    few[np.arange(0, 6000, 60)] = 1 << 7
    print(f"{args.rows} rows of {VOCAB:,} logits, {torch.get_num_threads()} threads for torch")
    for scale in args.scale:
        logits = torch.randn(args.rows, VOCAB, generator=rng) * scale
        print(
            f"\nlogits of standard deviation {scale:g}\n"
            f"{'milliseconds a step':38}{'least':>8}{'median':>8}{'torch':>8}{'ratio':>7}"
        )
        for name, change in CASES.items():
            mask = half if "half" in name else few if "mask" in name else None
            ours, theirs = compare(logits, change, mask, args.repeat)
            mine, its = median(ours), median(theirs)
            print(f"{name:38}{min(ours):8.3f}{mine:8.3f}{its:8.1f}{its / mine:7.0f}", flush=True)


if __name__ == "__main__":
    main()
