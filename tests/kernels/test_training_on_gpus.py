"""What GPUs train by, on a CPU: FlexAttention uncompiled and grouped products, against the dense
formula, the loop over experts, and a run by the kernels of CPUs.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from training_oracles import dense_attention, draw, same_gradients
from training_runs import losses, tiny_run

from ossia import kernels
from ossia.batch import Batch, Spans
from ossia.errors import ConfigError
from ossia.kernels.attention_flex import BLOCK, _blocks
from ossia.kernels.experts_training import experts_training
from ossia.train.loop import train

flex = importlib.import_module("torch.nn.attention.flex_attention")
pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


@pytest.fixture
def as_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention has a backward pass on CPUs, which its check of the device forbids."""
    monkeypatch.setenv("OSSIA_TRAIN_KERNELS", "gpu")
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)


def check_attention(
    lengths: list[int], window: int | None, shape: tuple[int, int, int], learned: bool
) -> None:
    heads, kv_heads, width = shape
    total = sum(lengths)
    keys = (total, kv_heads, width)
    q, k, v, sink = draw(5, (total, heads, width), keys, keys, (heads,))
    spans = Batch.packed(lengths).spans(window)
    given = sink if learned else None
    got = kernels.attention_training(q, k, v, spans, given, width**-0.5)
    want = dense_attention(q, k, v, lengths, window, given)
    same_gradients(got, want, [q, k, v, sink] if learned else [q, k, v], 6)


def test_attention_and_its_gradients_with_sinks(as_on_gpu: None) -> None:
    """Packed documents and a window, in several blocks, in float64."""
    check_attention([70, 3, 140], 20, (4, 2, 16), learned=True)


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 1, 150])
@pytest.mark.parametrize("learned", [True, False])
def test_attention_of_other_shapes(as_on_gpu: None, window: int | None, learned: bool) -> None:
    check_attention([1, 260], window, (6, 1, 16), learned)
    check_attention([127, 129, 2], window, (3, 3, 32), learned)


def shared(total: int) -> Spans:
    """Two continuations of one beginning: more keys than queries."""
    rows = [*range(total)]
    gather = torch.tensor([*rows[:50], *rows[50:total], *rows[:50], *rows[50:total]])
    batch = Batch((total, total - 50), (0, 50), gather=gather)
    return batch.spans(30)


@pytest.mark.parametrize("case", ["documents", "window", "shared"])
def test_blocks_are_those_that_the_mask_has(case: str) -> None:
    """As torch works them out from the mask of every pair."""
    spans = {
        "documents": Batch.packed([200, 1, 300, 12]).spans(None),
        "window": Batch.packed([700]).spans(129),
        "shared": shared(200),
    }[case]
    keys = int(spans.hi_T.max())
    found = _blocks(spans, keys)
    wanted = flex.create_block_mask(
        found.mask_mod, None, None, len(spans.lo_T), keys, device="cpu", BLOCK_SIZE=BLOCK
    )
    for kind in ("kv", "full_kv", "q", "full_q"):
        assert listed(found, kind) == listed(wanted, kind), kind


def listed(mask: Any, kind: str) -> list[list[int]]:
    counts = getattr(mask, f"{kind}_num_blocks")[0, 0].tolist()
    indices = getattr(mask, f"{kind}_indices")[0, 0].tolist()
    return [sorted(row[:count]) for row, count in zip(indices, counts, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 13])
def test_grouped_products_are_the_loop_over_experts(
    dtype: torch.dtype, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(tokens)
    shapes = ((tokens, 16), (3, 32, 16), (3, 32), (3, 16, 16), (3, 16))
    x, w1, b1, w2, b2 = (torch.randn(s, generator=rng).to(dtype).requires_grad_() for s in shapes)
    choice = torch.stack([torch.randperm(3, generator=rng)[:2] for _ in range(tokens)])
    weight = torch.rand(tokens, 2, generator=rng)
    weight[0, 1] = 0.0  # dropped
    weight.requires_grad_()
    given = (x, weight, w1, b1, w2, b2)
    found = []
    for way in ("torch", "gpu"):
        monkeypatch.setenv("OSSIA_TRAIN_KERNELS", way)
        y = experts_training(x, choice, weight, (w1, b1), (w2, b2), 7.0)
        direction = torch.ones_like(y).cumsum(0)
        found.append((y, *torch.autograd.grad((y * direction).sum(), given)))
    # of the values as a whole: sums are rounded elsewhere
    rounding = 1e-5 if dtype == torch.float32 else 0.03
    for a, b in zip(*found, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert float((a - b).detach().norm()) <= rounding * float(b.detach().norm())


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSSIA_TRAIN_KERNELS", "flex")
    with pytest.raises(ConfigError, match="gpu or torch"):
        check_attention([2], None, (2, 1, 16), learned=True)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_has_the_losses_of_one_by_the_kernels_of_cpus(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"steps": 20, "save_every": 100, "shards": 1, "precision": precision}
    how["optimizer"] = "adamw"  # Muon may round to bfloat16 inside, which makes last bits visible
    train(tiny_run(tmp_path / "cpu", **how))
    monkeypatch.setenv("OSSIA_TRAIN_KERNELS", "gpu")
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    train(tiny_run(tmp_path / "gpu", **how))
    wanted = losses(tmp_path / "cpu")
    assert len(wanted) == 20
    assert wanted[-1] < wanted[0] - 0.1
    rounding = 1e-4 if precision == "float32" else 2e-2
    assert losses(tmp_path / "gpu") == pytest.approx(wanted, abs=rounding)
