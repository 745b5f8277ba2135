"""Random checkpoints: the same model from the same seed, sane statistics, progress."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_factory import our_logits, relative, text

from ossia.checkpoint import LAYOUTS, load, open_checkpoint, write_random
from ossia.checkpoint.mapped import SINGLE
from ossia.checkpoint.names import PACKED
from ossia.config import ModelConfig
from ossia.errors import CheckpointError


def tiny(**changes: Any) -> ModelConfig:
    return replace(
        ModelConfig.preset("nano"), num_hidden_layers=2, layer_types=(), vocab_size=100, **changes
    )


# --------------------------------------------------------------------------------------


def test_a_seed_is_one_model_in_every_layout(tmp_path: Path) -> None:
    config = tiny(moe_stride=2)
    for layout in LAYOUTS:
        write_random(config, tmp_path / layout, 3, layout)
    logits = [our_logits(load(tmp_path / layout, "float32"), text(vocab=100)) for layout in LAYOUTS]
    assert logits[0].equal(logits[2]) and relative(logits[0], logits[1]) < 1e-5
    write_random(config, tmp_path / "again", 3, "hf")
    write_random(config, tmp_path / "other", 4, "hf")
    first = (tmp_path / "hf" / SINGLE).read_bytes()
    assert (
        (tmp_path / "again" / SINGLE).read_bytes()
        == first
        != (tmp_path / "other" / SINGLE).read_bytes()
    )


@pytest.mark.parametrize("width", [64, 96, 160])
def test_statistics_of_random_weights(width: int, tmp_path: Path) -> None:
    config = tiny(hidden_size=width, intermediate_size=width)
    write_random(config, tmp_path / "r", 0, "hf-bf16")
    for name, tensor in load(tmp_path / "r").state_dict().items():
        values = tensor.float()
        if name.endswith("experts.gate_up.weight"):
            assert abs(values.std() * width**0.5 - 1) < 0.02 and abs(values.mean()) < 0.01
            assert len(values.unique()) == 19  # the magnitudes of two neighbouring scales, and zero
        elif name.endswith("norm.scale"):
            assert abs(values.mean() - 1) < 0.02
        elif name == "embedding.weight":
            assert abs(values.std() - 1) < 0.05
    assert our_logits(load(tmp_path / "r"), text(vocab=100)).isfinite().all()


def test_random_progress_and_occupied_place(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_random(tiny(), tmp_path / "r", 0, progress=lambda done, total: seen.append((done, total)))
    rows = {row.stored: row for row in open_checkpoint(tmp_path / "r").rows}.values()
    size = sum(torch.Size(row.shape).numel() * (1 if row.dtypes == PACKED else 2) for row in rows)
    assert seen[-1] == (size, size)
    with pytest.raises(CheckpointError, match="not empty"):
        write_random(tiny(), tmp_path / "r", 0)
