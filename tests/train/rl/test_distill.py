"""The divergence from a teacher, against torch's own over all logits at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ossia.checkpoint import load
from ossia.data.packing import PackedBatch
from ossia.kernels import logprobs
from ossia.train.rl import distill
from ossia.train.step import hidden


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_divergence_and_its_gradients(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "chunk_rows", lambda vocabulary: rows)
    generator = torch.Generator().manual_seed(0)
    x, w, its_x, its_w = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((7, 8), (30, 8), (7, 12), (30, 12))
    )
    for mine in (x, w):
        mine.requires_grad_()
    weight = torch.rand(7, generator=generator, dtype=torch.float64)
    found = distill.divergence(x, w, its_x, its_w, 1.5)
    own = (x @ w.T / 1.5).log_softmax(-1)
    its = (its_x @ its_w.T / 1.5).log_softmax(-1)
    wanted = torch.nn.functional.kl_div(its, own, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(found, wanted)
    for mine, theirs in zip(
        torch.autograd.grad((weight * found).sum(), (x, w)),
        torch.autograd.grad((weight * wanted).sum(), (x, w)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
    assert logprobs.chunk_rows(201_088) == 64


def test_a_teacher_is_not_led_to_the_students_experts(four: Path) -> None:
    model = load(four, "float32").eval()
    tokens = np.arange(1, 7)
    batch = PackedBatch(tokens, [6], np.arange(6), tokens + 1)
    config = model.config
    chosen = np.zeros((6, config.num_hidden_layers, config.experts_per_token), np.int16)
    chosen += np.arange(config.experts_per_token, dtype=np.int16)
    led = replace(batch, experts=chosen)
    own = distill.logprobs_of(model, batch, 1.0)
    assert np.array_equal(distill.logprobs_of(model, led, 1.0), own)
    with torch.no_grad():
        x_RD, _ = hidden(model, led)
        free_RD, _ = hidden(model, batch)
    assert not torch.equal(x_RD, free_RD), "the experts would have mattered"
