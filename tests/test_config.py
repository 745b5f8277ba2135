"""ModelConfig: both published JSON layouts, and the parameter counts that the model card
publishes.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GptOssConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ossia.config import PRESETS, ModelConfig, account
from ossia.errors import ConfigError
from ossia.model.rope import concentration, inverse_frequencies

# The 120b model's published Hugging Face config, in the keys of transformers before 5.
PUBLISHED_120B = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 200002,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 18,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "num_local_experts": 128,
    "output_router_logits": False,
    "pad_token_id": 199999,
    "quantization_config": {"quant_method": "mxfp4"},
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 201088,
}
ORIGINAL_20B = {
    "num_hidden_layers": 24,
    "num_experts": 32,
    "experts_per_token": 4,
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "swiglu_limit": 7.0,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "initial_context_length": 4096,
    "rope_theta": 150000,
    "rope_scaling_factor": 32.0,
    "rope_ntk_alpha": 1,
    "rope_ntk_beta": 32,
}


def test_published_configs_are_the_presets() -> None:
    assert ModelConfig.from_json(PUBLISHED_120B) == ModelConfig.preset("gpt-oss-120b")
    assert ModelConfig.from_json(ORIGINAL_20B) == ModelConfig.preset("gpt-oss-20b")
    assert ModelConfig.preset("gpt-oss-20b").to_original_json() == ORIGINAL_20B


@pytest.mark.parametrize(
    ("name", "total", "active", "mlp", "attention", "tables", "gib"),
    [
        ("gpt-oss-20b", 20.91, 3.61, 19.12, 0.64, 1.16, 12.8),
        ("gpt-oss-120b", 116.83, 5.13, 114.71, 0.96, 1.16, 60.8),
    ],
)
def test_parameter_counts_of_the_model_card(
    name: str, total: float, active: float, mlp: float, attention: float, tables: float, gib: float
) -> None:
    a = account(ModelConfig.preset(name))
    counts = (a.total, a.active, a.mlp, a.attention, a.embedding + a.unembedding)
    assert [round(n / 1e9, 2) for n in counts] == [total, active, mlp, attention, tables]
    assert round(a.checkpoint_bytes / 2**30, 1) == gib


def test_accounting_counts_what_the_model_has() -> None:
    from ossia.model import Transformer

    nano = ModelConfig.preset("nano")
    for config in (
        nano,
        replace(nano, moe_stride=3),
        replace(nano, attention_sink="none"),
        replace(nano, num_experts=5),
    ):
        assert account(config).total == sum(p.numel() for p in Transformer(config).parameters())


configs = st.builds(
    lambda layers, experts, scaling, sink, stride, truncate, full: replace(
        PRESETS["nano"],
        num_hidden_layers=layers,
        num_experts=experts,
        rope_scaling=scaling,
        attention_sink=sink,
        moe_stride=stride,
        rope_truncate=truncate,
        layer_types=("full_attention",) * layers if full else (),
    ),
    st.integers(1, 9),
    st.integers(2, 40),
    st.sampled_from(["none", "pi", "ntk", "ntk_by_parts", "yarn"]),
    st.sampled_from(["learned", "off_by_one", "none"]),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)


@given(configs)
def test_both_layouts_carry_everything(config: ModelConfig) -> None:
    assert ModelConfig.from_json(config.to_hf_json()) == config
    assert ModelConfig.from_json(config.to_hf_json(rope_key="rope_scaling")) == config
    assert ModelConfig.from_json(config.to_original_json()) == config


@pytest.mark.parametrize("rope", [None, {"rope_type": "yarn", "factor": 4.0, "truncate": False}])
def test_what_a_config_leaves_out_means_what_transformers_takes_it_for(
    rope: dict[str, object] | None,
) -> None:
    bare = {
        k: v
        for k, v in PUBLISHED_120B.items()
        if k not in ("rope_scaling", "rope_theta", "quantization_config")
    }
    if rope is not None:
        bare["rope_parameters"] = dict(rope)
    theirs = GptOssConfig.from_dict(dict(bare))
    inverse, factor = ROPE_INIT_FUNCTIONS["yarn"](theirs, torch.device("cpu"))
    config = ModelConfig.from_json(bare)
    torch.testing.assert_close(inverse_frequencies(config), inverse, rtol=1e-6, atol=0)
    assert concentration(config) == pytest.approx(factor)


def test_transformers_reads_what_we_write() -> None:
    config = replace(ModelConfig.preset("nano"), num_experts=5)
    theirs = GptOssConfig.from_dict(config.to_hf_json(quantized=False))
    assert ModelConfig.from_json(theirs.to_dict()) == config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_attention_heads": 7}, "multiple of num_key_value_heads"),
        ({"experts_per_token": 17}, "exceeds num_experts"),
        ({"head_dim": 31}, "even"),
        ({"vocab_size": 0}, "vocab_size must be positive and finite"),
        ({"hidden_size": 12.5}, "hidden_size must be a number of type int"),
        ({"rope_scaling": "magic"}, "rope_scaling must be one of"),
        ({"attention_sink": "on"}, "attention_sink must be one of"),
        ({"layer_types": ("full_attention",)}, "names 1 layers"),
        ({"rope_scaling_factor": 0.5}, "at least 1"),
    ],
)
def test_impossible_numbers_are_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(ModelConfig.preset("nano"), **change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_local_experts": None}, "lacks num_local_experts"),
        ({"attention_bias": False}, "attention_bias"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"model_type": "llama"}, "runs gpt_oss models only"),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "rope_type 'dynamic' is not supported",
        ),
        ({"rope_scaling": {"rope_type": "yarn"}}, "factor must be a number"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 32.0, "attention_factor": 1.0}},
            "attention_factor",
        ),
        ({"ossia": {"surprise": 1}}, "unknown keys"),
    ],
)
def test_json_that_cannot_be_honoured_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ModelConfig.from_json(PUBLISHED_120B | change)


def test_unknown_layout_and_preset() -> None:
    with pytest.raises(ConfigError, match="neither"):
        ModelConfig.from_json({"n_layer": 12})
    with pytest.raises(ConfigError, match="nano"):
        ModelConfig.preset("gpt-oss-7b")


HUGE = 10**400  # float() of it overflows
WRONG: tuple[object, ...] = (
    None,
    True,
    0,
    -1,
    1,
    2.5,
    1e308,
    float("inf"),
    float("nan"),
    2**31,
    2**63,
    HUGE,
    -HUGE,
    10**5000,
    "",
    "x",
    "yarn",
    [],
    [1],
    [[]],
    [{}],
    [HUGE],
    ["full_attention", []],
    {},
    {"a": 1},
    {"rope_type": []},
)


def _changed() -> list[tuple[dict[str, object], str, str]]:
    """Every layout, every field of it, and every field of the objects inside it."""
    nano = ModelConfig.preset("nano")
    layouts: list[dict[str, object]] = [
        nano.to_hf_json(),
        nano.to_hf_json(rope_key="rope_scaling"),
        nano.to_original_json(),
    ]
    inside = (
        "attention_factor",
        "mscale",
        "type",
        "rope_theta",
        "num_hidden_layers",
        "layer_types",
    )
    found = []
    for layout in layouts:
        for key in (*layout, "ossia", "swiglu_alpha", "layer_types", "rope_scaling"):
            found.append((layout, key, ""))
        for key in ("rope_parameters", "rope_scaling", "ossia"):
            part = layout.get(key)
            names = part if isinstance(part, dict) else {}
            found += [(layout, key, name) for name in (*names, *inside)]
    return found


def test_any_value_in_any_place_is_read_or_a_config_error() -> None:
    tried = refused = 0
    for layout, key, inner in _changed():
        for value in WRONG:
            part = layout.get(key)
            old = part if isinstance(part, dict) else {}
            new: object = old | {inner: value} if inner else value
            tried += 1
            try:
                account(ModelConfig.from_json(layout | {key: new}))
            except ConfigError as error:
                refused += 1
                assert 10 < len(str(error)) < 300
    for value in WRONG:
        with pytest.raises(ConfigError):
            ModelConfig.from_json(value)  # type: ignore[arg-type]
    assert tried > 2000 and refused > tried / 2


@pytest.mark.parametrize("layers", [100_000, 10**9, 10**20])
def test_a_number_of_layers_makes_nothing_before_it_is_looked_at(layers: int) -> None:
    for layout in (ModelConfig().to_hf_json(), ModelConfig().to_original_json()):
        data = layout | {"num_hidden_layers": layers}
        data.pop("layer_types", None)
        with pytest.raises(ConfigError, match="num_hidden_layers must be at most 10000"):
            ModelConfig.from_json(data)
