"""What MXFP4 costs, training that sees it, and that the exported model is the one that was
trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ossia import checkpoint, mxfp4
from ossia.batch import Batch
from ossia.checkpoint import open_checkpoint
from ossia.checkpoint.export import scale_rule_of
from ossia.config import ModelConfig
from ossia.data.packing import Example
from ossia.errors import CheckpointError, ConfigError
from ossia.model import TrainableExperts, Transformer
from ossia.train.loop import train
from ossia.train.run import Run
from ossia.train.settings import Hyperparameters
from ossia.train.weights.export import load_weights
from ossia.train.weights.quantization import RULES, error_of, report, set_fake_quantize

TINY = replace(
    ModelConfig.preset("nano"), num_hidden_layers=2, layer_types=(), hidden_size=64,
    intermediate_size=32,
    num_experts=4, num_attention_heads=2, num_key_value_heads=1, head_dim=16, vocab_size=64,
    sliding_window=8,
    rope_ntk_beta=4.0,
)  # fmt: skip


def fresh(seed: int = 0) -> Transformer:
    model = Transformer(TINY)
    model.init_weights(seed)
    return model.eval()


def logits(model: Transformer) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(50) * 7 % TINY.vocab_size, Batch.packed([30, 20]))


# ---- the report ----


@pytest.mark.parametrize(
    ("rule", "rmse", "db"),
    [("floor", 0.1149, 18.8), ("rceil", 0.1155, 18.75), ("best", 0.1116, 19.05)],
)
def test_gaussian_weights_lose_what_they_are_known_to(
    rule: mxfp4.ScaleRule, rmse: float, db: float
) -> None:
    values = torch.randn(1 << 12, 1 << 9, generator=torch.Generator().manual_seed(0))
    found = error_of(values, rule)
    assert found.relative_rmse == pytest.approx(rmse, abs=2e-4) and found.sqnr == pytest.approx(
        db, abs=0.05
    )
    assert (found.saturated_share == 0) == (rule == "rceil")


def by_hand(row: list[float], exponent: int) -> tuple[float, float, int]:
    """(noise, largest error, saturated values) of one block, on Python numbers."""
    grid = [s * v for v in mxfp4.VALUES for s in (1, -1)]
    errors = [min(abs(x - g * 2.0**exponent) for g in grid) for x in row]
    return sum(e * e for e in errors), max(errors), sum(abs(x) > 6 * 2.0**exponent for x in row)


@settings(max_examples=examples(50))
@given(st.lists(st.floats(-100, 100, width=32), min_size=32, max_size=32), st.sampled_from(RULES))
def test_sums_of_errors_are_those_of_the_nearest_values(
    row: list[float], rule: mxfp4.ScaleRule
) -> None:
    values = torch.tensor(row)
    exponent = int(mxfp4.block_exponents(values.unsqueeze(0), rule))
    found, (noise, largest, saturated) = error_of(values, rule), by_hand(row, exponent)
    assert found.noise == pytest.approx(noise, rel=1e-5, abs=1e-12)
    assert found.largest == pytest.approx(largest, rel=1e-5, abs=1e-12)
    assert (found.saturated, found.values) == (saturated, 32)
    assert found.power == pytest.approx(sum(x * x for x in row), rel=1e-6)


def test_a_report_of_a_model_and_of_its_folders(tmp_path: Path) -> None:
    model = fresh()
    whole = report(model)
    names = {f"layers.{n}.moe.experts.{m}" for n in range(2) for m in ("gate_up", "down")}
    assert {row.tensor for row in whole.rows} == names and len(whole.rows) == 4 * len(RULES)
    tensor = model.get_parameter("layers.1.moe.experts.down.weight")
    row = next(r for r in whole.rows if (r.tensor, r.rule) == ("layers.1.moe.experts.down", "even"))
    assert row.relative_rmse == pytest.approx(error_of(tensor, "even").relative_rmse)
    assert whole.best == "best" and whole.total("best").values == sum(
        r.values for r in whole.rows
    ) // len(RULES)
    assert whole.total("best").noise == pytest.approx(
        sum(r.noise for r in whole.rows if r.rule == "best")
    )
    lines = str(whole).splitlines()
    assert len(lines) == 2 + 4 * len(RULES) + len(RULES) and "SQNR dB" in lines[0]
    checkpoint.export(model, tmp_path / "plain", "hf-bf16", floats="float32")
    assert str(report(tmp_path / "plain")) == str(whole)
    checkpoint.export(model, tmp_path / "packed", rule="floor")
    done = report(tmp_path / "packed", ["rceil", "floor"])
    assert all(r.noise == 0 and r.sqnr == math.inf and r.relative_rmse == 0 for r in done.rows)
    assert [
        r.tensor for r in report(model, ["best"], tensors="layers.0.moe.experts.down").rows
    ] == ["layers.0.moe.experts.down"]
    with pytest.raises(ConfigError, match="no expert tensor"):
        report(model, tensors="q_proj")
    with pytest.raises(ConfigError, match="scale rule"):
        report(model, ["ceil"])  # type: ignore[list-item]


# ---- which rule ----


@pytest.mark.parametrize("rule", RULES)
def test_files_say_under_which_rule_they_were_quantized(
    rule: mxfp4.ScaleRule, tmp_path: Path
) -> None:
    """In both layouts, after conversion, and in a form that leaves transformers alone."""
    transformers = pytest.importorskip("transformers")
    model = fresh()
    checkpoint.export(model, tmp_path / "hf", rule=rule)
    checkpoint.convert(tmp_path / "hf", tmp_path / "original", "original", rule="floor")
    checkpoint.convert(
        tmp_path / "original", tmp_path / "again", rule="floor", max_shard_bytes=20_000
    )
    for name in ("hf", "original", "again"):
        assert scale_rule_of(open_checkpoint(tmp_path / name)) == rule
    checkpoint.export(model, tmp_path / "plain", "hf-bf16", rule=rule)
    assert scale_rule_of(open_checkpoint(tmp_path / "plain")) is None
    config = json.loads((tmp_path / "hf" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "mxfp4" and rule not in config.values()
    theirs = transformers.GptOssForCausalLM.from_pretrained(
        tmp_path / "again", dtype=torch.float32, attn_implementation="eager",
        quantization_config=transformers.Mxfp4Config(dequantize=True),
    ).eval()  # fmt: skip
    tokens = torch.arange(40) * 5 % TINY.vocab_size
    with torch.no_grad():
        want = theirs(tokens.unsqueeze(0)).logits[0]
        found = checkpoint.load(tmp_path / "again", "float32")(tokens, Batch.packed([40]))
    torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-3)


def test_published_files_say_nothing_and_another_rule_is_refused(tmp_path: Path) -> None:
    checkpoint.write_random(TINY, tmp_path / "m", 0)
    assert scale_rule_of(open_checkpoint(tmp_path / "m")) is None
    checkpoint.convert(tmp_path / "m", tmp_path / "o", "original")
    assert scale_rule_of(open_checkpoint(tmp_path / "o")) is None
    with pytest.raises(CheckpointError, match="rceil"):
        checkpoint.export(fresh(), tmp_path / "x", rule="ceil")  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


# ---- training that sees it ----


@pytest.mark.parametrize("rule", RULES)
def test_gradients_of_fake_quantized_experts(rule: mxfp4.ScaleRule) -> None:
    """In float64: those of the plain formula at the rounded weights, passed straight through to the
    exact ones.
    """
    from ossia.model.moe import Experts

    layer = Experts(4, 64, 32, "trainable").double()
    for p in layer.parameters():
        nn.init.normal_(p, std=0.3)
    for leaf in (layer.gate_up, layer.down):
        leaf.fake_quantize = rule
    x = torch.randn(12, 64, dtype=torch.float64, requires_grad=True)
    choice, weight = torch.arange(24).view(12, 2) % 4, torch.rand(12, 2, dtype=torch.float64)
    got = layer(x, choice, weight, 1.5)
    stored = [mxfp4.encode(leaf.weight, rule) for leaf in (layer.gate_up, layer.down)]
    w1, w2 = (mxfp4.decode(*pair, torch.float64).requires_grad_() for pair in stored)
    rows = []
    for n in range(12):
        y = torch.zeros(64, dtype=torch.float64)
        for e, share in zip(choice[n].tolist(), weight[n], strict=True):
            h = w1[e] @ x[n] + layer.gate_up.bias[e]
            gate, up = h[0::2].clamp(max=1.5), h[1::2].clamp(-1.5, 1.5)
            y = y + share * (
                w2[e] @ (gate * torch.sigmoid(1.702 * gate) * (up + 1)) + layer.down.bias[e]
            )
        rows.append(y)
    want = torch.stack(rows)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(want)
    ours = torch.autograd.grad(got, (x, layer.gate_up.weight, layer.down.weight), grad)
    for a, b in zip(ours, torch.autograd.grad(want, (x, w1, w2), grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@settings(max_examples=examples(100))
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=32, max_size=32), st.sampled_from(RULES))
def test_what_training_sees_is_what_is_stored(row: list[float], rule: mxfp4.ScaleRule) -> None:
    values = torch.tensor(row)
    assert mxfp4.fake_quantize(values, rule).equal(
        mxfp4.decode(*mxfp4.encode(values, rule), torch.float32)
    )


def examples(state: int | None) -> Iterator[tuple[Example, int]]:
    index = state or 0
    while True:
        rng = Random(index)
        ids = [rng.randrange(64)] * rng.randrange(5, 30)
        yield Example(ids, [True] * len(ids)), index + 1
        index += 1


@pytest.mark.parametrize("rule", [True, "floor", "best"])
def test_an_exported_run_is_the_model_that_was_trained(
    rule: bool | mxfp4.ScaleRule, tmp_path: Path
) -> None:
    """Float32 weights beside MXFP4 experts, in both published layouts: the same bits of every
    logit.
    """
    hyper = Hyperparameters(tokens_per_step=200, longest=100, peak_lr=5e-3, warmup=2, shards=1)
    run = Run("qat", TINY, examples, 4, hyper, tmp_path / "run", quantize=rule, device="cpu")
    model = train(run)
    seen = logits(model)
    exact = load_weights(TINY, tmp_path / "run").eval()
    assert not logits(exact).equal(seen)  # the weights that are kept are the exact ones
    set_fake_quantize(exact, rule)
    assert logits(exact).equal(seen)
    for layout in ("hf", "original"):
        folder = tmp_path / layout
        checkpoint.export(model, folder, layout, rule=mxfp4.rule_of(rule), floats="float32")
        loaded = checkpoint.load(folder, "float32")
        assert logits(loaded).equal(seen)
        assert scale_rule_of(open_checkpoint(folder)) == mxfp4.rule_of(rule)
    assert run.identity()["quantize"] == rule


def test_only_experts_are_rounded_and_the_switch_goes_both_ways() -> None:
    model = fresh()
    before = logits(model)
    set_fake_quantize(model, "best")
    assert {m.fake_quantize for m in model.modules() if isinstance(m, TrainableExperts)} == {"best"}
    assert not logits(model).equal(before)
    rounded = fresh()
    with torch.no_grad():
        for leaf in rounded.modules():
            if isinstance(leaf, TrainableExperts):
                leaf.weight.copy_(mxfp4.decode(*mxfp4.encode(leaf.weight, "best"), torch.float32))
    assert logits(rounded).equal(logits(model))
    set_fake_quantize(model, False)
    assert logits(model).equal(before)
    with pytest.raises(ConfigError, match="quantize"):
        set_fake_quantize(model, "ceil")  # type: ignore[arg-type]
