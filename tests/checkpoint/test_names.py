"""The name table against the published names, the model's own state, and the published sizes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ossia.checkpoint.names import LAYOUTS, PACKED, Layout, Row, is_packed, table
from ossia.config import ModelConfig, account
from ossia.errors import CheckpointError
from ossia.model import Transformer

SMALL, LARGE = ModelConfig.preset("gpt-oss-20b"), ModelConfig.preset("gpt-oss-120b")
VARIANTS = [
    SMALL,
    LARGE,
    replace(SMALL, attention_sink="none"),
    replace(SMALL, attention_sink="off_by_one", moe_stride=2),
    replace(ModelConfig.preset("nano"), moe_stride=3, intermediate_size=96),
]
# One layer of gpt-oss-20b as published (shapes from the reference loader and transformers'
# converter).
ORIGINAL = {
    "embedding.weight": (201088, 2880), "norm.scale": (2880,), "unembedding.weight": (201088, 2880),
    "block.7.attn.norm.scale": (2880,), "block.7.attn.qkv.weight": (5120, 2880),
    "block.7.attn.qkv.bias": (5120,),
    "block.7.attn.sinks": (64,), "block.7.attn.out.weight": (2880, 4096),
    "block.7.attn.out.bias": (2880,),
    "block.7.mlp.norm.scale": (2880,), "block.7.mlp.gate.weight": (32, 2880),
    "block.7.mlp.gate.bias": (32,),
    "block.7.mlp.mlp1_weight.blocks": (32, 5760, 90, 16),
    "block.7.mlp.mlp1_weight.scales": (32, 5760, 90),
    "block.7.mlp.mlp1_bias": (32, 5760), "block.7.mlp.mlp2_bias": (32, 2880),
    "block.7.mlp.mlp2_weight.blocks": (32, 2880, 90, 16),
    "block.7.mlp.mlp2_weight.scales": (32, 2880, 90),
}  # fmt: skip
HF_LAYER = {
    "input_layernorm.weight": (2880,), "post_attention_layernorm.weight": (2880,),
    "self_attn.q_proj.weight": (4096, 2880), "self_attn.k_proj.weight": (512, 2880),
    "self_attn.v_proj.weight": (512, 2880), "self_attn.o_proj.weight": (2880, 4096),
    "self_attn.q_proj.bias": (4096,), "self_attn.k_proj.bias": (512,),
    "self_attn.v_proj.bias": (512,),
    "self_attn.o_proj.bias": (2880,), "self_attn.sinks": (64,), "mlp.router.weight": (32, 2880),
    "mlp.router.bias": (32,), "mlp.experts.gate_up_proj_bias": (32, 5760),
    "mlp.experts.down_proj_bias": (32, 2880),
}  # fmt: skip
HF_PACKED = {
    "mlp.experts.gate_up_proj_blocks": (32, 5760, 90, 16),
    "mlp.experts.gate_up_proj_scales": (32, 5760, 90),
    "mlp.experts.down_proj_blocks": (32, 2880, 90, 16),
    "mlp.experts.down_proj_scales": (32, 2880, 90),
}  # fmt: skip
HF_PLAIN = {"mlp.experts.gate_up_proj": (32, 2880, 5760), "mlp.experts.down_proj": (32, 2880, 2880)}


def stored(config: ModelConfig, layout: Layout) -> dict[str, Row]:
    return {row.stored: row for row in table(config, layout)}


def of_layer(config: ModelConfig, layout: Layout, layer: int) -> dict[str, tuple[int, ...]]:
    """The tensors of one layer, and those of none."""
    other = [f".{n}." for n in range(config.num_hidden_layers) if n != layer]
    return {
        n: row.shape
        for n, row in stored(config, layout).items()
        if not any(part in n for part in other)
    }


def test_published_names_and_shapes() -> None:
    assert of_layer(SMALL, "original", 7) == ORIGINAL
    ends = {
        "model.embed_tokens.weight": (201088, 2880),
        "lm_head.weight": (201088, 2880),
        "model.norm.weight": (2880,),
    }
    for layout, experts in (("hf", HF_PACKED), ("hf-bf16", HF_PLAIN)):
        layer = {f"model.layers.7.{name}": shape for name, shape in (HF_LAYER | experts).items()}
        assert of_layer(SMALL, layout, 7) == layer | ends  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", VARIANTS)
def test_native_names_are_those_of_the_model(config: ModelConfig, layout: Layout) -> None:
    with torch.device("meta"):
        model = Transformer(config, experts="packed" if is_packed(layout) else "trainable")
    rows = table(config, layout)
    native = {row.native: row.native_shape for row in rows}
    assert len(native) == len(rows)
    assert native == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", VARIANTS)
def test_rows_cover_every_stored_tensor_once(config: ModelConfig, layout: Layout) -> None:
    covered = dict.fromkeys(stored(config, layout), 0)
    for row in table(config, layout):
        assert row.first == covered[row.stored]
        covered[row.stored] += math.prod(row.native_shape) // math.prod(row.shape[1:])
    assert covered == {name: row.shape[0] for name, row in stored(config, layout).items()}


@pytest.mark.parametrize(("config", "size"), [(SMALL, 13_761_264_768), (LARGE, 65_248_815_744)])
def test_sizes_are_the_published_ones(config: ModelConfig, size: int) -> None:
    for layout in ("hf", "original"):
        rows = stored(config, layout).values()  # type: ignore[arg-type]
        assert (
            sum(math.prod(row.shape) * (1 if row.dtypes == PACKED else 2) for row in rows) == size
        )
    assert account(config).checkpoint_bytes == size


def test_views_do_not_copy() -> None:
    for row in table(ModelConfig.preset("nano"), "original") + table(
        ModelConfig.preset("nano"), "hf-bf16"
    ):
        whole = torch.empty(row.shape)
        assert row.view(whole).untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
        assert row.view(whole).shape == row.native_shape


@pytest.mark.parametrize("field", ["hidden_size", "intermediate_size"])
def test_mxfp4_needs_whole_blocks(field: str) -> None:
    config = replace(SMALL, **{field: 2900})
    assert table(config, "hf-bf16")
    for layout in ("hf", "original"):
        with pytest.raises(CheckpointError, match="multiples of 32"):
            table(config, layout)  # type: ignore[arg-type]
