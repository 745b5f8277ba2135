"""Writing: what goes through untouched, what is quantized, how files appear, and what a failure
leaves.
"""

from __future__ import annotations

import json
import os
from collections import namedtuple
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_factory import (
    add_tensor,
    config_of,
    hf_logits,
    hf_model,
    our_logits,
    read_by_hf,
    relative,
    text,
)
from safetensors import safe_open
from safetensors.torch import load_file

from ossia import mxfp4
from ossia.checkpoint import LAYOUTS, convert, export, load, open_checkpoint
from ossia.checkpoint.mapped import INDEX, SINGLE
from ossia.checkpoint.names import Layout
from ossia.config import ModelConfig
from ossia.errors import CheckpointError
from ossia.model import Transformer

TOKENIZER = {
    "tokenizer.json": "{}",
    "chat_template.jinja": "{{ x }}",
    "generation_config.json": "{}",
    "LICENSE": "L",
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bfloat16 experts, with a tokenizer's files and token ids."""
    directory = tmp_path_factory.mktemp("full") / "model"
    model = hf_model(dtype=torch.bfloat16)
    model.config.eos_token_id = 7
    model.save_pretrained(directory)
    for name, content in TOKENIZER.items():
        (directory / name).write_text(content)
    (directory / "training_state.pt").write_text("stays where it is")
    return directory


@pytest.fixture(scope="module")
def packed(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("packed") / "model"
    convert(full, directory, "hf")
    return directory


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    """By the safetensors library: what others will read."""
    return {
        name: tensor
        for file in directory.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(x.dtype == b[name].dtype and x.equal(b[name]) for name, x in a.items())


def tiny(**changes: Any) -> ModelConfig:
    return replace(
        ModelConfig.preset("nano"), num_hidden_layers=2, layer_types=(), vocab_size=100, **changes
    )


# ---- values ----


def test_there_and_back_is_byte_for_byte(packed: Path, tmp_path: Path) -> None:
    convert(packed, tmp_path / "o", "original")
    convert(tmp_path / "o", tmp_path / "h", "hf")
    assert (tmp_path / "h" / SINGLE).read_bytes() == (packed / SINGLE).read_bytes()
    ids = {"eos_token_id", "bos_token_id", "pad_token_id"}  # which original/ has no place for
    configs = [json.loads((path / "config.json").read_text()) for path in (packed, tmp_path / "h")]
    assert configs[1] == {key: value for key, value in configs[0].items() if key not in ids}


def test_original_holds_the_same_bytes_under_its_names(packed: Path, tmp_path: Path) -> None:
    convert(packed, tmp_path / "o", "original")
    hf, original = tensors(packed), tensors(tmp_path / "o")
    for ours, theirs in (("gate_up_proj", "mlp1"), ("down_proj", "mlp2")):
        for part in ("blocks", "scales"):
            stored = original[f"block.1.mlp.{theirs}_weight.{part}"]
            assert stored.equal(hf[f"model.layers.1.mlp.experts.{ours}_{part}"])
        assert original[f"block.1.mlp.{theirs}_bias"].equal(
            hf[f"model.layers.1.mlp.experts.{ours}_bias"]
        )
    for part in ("weight", "bias"):
        fused = [hf[f"model.layers.2.self_attn.{letter}_proj.{part}"] for letter in "qkv"]
        assert original[f"block.2.attn.qkv.{part}"].equal(torch.cat(fused))


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_decoded_and_quantized_again_has_the_same_values(
    layout: Layout, packed: Path, tmp_path: Path
) -> None:
    convert(packed, tmp_path / "plain", "hf-bf16")
    convert(tmp_path / "plain", tmp_path / "again", layout)
    before, after = load(packed, "float32"), load(tmp_path / "again", "float32")
    for old, new in zip(before.layers, after.layers, strict=True):
        for leaf in ("gate_up", "down"):
            a, b = (getattr(layer.moe.experts, leaf) for layer in (old, new))
            assert mxfp4.decode(a.blocks, a.scales).equal(mxfp4.decode(b.blocks, b.scales))
    assert our_logits(before, text()).equal(our_logits(after, text()))


@pytest.mark.parametrize("rule", ["floor", "rceil", "even", "best"])
def test_experts_are_quantized_along_their_inputs(
    rule: mxfp4.ScaleRule, full: Path, tmp_path: Path
) -> None:
    convert(full, tmp_path / "q", "hf", rule=rule)
    source, found = tensors(full), tensors(tmp_path / "q")
    for name in ("gate_up_proj", "down_proj"):
        stem = f"model.layers.0.mlp.experts.{name}"
        blocks, scales = mxfp4.encode(source[stem].transpose(1, 2).contiguous(), rule)
        assert found[f"{stem}_blocks"].equal(blocks) and found[f"{stem}_scales"].equal(scales)


def test_experts_are_handled_in_pieces(
    full: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("ossia.checkpoint.fitted"), "CHUNK", 500)
    convert(full, tmp_path / "p", "hf")
    assert (tmp_path / "p" / SINGLE).read_bytes() == (packed / SINGLE).read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rewriting_in_the_same_layout(layout: Layout, packed: Path, tmp_path: Path) -> None:
    convert(packed, tmp_path / "a", layout)
    convert(tmp_path / "a", tmp_path / "b", layout, max_shard_bytes=40_000)
    assert same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))


def test_floats_may_stay_in_full_precision(tmp_path: Path) -> None:
    hf = hf_model()
    hf.save_pretrained(tmp_path / "f")
    convert(tmp_path / "f", tmp_path / "again", "hf-bf16", floats="float32")
    assert same(tensors(tmp_path / "f"), tensors(tmp_path / "again"))
    convert(tmp_path / "f", tmp_path / "half", "hf-bf16")
    assert same(
        {n: t.bfloat16() for n, t in tensors(tmp_path / "f").items()}, tensors(tmp_path / "half")
    )
    assert relative(hf_logits(hf, text()), hf_logits(read_by_hf(tmp_path / "again"), text())) == 0


def test_transformers_takes_its_dtype_from_the_config(packed: Path, tmp_path: Path) -> None:
    from transformers import GptOssForCausalLM

    convert(packed, tmp_path / "plain", "hf-bf16")
    assert GptOssForCausalLM.from_pretrained(tmp_path / "plain").dtype == torch.bfloat16


# ---- models ----


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "config",
    [tiny(), tiny(moe_stride=2), tiny(attention_sink="off_by_one"), tiny(rope_scaling="ntk")],
    ids=str,
)
def test_a_trained_model_comes_back(config: ModelConfig, layout: Layout, tmp_path: Path) -> None:
    model = Transformer(config)
    model.init_weights(0)
    cost = export(model, tmp_path / "m", layout, floats="float32")
    assert (cost is not None and cost.relative_rmse > 0) == (layout != "hf-bf16")
    found = load(tmp_path / "m", "float32")
    assert found.config == config
    for name, tensor in found.state_dict().items():
        if name in model.state_dict():
            assert tensor.equal(model.state_dict()[name])
    for layer in model.layers:  # what quantization makes of it
        for leaf in (layer.moe.experts.gate_up, layer.moe.experts.down):
            leaf.fake_quantize = layout != "hf-bf16"
    assert relative(our_logits(model, text(vocab=100)), our_logits(found, text(vocab=100))) < 1e-5


