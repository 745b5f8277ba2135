"""Small runs of `ossia train rl`, in this process."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from ossia.model import Transformer
from ossia.train import overrides
from ossia.train.loop import train
from ossia.train.recipes import rl

SMALL = (
    "steps=6",
    "save_every=2",
    "sampling.groups=2",
    "sampling.samples=8",
    "sampling.max_tokens=16",
    "sampling.efforts=low",
    "evaluating.every=0",
    "hyper.peak_lr=1e-3",
)


def task(folder: Path, *answers: str) -> Path:
    """A file with a problem for each answer."""
    path = folder / "task.jsonl"
    rows = [json.dumps({"prompt": "Which?", "answer": answer}) + "\n" for answer in answers]
    path.write_text("".join(rows))
    return path


def config_of(model: Path, *settings: str) -> rl.Config:
    return overrides.apply(rl.Config(), [f"model={model}", *SMALL, *settings])


def learned(config: rl.Config, out: Path, stop_after: int | None = None) -> Transformer:
    return train(rl.run_of(config, out), stop_after=stop_after)


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "train" / "log.jsonl").read_text().splitlines()]


def files_of(out: Path, pattern: str = "rollouts/*") -> dict[str, str]:
    """Names and hashes of what a run has written."""
    found = sorted((out / "train").glob(pattern))
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in found}
