"""A model that gives one of four answers to its only question, each about as often."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shared_folders import made_once
from tiny_model import write_tiny

from ossia.train import overrides
from ossia.train.pipeline import run_pipeline
from ossia.train.recipes import sft

ANSWERS = ("red", "green", "blue", "gold")


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its checkpoint."""
    return made_once(tmp_path_factory, "four", _teach) / "run" / "model"


def _teach(folder: Path) -> None:
    base = write_tiny(folder / "base")
    lines = []
    for answer in ANSWERS:
        messages = [
            {"role": "user", "content": "Which?"},
            {"role": "assistant", "content": answer},
        ]
        lines.append(json.dumps({"messages": messages}) + "\n")
    chats = folder / "chats.jsonl"
    chats.write_text("".join(lines))
    config = overrides.apply(
        sft.Config(),
        [
            f"data={chats}",
            f"model={base}",
            "method=full",
            "steps=60",
            "held_out=0",
            "effort=low",
            "hyper.tokens_per_step=512",
            "hyper.peak_lr=1e-2",
        ],
    )
    out = folder / "run"
    run_pipeline(sft.phases(config, out), out, settings=overrides.flat(config))