def test_a_loaded_model_is_written_as_it_was(packed: Path, tmp_path: Path) -> None:
    export(load(packed), tmp_path / "m", "hf", companions=packed)
    assert same(tensors(packed), tensors(tmp_path / "m"))
    assert (tmp_path / "m" / "tokenizer.json").read_text() == TOKENIZER["tokenizer.json"]


def test_a_model_in_mixed_dtypes_is_written_in_bfloat16(tmp_path: Path) -> None:
    model = Transformer(tiny())
    model.init_weights(0)
    model.norm.scale.data = model.norm.scale.data.double()
    model.embedding.weight.data = model.embedding.weight.data.half()
    export(model, tmp_path / "m", "hf")
    assert {tensor.dtype for tensor in tensors(tmp_path / "m").values()} == {
        torch.bfloat16,
        torch.uint8,
    }


# ---- files ----


def test_what_goes_with_the_weights(full: Path, tmp_path: Path) -> None:
    for layout in LAYOUTS:
        convert(full, tmp_path / layout, layout)
        for name, content in TOKENIZER.items():
            if name != "generation_config.json":  # transformers wrote one
                assert (tmp_path / layout / name).read_text() == content
        assert not (tmp_path / layout / "training_state.pt").exists()
        config = json.loads((tmp_path / layout / "config.json").read_text())
        assert config.get("eos_token_id") == (None if layout == "original" else 7)
        assert ("quantization_config" in config) == (layout == "hf")
        assert open_checkpoint(tmp_path / layout).config == open_checkpoint(full).config


