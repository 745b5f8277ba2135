"""Training beside transformers' Trainer: the same shape, the same batches, both in float32 on the
same cores.

    python bench/vs_trainer.py [--preset nano] [--steps 8] [--rounds 2] [--batch 16] [--context 256]

Each trial is a process of its own; trials of the two take turns, so that a machine that slows down
slows both. Theirs is GptOssForCausalLM in eager mode with fused AdamW, tried with every
implementation of the experts that it has and with and without bfloat16 autocast; the fastest
counts. Ours is `train` with AdamW, and with the router losses that theirs does not compute. Prints
medians over steps (the first three left out), peak resident memory, and ours as a share of the
float32 matrix product rate measured in the same run (6 FLOPs an active parameter and token,
attention left out).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# as ossia does, which is imported after torch here, and not at all on the other side
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from ossia.config import ModelConfig, account
from ossia.data.packing import Example, State
from ossia.train.plan.cost import peak_flops

THEIRS = [
    f"{experts}{dtype}"
    for experts in ("eager", "grouped_mm", "batched_mm")
    for dtype in ("", "+bf16")
]
OURS = "ossia"
SKIPPED = 3


def ids(context: int, index: int, vocab: int) -> list[int]:
    return torch.randint(
        0, vocab, (context + 1,), generator=torch.Generator().manual_seed(index)
    ).tolist()


def keep_memory() -> None:
    """As the recipe does, for both: glibc reuses big blocks instead of returning them after every
    step.
    """
    sys.path.insert(0, str(Path(__file__).parent.parent / "recipes"))
    import nano

    nano.keep_memory()


def ours(config: ModelConfig, args: argparse.Namespace, folder: Path) -> list[float]:
    from ossia.train.loop import train
    from ossia.train.run import Run
    from ossia.train.settings import Hyperparameters

    keep_memory()

    def examples(state: State) -> Iterator[tuple[Example, State]]:
        index = state or 0
        while True:
            one = ids(args.context, index, config.vocab_size)
            index += 1
            yield Example(one, [False] + [True] * args.context), index

    hyper = Hyperparameters(
        tokens_per_step=args.batch * args.context, longest=args.context, optimizer="adamw", warmup=2
    )
    seconds: list[float] = []
    run = Run(
        "bench",
        config,
        examples,
        args.steps + SKIPPED,
        hyper,
        folder,
        save_every=1000,
        device="cpu",
    )
    train(run, watchers=[lambda report: seconds.append(report.seconds)])
    return seconds


def theirs(
    config: ModelConfig, args: argparse.Namespace, folder: Path, setting: str
) -> list[float]:
    from transformers import (
        GptOssConfig,
        GptOssForCausalLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    keep_memory()
    experts, _, bf16 = setting.partition("+")
    theirs = GptOssConfig(**config.to_hf_json(quantized=False), use_cache=False)
    model = GptOssForCausalLM._from_config(
        theirs, attn_implementation="eager", experts_implementation=experts
    )
    rows = [
        ids(args.context, n, config.vocab_size)[:-1]
        for n in range(args.batch * (args.steps + SKIPPED))
    ]
    data = [{"input_ids": torch.tensor(row), "labels": torch.tensor(row)} for row in rows]
    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.began)

    settings = TrainingArguments(
        str(folder), per_device_train_batch_size=args.batch, max_steps=args.steps + SKIPPED,
        bf16=bool(bf16),
        optim="adamw_torch_fused", use_cpu=True, report_to=[], disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    Trainer(model=model, args=settings, train_dataset=data, callbacks=[Clock()]).train()
    return seconds


def trial(args: argparse.Namespace) -> None:
    """One trial in this process; a JSON line on stdout. Peak memory is this process's alone."""
    import resource

    config = ModelConfig.preset(args.preset)
    with TemporaryDirectory() as folder:
        if args.trial == OURS:
            seconds = ours(config, args, Path(folder))
        else:
            seconds = theirs(config, args, Path(folder), args.trial)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds[SKIPPED:], "peak": peak}))


def in_process(args: argparse.Namespace, name: str) -> dict[str, Any] | None:
    command = [sys.executable, __file__, "--trial", name, *args.passed]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{name}: failed, {done.stderr.strip().splitlines()[-1][:160]}")
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="nano")
    parser.add_argument(
        "--steps", type=int, default=8, help="measured steps of a trial (default: 8)"
    )
    parser.add_argument(
        "--rounds", type=int, default=2, help="trials of each of the two (default: 2)"
    )
    parser.add_argument("--batch", type=int, default=16, help="documents of a step (default: 16)")
    parser.add_argument(
        "--context", type=int, default=256, help="tokens of a document (default: 256)"
    )
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if args.trial:
        return trial(args)
    names = ("preset", "steps", "batch", "context")
    args.passed = [word for name in names for word in (f"--{name}", str(getattr(args, name)))]
    tokens = args.batch * args.context
    tried = {name: found for name in THEIRS if (found := in_process(shortened(args), name))}
    for name, found in tried.items():
        print(
            f"transformers, {name:16} {tokens / statistics.median(found['seconds']):8.0f} tokens/s"
        )
    best = min(tried, key=lambda name: statistics.median(tried[name]["seconds"]))
    trials: dict[str, list[dict[str, Any]]] = {OURS: [], best: []}
    for _ in range(args.rounds):
        for name, found in trials.items():
            found.append(in_process(args, name) or {"seconds": [], "peak": 0})
    medians = {
        name: statistics.median(s for t in found for s in t["seconds"])
        for name, found in trials.items()
    }
    peaks = {name: max(t["peak"] for t in found) for name, found in trials.items()}
    share = (
        6
        * account(ModelConfig.preset(args.preset)).active
        * tokens
        / medians[OURS]
        / peak_flops(torch.float32, os.cpu_count() or 1)
    )
    for name in trials:
        print(
            f"{name:16} {tokens / medians[name]:8.0f} tokens/s, peak {peaks[name] / 2**20:6.0f} MiB"
        )
    faster, more = medians[best] / medians[OURS], peaks[OURS] / peaks[best]
    print(
        f"ours : theirs {faster:.2f}x, memory {more:.2f}x; ours reaches {share:.0%} of the float32 "
        "peak"
    )


def shortened(args: argparse.Namespace) -> argparse.Namespace:
    """A shorter trial, to choose among settings."""
    short = argparse.Namespace(**vars(args))
    short.passed = [*args.passed, "--steps", "3"]
    return short


if __name__ == "__main__":
    main()
