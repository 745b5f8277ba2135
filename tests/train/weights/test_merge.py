"""Merging: what is changed and what keeps its bytes, the reloaded model, both layouts, and what a
failure leaves.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ossia import checkpoint, mxfp4
from ossia.batch import Batch
from ossia.checkpoint import open_checkpoint
from ossia.checkpoint.export import scale_rule_of
from ossia.checkpoint.names import Layout
from ossia.config import ModelConfig, account
from ossia.errors import CheckpointError, ConfigError, ModelNotFoundError
from ossia.model import Transformer
from ossia.train.settings import Lora
from ossia.train.weights import merge as module
from ossia.train.weights.export import save_weights
from ossia.train.weights.lora import attach, lora_parameters
from ossia.train.weights.merge import merge
from ossia.train.weights.quantization import set_fake_quantize

TINY = replace(
    ModelConfig.preset("nano"), num_hidden_layers=2, layer_types=(), hidden_size=64,
    intermediate_size=32,
    num_experts=4, num_attention_heads=2, num_key_value_heads=1, head_dim=16, vocab_size=64,
    sliding_window=8,
    rope_ntk_beta=4.0,
)  # fmt: skip
LORA = Lora(rank=2, alpha=3.0)
RULES: tuple[mxfp4.ScaleRule, ...] = ("floor", "rceil", "even", "best")


def base(folder: Path, layout: Layout = "hf") -> Path:
    checkpoint.write_random(TINY, folder, 0, layout)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def adapter(
    folder: Path, source: Path, lora: Lora = LORA, size: float = 0.1, only: str = ""
) -> Transformer:
    """Random changes of the matrices whose names hold `only`; the model with them attached."""
    model = attach(checkpoint.load(source, "float32"), lora)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in lora_parameters(model).items():
            if name.endswith("_b"):
                drawn = torch.randn(p.shape, generator=rng) * size
                p.copy_(drawn if only in name else torch.zeros(p.shape))
    save_weights(model, folder)
    return model


def logits(model: Transformer) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(50) * 7 % TINY.vocab_size, Batch.packed([30, 20]))


def state(folder: Path) -> dict[str, Tensor]:
    return dict(open_checkpoint(folder).tensors)


def by_hand(
    before: dict[str, Tensor], model: Transformer, rule: mxfp4.ScaleRule
) -> dict[str, Tensor]:
    """The merged tensors by the plain formula; experts as the values that must come out."""
    after = {
        name: tensor for name, tensor in before.items() if not name.endswith((".blocks", ".scales"))
    }
    for name in before:
        if name.endswith(".blocks"):
            stem = name.removesuffix(".blocks")
            after[stem] = mxfp4.decode(before[name], before[f"{stem}.scales"], torch.float32)
    for name, a in lora_parameters(model).items():
        if not name.endswith(".lora_a"):
            continue
        stem = name.removesuffix(".lora_a")
        b = model.get_parameter(f"{stem}.lora_b")
        if ".attn." in name:
            change = ((b @ a) * 1.5).detach()
            after[f"{stem}.weight"] = (before[f"{stem}.weight"].float() + change).to(
                before[f"{stem}.weight"].dtype
            )
        else:
            for e in range(a.shape[0]):
                whole = after[stem][e] + ((b[e] @ a[e]) * 1.5).detach()
                after[stem][e] = mxfp4.decode(*mxfp4.encode(whole, rule), torch.float32)
    return after


@pytest.mark.parametrize("layout", ["hf", "original"])
@pytest.mark.parametrize("rule", RULES)
def test_the_merged_checkpoint_holds_the_sums(
    rule: mxfp4.ScaleRule, layout: Layout, tmp_path: Path
) -> None:
    source = base(tmp_path / "m", layout)
    model = adapter(tmp_path / "a", source, size=0.02)
    done = merge(source, tmp_path / "a", tmp_path / "o", rule)
    before, after = state(source), state(tmp_path / "o")
    expected = by_hand(before, model, rule)
    for name, tensor in after.items():
        if name.endswith(".blocks"):
            stem = name.removesuffix(".blocks")
            values = mxfp4.decode(tensor, after[f"{stem}.scales"], torch.float32)
            assert values.equal(expected[stem]), stem
            same = values.eq(mxfp4.decode(before[name], before[f"{stem}.scales"], torch.float32))
            kept = same.unflatten(-1, (-1, 32)).all(-1)
            assert (
                tensor[kept].equal(before[name][kept]) and bool(kept.any()) and not bool(kept.all())
            )
            assert after[f"{stem}.scales"][kept].equal(before[f"{stem}.scales"][kept])
        elif not name.endswith(".scales"):
            assert tensor.dtype == before[name].dtype and tensor.equal(expected[name]), name
            assert tensor.equal(before[name]) == (
                ".attn." not in name or not name.endswith("weight")
            )
    assert 0 < done.blocks_changed < done.blocks_moved <= done.blocks and done.matrices == 8
    assert open_checkpoint(tmp_path / "o").layout == layout
    assert (tmp_path / "o" / "tokenizer.json").exists()
    assert scale_rule_of(open_checkpoint(tmp_path / "o")) == f"unknown+{rule}"
    merge(tmp_path / "o", tmp_path / "a", tmp_path / "twice", rule)
    assert scale_rule_of(open_checkpoint(tmp_path / "twice")) == f"unknown+{rule}"


def test_the_reloaded_model_is_the_merged_one(tmp_path: Path) -> None:
    """The same bits of every logit, from either layout, as a model whose tensors were replaced in
    memory.
    """
    source = base(tmp_path / "m")
    model = adapter(tmp_path / "a", source)
    merge(source, tmp_path / "a", tmp_path / "hf")
    merge(source, tmp_path / "a", tmp_path / "original", layout="original")
    expected = by_hand(state(source), model, "rceil")
    in_memory = checkpoint.load(source, "float32")
    for name, tensor in in_memory.state_dict().items():
        if name in expected:
            in_memory.load_state_dict({name: expected[name]}, strict=False, assign=True)
        elif name.endswith(".blocks"):
            leaf = in_memory.get_submodule(name.removesuffix(".blocks"))
            leaf.blocks, leaf.scales = mxfp4.encode(expected[name.removesuffix(".blocks")])
            assert leaf.blocks.shape == tensor.shape
    want = logits(in_memory)
    assert not want.equal(logits(checkpoint.load(source, "float32")))
    for layout in ("hf", "original"):
        assert logits(checkpoint.load(tmp_path / layout, "float32")).equal(want)


@pytest.mark.parametrize("rule", RULES)
def test_a_model_trained_as_mxfp4_is_what_is_written(rule: mxfp4.ScaleRule, tmp_path: Path) -> None:
    """Changes of experts alone: what the forward saw in training is stored, bit for bit."""
    source = base(tmp_path / "m")
    model = adapter(tmp_path / "a", source, replace(LORA, attention=False))
    set_fake_quantize(model, rule)
    merge(source, tmp_path / "a", tmp_path / "o", rule)
    assert logits(checkpoint.load(tmp_path / "o", "float32")).equal(logits(model))


def test_what_has_no_change_keeps_its_bytes(tmp_path: Path) -> None:
    source = base(tmp_path / "m")
    adapter(tmp_path / "zero", source, size=0.0)
    done = merge(source, tmp_path / "zero", tmp_path / "o")
    before, after = state(source), state(tmp_path / "o")
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert (done.blocks_moved, done.blocks_changed) == (0, 0)
    adapter(tmp_path / "one", source, only="layers.1.moe.experts.down")
    merge(source, tmp_path / "one", tmp_path / "p")
    after = state(tmp_path / "p")
    changed = {name for name, tensor in before.items() if not after[name].equal(tensor)}
    assert changed == {
        f"layers.1.moe.experts.down.{part}" for part in ("blocks", "scales")
    } or changed == {"layers.1.moe.experts.down.blocks"}


def test_an_expert_without_a_change_keeps_even_bytes_that_no_rule_would_write(
    tmp_path: Path,
) -> None:
    """Scales may be larger than any rule would choose, and zeros may be negative; only what changes
    is rewritten.
    """
    source = base(tmp_path / "m")
    odd = state(source)["layers.0.moe.experts.gate_up.blocks"]
    raw = (source / "model.safetensors").read_bytes()
    at = raw.index(odd[1].numpy().tobytes())
    # a block of -0
    (source / "model.safetensors").write_bytes(raw[:at] + b"\x88" * 16 + raw[at + 16 :])
    model = adapter(tmp_path / "a", source)
    with torch.no_grad():
        model.get_parameter("layers.0.moe.experts.gate_up.lora_b")[1] = 0
    save_weights(model, tmp_path / "a")
    merge(source, tmp_path / "a", tmp_path / "o")
    before, after = state(source), state(tmp_path / "o")
    for part in ("blocks", "scales"):
        name = f"layers.0.moe.experts.gate_up.{part}"
        assert after[name][1].equal(before[name][1])
    assert not after["layers.0.moe.experts.gate_up.blocks"][0].equal(
        before["layers.0.moe.experts.gate_up.blocks"][0]
    )


def test_full_precision_experts(tmp_path: Path) -> None:
    """From and to the layout without MXFP4."""
    source = base(tmp_path / "m", "hf-bf16")
    model = adapter(tmp_path / "a", source)
    merge(source, tmp_path / "a", tmp_path / "plain")
    done = merge(source, tmp_path / "a", tmp_path / "packed", "even", layout="hf")
    name = "layers.1.moe.experts.gate_up"
    a, b = (model.get_parameter(f"{name}.lora_{x}").detach() for x in "ab")
    before = state(source)[f"{name}.weight"]
    sums = before.float() + torch.stack([(b[e] @ a[e]) * 1.5 for e in range(4)])
    assert state(tmp_path / "plain")[f"{name}.weight"].equal(sums.bfloat16())
    packed = state(tmp_path / "packed")
    blocks, scales = mxfp4.encode(sums, "even")
    assert packed[f"{name}.blocks"].equal(blocks) and packed[f"{name}.scales"].equal(scales)
    assert scale_rule_of(open_checkpoint(tmp_path / "packed")) == "even"
    assert done.tally.error is not None and "rounded to MXFP4 under even" in str(done)
    loaded = checkpoint.load(source, adapter=tmp_path / "a", experts="mxfp4")
    again = merge(source, tmp_path / "a", tmp_path / "as-loaded", layout="hf")
    assert again.tally.error == loaded.rounding, "what loading with it says"
    source = base(tmp_path / "q")
    adapter(tmp_path / "b", source)
    merge(source, tmp_path / "b", tmp_path / "decoded", layout="hf-bf16")
    decoded = mxfp4.decode(
        *(state(source)[f"{name}.{part}"] for part in ("blocks", "scales")), torch.float32
    )
    assert state(tmp_path / "decoded")[f"{name}.weight"].equal(
        (decoded + torch.stack([(b[e] @ a[e]) * 1.5 for e in range(4)])).bfloat16()
    )


def test_float32_stays_float32(tmp_path: Path) -> None:
    checkpoint.write_random(TINY, tmp_path / "m", 0, floats="float32")
    model = adapter(tmp_path / "a", tmp_path / "m", replace(LORA, experts=False))
    merge(tmp_path / "m", tmp_path / "a", tmp_path / "o")
    torch.testing.assert_close(
        logits(checkpoint.load(tmp_path / "o", "float32")), logits(model), rtol=1e-4, atol=1e-4
    )
    assert state(tmp_path / "o")["layers.0.attn.q.weight"].dtype == torch.float32


# ---- failures ----


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    source = base(tmp_path / "m")
    adapter(tmp_path / "a", source)
    other = replace(TINY, num_experts=8)
    checkpoint.write_random(other, tmp_path / "other", 0)
    with pytest.raises(CheckpointError, match="other shapes"):
        merge(tmp_path / "other", tmp_path / "a", tmp_path / "o")
    with pytest.raises(CheckpointError, match="being read"):
        merge(source, tmp_path / "a", source, overwrite=True)
    with pytest.raises(CheckpointError, match=r"no adapter: neither adapter\.json"):
        merge(source, source, tmp_path / "o")
    model = adapter(tmp_path / "huge", source)
    with torch.no_grad():
        model.get_parameter("layers.1.moe.experts.down.lora_b")[2] = 3e38
        model.get_parameter("layers.1.moe.experts.down.lora_a")[2] = 3e38
    save_weights(model, tmp_path / "huge")
    with pytest.raises(CheckpointError, match=r"layers\.1\.moe\.experts\.down, expert 2"):
        merge(source, tmp_path / "huge", tmp_path / "o")
    assert not (tmp_path / "o").exists() and not [
        path for path in tmp_path.iterdir() if path.name.startswith(".")
    ]


def test_what_reads_back_otherwise_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = base(tmp_path / "m")
    adapter(tmp_path / "a", source)
    merge(source, tmp_path / "a", tmp_path / "o")
    kept = (tmp_path / "o" / "model.safetensors").read_bytes()
    verify = module.verify

    def after_a_bit_fell(directory: Path, done: module.Merged) -> None:
        file = directory / "model.safetensors"
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(raw)
        verify(directory, done)

    monkeypatch.setattr(module, "verify", after_a_bit_fell)
    with pytest.raises(CheckpointError, match="reads back otherwise"):
        merge(source, tmp_path / "a", tmp_path / "o", overwrite=True)
    assert (tmp_path / "o" / "model.safetensors").read_bytes() == kept


MERGING = "import sys; from ossia.train.weights.merge import merge; merge(*sys.argv[1:4])"


@pytest.mark.slow
def test_true_widths_of_gpt_oss_20b(tmp_path: Path) -> None:
    """One layer with all 32 experts at 2880: the sums are right, and memory is that of one expert,
    not of 32.

    What is anonymous memory cannot exceed a limit on the data segment; mapped files do not count.
    """
    wide = replace(
        ModelConfig.preset("gpt-oss-20b"), num_hidden_layers=1, layer_types=(), vocab_size=512
    )
    checkpoint.write_random(wide, tmp_path / "m", 0)
    model = attach(checkpoint.load(tmp_path / "m", "float32"), Lora(4, 8.0))
    with torch.no_grad():
        for name, p in lora_parameters(model).items():
            if name.endswith("_b"):
                p.normal_(0, 0.02)
        model.get_parameter("layers.0.moe.experts.gate_up.lora_b")[7] = 0
    save_weights(model, tmp_path / "a")
    # all experts in float32: 3.2 GB; one gate_up with every intermediate value: under 1 GB
    limit = 2_500_000_000

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    arguments = [str(tmp_path / name) for name in ("m", "a", "o")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", MERGING, *arguments], check=True, preexec_fn=limited, env=environment
    )
    before, after = state(tmp_path / "m"), state(tmp_path / "o")
    stem = "layers.0.moe.experts.gate_up"
    assert after[f"{stem}.blocks"][7].equal(before[f"{stem}.blocks"][7])
    a, b = (model.get_parameter(f"{stem}.lora_{x}").detach()[31] for x in "ab")
    whole = (
        mxfp4.decode(before[f"{stem}.blocks"][31], before[f"{stem}.scales"][31], torch.float32)
        + (b @ a) * 2.0
    )
    found = mxfp4.decode(after[f"{stem}.blocks"][31], after[f"{stem}.scales"][31], torch.float32)
    expected = mxfp4.decode(*mxfp4.encode(whole), torch.float32)
    # a product may round otherwise on another thread count
    assert float((found != expected).float().mean()) < 1e-5


def test_the_command_writes_what_the_function_writes(tmp_path: Path) -> None:
    from ossia.train.overrides import apply
    from ossia.train.pipeline import run_pipeline
    from ossia.train.recipes import named as recipes

    source = base(tmp_path / "m")
    adapter(tmp_path / "a", source)
    merge(source, tmp_path / "a", tmp_path / "o", "best", layout="original")
    recipe, out = recipes.load("merge"), tmp_path / "run"
    with pytest.raises(ConfigError, match="adapter=FOLDER"):
        recipe.phases(recipe.config, out)
    plain = base(tmp_path / "plain", "hf-bf16")
    sizes = {}
    for name in (source, plain):
        asked = apply(recipe.config, [f"model={name}", f"adapter={tmp_path / 'a'}"])
        (phase,) = recipe.phases(asked, out)
        sizes[name] = phase.disk
    assert sizes[plain] == 2 * account(TINY).total > sizes[source], "as it is stored now"
    with pytest.raises(ModelNotFoundError, match="neither a folder here nor a model name"):
        recipe.phases(apply(recipe.config, [f"model={source}", "adapter=./a/b/c"]), out)
    given = [f"model={source}", f"adapter={tmp_path / 'a'}", "rule=best", "layout=original"]
    chosen = apply(recipe.config, given)
    run_pipeline(recipe.phases(chosen, out), out)
    written = (out / "model" / "model.safetensors").read_bytes()
    assert written == (tmp_path / "o" / "model.safetensors").read_bytes()
    adapter(tmp_path / "a", source, size=0.3)  # the same folder holds other changes now
    with pytest.raises(ConfigError, match="changes was"):
        run_pipeline(recipe.phases(chosen, out), out)