def test_original_inside_a_repository_takes_the_tokenizer_above(
    packed: Path, tmp_path: Path
) -> None:
    convert(packed, tmp_path / "repo", "hf")
    convert(tmp_path / "repo", tmp_path / "repo" / "original", "original")
    (tmp_path / "repo" / "original" / "tokenizer.json").unlink()
    (tmp_path / "repo" / SINGLE).unlink()
    convert(tmp_path / "repo", tmp_path / "out", "hf")
    assert (
        same(tensors(packed), tensors(tmp_path / "out"))
        and (tmp_path / "out" / "tokenizer.json").exists()
    )


def test_a_companion_that_is_a_link_elsewhere_is_not_followed(packed: Path, tmp_path: Path) -> None:
    convert(packed, tmp_path / "a", "hf")
    (tmp_path / "a" / "tokenizer.json").unlink()
    (tmp_path / "a" / "tokenizer.json").symlink_to("/etc/passwd")
    with pytest.raises(CheckpointError, match="link out of the checkpoint's directory"):
        convert(tmp_path / "a", tmp_path / "b", "hf")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("limit", [1, 30_000, 200_000])
def test_shards_and_their_index(limit: int, packed: Path, tmp_path: Path) -> None:
    convert(packed, tmp_path / "s", "hf", max_shard_bytes=limit)
    files = sorted((tmp_path / "s").glob("*.safetensors"))
    index = json.loads((tmp_path / "s" / INDEX).read_text())
    assert [file.name for file in files] == sorted(set(index["weight_map"].values()))
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    sizes = {file: [t.nbytes for t in load_file(file).values()] for file in files}
    assert all(sum(size) <= limit or len(size) == 1 for size in sizes.values())
    assert index["metadata"]["total_size"] == sum(map(sum, sizes.values()))
    assert same(tensors(packed), tensors(tmp_path / "s"))
    assert our_logits(load(tmp_path / "s"), text()).equal(our_logits(load(packed), text()))


def test_every_tensor_is_aligned_and_the_data_to_a_cache_line(packed: Path) -> None:
    checkpoint = open_checkpoint(packed)
    entries = [checkpoint.source.entry(name) for name in checkpoint.source.names()]
    assert min(entry.begin for entry in entries) % 64 == 0
    assert all(entry.begin % (1 if entry.dtype == "U8" else 2) == 0 for entry in entries)
    with safe_open(packed / SINGLE, "pt") as file:
        assert file.metadata() == {"format": "pt", "ossia.mxfp4_scale_rule": "rceil"}


def test_progress_counts_every_byte(full: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert(full, tmp_path / "p", "hf", lambda done, total: seen.append((done, total)))
    total = sum(tensor.nbytes for tensor in tensors(tmp_path / "p").values())
    done = [count for count, _ in seen]
    assert done == sorted(done) and seen[-1] == (total, total) and len({t for _, t in seen}) == 1


def test_permissions_are_the_ordinary_ones(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    convert(packed, tmp_path / "a" / "b", "hf")
    assert (tmp_path / "a" / "b").stat().st_mode == (tmp_path / "plain").stat().st_mode


# ---- occupied places ----


def test_an_empty_directory_is_taken(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    convert(packed, tmp_path / "d", "hf")
    assert same(tensors(packed), tensors(tmp_path / "d"))


def test_an_occupied_directory_is_left_unless_told(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "precious").write_text("x")
    with pytest.raises(CheckpointError, match="not empty"):
        convert(packed, tmp_path / "d", "hf")
    assert os.listdir(tmp_path / "d") == ["precious"] and os.listdir(tmp_path) == ["d"]
    convert(packed, tmp_path / "d", "hf", overwrite=True)
    assert not (tmp_path / "d" / "precious").exists() and os.listdir(tmp_path) == ["d"]
    assert same(tensors(packed), tensors(tmp_path / "d"))


def test_a_file_or_a_link_is_never_replaced(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "l").symlink_to(tmp_path)
    for name in ("f", "l"):
        with pytest.raises(CheckpointError, match="not a directory"):
            convert(packed, tmp_path / name, "hf", overwrite=True)


def test_the_source_is_never_replaced(packed: Path, tmp_path: Path) -> None:
    convert(packed, tmp_path / "m" / "original", "original")
    for src, dst in (
        ("m/original", "m/original"),
        ("m", "m"),
        ("m", "m/../m/original"),
        ("m", "."),
    ):
        with pytest.raises(CheckpointError, match="which is being read"):
            convert(tmp_path / src, tmp_path / dst, "hf", overwrite=True)
    assert load(tmp_path / "m")


def test_words_that_are_no_choice(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="hf, hf-bf16, original, found 'gguf'"):
        convert(packed, tmp_path / "x", "gguf")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="bfloat16, float32, found 'float16'"):
        convert(packed, tmp_path / "x", floats="float16")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="found 'ceil'"):
        convert(packed, tmp_path / "x", "hf", rule="ceil")  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


# ---- failures ----


class Stop(BaseException):
    """Like a keyboard interrupt."""


def test_an_interruption_leaves_nothing(packed: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise Stop

    (tmp_path / "d").mkdir()
    with pytest.raises(Stop):
        convert(packed, tmp_path / "new", "original", stop)
    with pytest.raises(Stop):
        convert(packed, tmp_path / "d", "original", stop)
    assert os.listdir(tmp_path) == ["d"] and os.listdir(tmp_path / "d") == []


def test_an_interrupted_replacement_leaves_the_old(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(packed, tmp_path / "d", "hf")
    before = (tmp_path / "d" / SINGLE).read_bytes()
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(CheckpointError, match="cannot be written: Input/output error"):
        convert(packed, tmp_path / "d", "original", overwrite=True)
    assert os.listdir(tmp_path) == ["d"] and (tmp_path / "d" / SINGLE).read_bytes() == before


def test_a_disk_that_is_too_small(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 0, 10))
    with pytest.raises(CheckpointError, match=r"bytes of disk, 10 are free"):
        convert(packed, tmp_path / "d", "hf")
    assert os.listdir(tmp_path) == []


def test_experts_that_are_not_finite(full: Path, tmp_path: Path) -> None:
    convert(full, tmp_path / "a", "hf-bf16")
    name = "model.layers.2.mlp.experts.down_proj"
    weight = tensors(tmp_path / "a")[name].clone()
    weight[4, 3, 2] = torch.nan
    add_tensor(tmp_path / "a" / SINGLE, **{name: weight})
    with pytest.raises(
        CheckpointError, match=r"layers\.2\.moe\.experts\.down\.weight, expert 4: .*not a number"
    ):
        convert(tmp_path / "a", tmp_path / "b", "hf")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("scale", [254, 255])
def test_scales_beyond_bfloat16(scale: int, packed: Path, tmp_path: Path) -> None:
    convert(packed, tmp_path / "a", "hf")
    name = "model.layers.1.mlp.experts.gate_up_proj_scales"
    scales = tensors(packed)[name].clone()
    scales[5, 3, 2] = scale
    add_tensor(tmp_path / "a" / SINGLE, **{name: scales})
    convert(tmp_path / "a", tmp_path / "untouched", "original")  # not looked at
    with pytest.raises(
        CheckpointError, match=r"layers\.1\.moe\.experts\.gate_up\.weight, expert 5"
    ):
        convert(tmp_path / "a", tmp_path / "b", "hf-bf16")
    assert sorted(os.listdir(tmp_path)) == ["a", "untouched"]


def test_widths_that_mxfp4_cannot_hold(tmp_path: Path) -> None:
    model = Transformer(tiny(intermediate_size=100))
    model.init_weights(0)
    export(model, tmp_path / "plain", "hf-bf16")
    with pytest.raises(CheckpointError, match="multiples of 32"):
        export(model, tmp_path / "packed", "hf")
    assert os.listdir(tmp_path) == ["plain"]


def test_config_of_transformers_is_what_we_write(packed: Path) -> None:
    """Its reading of our config.json is ours again."""
    from transformers import GptOssConfig

    config = open_checkpoint(packed).config
    assert (
        ModelConfig.from_json(GptOssConfig.from_pretrained(packed).to_dict())
        == config
        == config_of(hf_model())
    )
