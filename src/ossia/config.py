"""What a gpt-oss model is, in numbers: `ModelConfig`, its presets, its two published JSON layouts,
its size.

Knows no tensors and no files: JSON goes in and out as plain dictionaries, sizes are arithmetic. The
two layouts are the Hugging Face `config.json` (with its older `rope_scaling` and its newer
`rope_parameters` keys) and the 16 keys of the `original/config.json` that OpenAI publishes beside
it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast, get_args

from ossia.errors import ConfigError

RopeScaling = Literal["none", "pi", "ntk", "ntk_by_parts", "yarn"]
AttentionSink = Literal["learned", "off_by_one", "none"]
SLIDING, FULL = "sliding_attention", "full_attention"
MX_BLOCK = 32  # values that share one MXFP4 scale; 16 bytes of codes + 1 byte of scale
PAGE = 16  # positions whose keys and values lie together in a cache
SWIGLU_ALPHA = 1.702  # not configurable in either layout's reference code
MOST = 2**31 - 1  # of any whole number: kernels count in 32 bits
MOST_LAYERS = 10_000


def kv_page_bytes(head_dim: int, kind: str) -> int:
    """Of a page of one key-value head in a cache of this kind: "float32", "bf16", or "int8", which
    has a float32 scale for every key and every value.
    """
    return 2 * PAGE * {"float32": 4 * head_dim, "bf16": 2 * head_dim, "int8": head_dim + 4}[kind]


# The original layout has these 16 keys and no others; all are named as ours.
_ORIGINAL_KEYS = (
    "num_hidden_layers",
    "num_experts",
    "experts_per_token",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "swiglu_limit",
    "head_dim",
    "num_attention_heads",
    "num_key_value_heads",
    "sliding_window",
    "initial_context_length",
    "rope_theta",
    "rope_scaling_factor",
    "rope_ntk_alpha",
    "rope_ntk_beta",
)
_ORIGINAL_FLOATS = (
    "swiglu_limit",
    "rope_theta",
    "rope_scaling_factor",
    "rope_ntk_alpha",
    "rope_ntk_beta",
)
_HF_RENAMES = {
    "num_local_experts": "num_experts",
    "num_experts_per_tok": "experts_per_token",
    "max_position_embeddings": "max_context_length",
}
_HF_SAME = (
    "num_hidden_layers",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "head_dim",
    "num_attention_heads",
    "num_key_value_heads",
    "sliding_window",
    "rms_norm_eps",
    "swiglu_limit",
)
# What transformers takes for a gpt_oss config that says nothing about rope.
_HF_ROPE_DEFAULT = {
    "rope_type": "yarn",
    "factor": 32.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
# What Hugging Face calls our rope scalings. It has no name for the other two: its loader refuses
# them, as it should.
_HF_ROPE_TYPES: dict[str, RopeScaling] = {"default": "none", "linear": "pi", "yarn": "yarn"}
_HF_ROPE_TYPES |= {"ntk": "ntk", "ntk_by_parts": "ntk_by_parts"}


@dataclass(frozen=True)
class ModelConfig:
    """The shape of one gpt-oss model. Defaults are those of gpt-oss-20b.

    Raises `ConfigError` at construction if the numbers contradict each other.
    """

    num_hidden_layers: int = 24
    hidden_size: int = 2880
    intermediate_size: int = 2880
    num_experts: int = 32
    experts_per_token: int = 4
    num_attention_heads: int = 64
    num_key_value_heads: int = 8
    head_dim: int = 64
    vocab_size: int = 201088
    sliding_window: int = 128  # keys that a sliding layer sees, the token itself included
    initial_context_length: int = 4096  # tokens, before context extension
    max_context_length: int = 131072  # tokens, after it
    rope_theta: float = 150000.0
    rope_scaling: RopeScaling = "yarn"
    rope_scaling_factor: float = 32.0
    rope_ntk_alpha: float = 1.0  # Hugging Face: beta_slow
    rope_ntk_beta: float = 32.0  # Hugging Face: beta_fast
    rope_truncate: bool = False  # round yarn's ramp to whole dimensions; gpt-oss does not
    rms_norm_eps: float = 1e-5
    swiglu_limit: float = 7.0
    attention_sink: AttentionSink = "learned"
    moe_stride: int = (
        1  # experts in layers l with l % stride == stride - 1, one dense SwiGLU elsewhere
    )
    layer_types: tuple[str, ...] = ()  # empty: alternating, sliding first

    def __post_init__(self) -> None:
        self._check_numbers()
        if not self.layer_types:
            alternating = tuple(FULL if n % 2 else SLIDING for n in range(self.num_hidden_layers))
            object.__setattr__(self, "layer_types", alternating)
        self._check_choices()

    def _check_numbers(self) -> None:
        for field in fields(self):
            if field.type in ("int", "float"):
                self._check_number(field.name, field.type == "int")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.experts_per_token > self.num_experts:
            raise ConfigError(
                f"experts_per_token ({self.experts_per_token}) exceeds num_experts "
                f"({self.num_experts})"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim must be even for rotary embeddings, found {self.head_dim}")
        if self.rope_theta <= 1:
            raise ConfigError(f"rope_theta must exceed 1, found {self.rope_theta}")
        if self.rope_ntk_beta <= self.rope_ntk_alpha:
            raise ConfigError(
                f"rope_ntk_beta ({self.rope_ntk_beta}) must exceed rope_ntk_alpha "
                f"({self.rope_ntk_alpha})"
            )
        if self.rope_scaling_factor < 1:
            raise ConfigError(
                f"rope_scaling_factor must be at least 1, found {self.rope_scaling_factor}"
            )

    def _check_number(self, name: str, is_whole: bool) -> None:
        value = getattr(self, name)
        kind = int if is_whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ConfigError(
                f"{name} must be a number of type {'int' if is_whole else 'float'}, "
                f"found {shown(value)}"
            )
        may_be_zero = name == "rms_norm_eps"
        if not 0 <= value < math.inf or (value == 0 and not may_be_zero):
            raise ConfigError(f"{name} must be positive and finite, found {shown(value)}")
        most = MOST_LAYERS if name == "num_hidden_layers" else MOST
        if value > most:
            raise ConfigError(f"{name} must be at most {most}, found {shown(value)}")

    def _check_choices(self) -> None:
        choices = {"rope_scaling": get_args(RopeScaling), "attention_sink": get_args(AttentionSink)}
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(
                    f"{name} must be one of {', '.join(allowed)}; found {shown(value)}"
                )
        if len(self.layer_types) != self.num_hidden_layers:
            raise ConfigError(
                f"layer_types names {len(self.layer_types)} layers, num_hidden_layers is "
                f"{self.num_hidden_layers}"
            )
        for kind in self.layer_types:
            if kind not in (SLIDING, FULL):
                raise ConfigError(f"layer_types may hold {SLIDING} and {FULL}; found {shown(kind)}")

    # ---- derived ---------------------------------------------------------------------------------

    @property
    def q_dim(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.num_key_value_heads * self.head_dim

    def window(self, layer: int) -> int | None:
        """Keys that layer `layer` sees, itself included; None for all of them."""
        return self.sliding_window if self.layer_types[layer] == SLIDING else None

    def is_moe(self, layer: int) -> bool:
        """False only with `moe_stride` > 1: such a layer has one dense SwiGLU and no router."""
        return layer % self.moe_stride == self.moe_stride - 1

    def expert_shape(self, layer: int) -> tuple[int, int]:
        """(experts, intermediate width) of a layer. A dense layer costs as many FLOPs as the
        experts it replaces.
        """
        if self.is_moe(layer):
            return self.num_experts, self.intermediate_size
        return 1, self.intermediate_size * self.experts_per_token

    # ---- presets ---------------------------------------------------------------------------------

    @staticmethod
    def preset(name: str) -> ModelConfig:
        """`gpt-oss-20b`, `gpt-oss-120b`, `nano` or `micro`. Raises `ConfigError` for any other
        name.
        """
        if name not in PRESETS:
            raise ConfigError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
        return PRESETS[name]

    # ---- JSON ------------------------------------------------------------------------------------

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ModelConfig:
        """Read either published layout. Raises `ConfigError` naming the key that is missing or
        cannot be honoured.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"a config must be a JSON object, found {type(data).__name__}")
        if "num_local_experts" in data or "model_type" in data:
            return _from_hf(data)
        if "num_experts" in data and "initial_context_length" in data:
            return _from_original(data)
        raise ConfigError(
            "this config.json is neither a Hugging Face gpt_oss config (num_local_experts) nor "
            "OpenAI's original one (num_experts, initial_context_length)"
        )

    def to_hf_json(
        self, *, quantized: bool = True, rope_key: str = "rope_parameters"
    ) -> dict[str, Any]:
        """The Hugging Face `config.json`. `rope_key="rope_scaling"` writes the keys of transformers
        before 5.
        """
        return _to_hf(self, quantized, rope_key)

    def to_original_json(self) -> dict[str, Any]:
        """The 16 keys of `original/config.json`, then `ossia` if something differs that those keys
        cannot say.

        The reference code refuses an unknown key, so it will not silently run such a model wrongly.
        """
        data = {key: getattr(self, key) for key in _ORIGINAL_KEYS}
        same = _from_original(data)
        rest = _differences(same, self)
        return data | ({"ossia": rest} if rest else {})


def shown(value: Any) -> str:
    """For a message: short, whatever a file holds."""
    if isinstance(value, int) and abs(value) >= 10**60:
        return "a number of more than 60 digits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # of numbers of thousands of digits inside it
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def _differences(read_back: ModelConfig, config: ModelConfig) -> dict[str, Any]:
    """The fields of `config` that a layout did not carry: JSON values by field name."""
    pairs = (
        (f.name, getattr(config, f.name), getattr(read_back, f.name)) for f in fields(ModelConfig)
    )
    return {name: list(a) if isinstance(a, tuple) else a for name, a, b in pairs if a != b}


def _apply_extra(values: dict[str, Any], extra: Any) -> ModelConfig:
    """Build the config, with the `ossia` object of either layout on top."""
    if not isinstance(extra, Mapping):
        raise ConfigError(f"`ossia` in config.json must be an object, found {shown(extra)}")
    if unknown := set(extra) - {f.name for f in fields(ModelConfig)}:
        raise ConfigError(
            f"config.json has unknown keys under `ossia`: {shown(sorted(map(str, unknown)))}"
        )
    values = values | dict(extra)
    if not isinstance(values.get("layer_types", ()), list | tuple):
        raise ConfigError(f"layer_types must be a list, found {shown(values['layer_types'])}")
    values["layer_types"] = tuple(values.get("layer_types") or ())
    return ModelConfig(**values)


def _require(data: Mapping[str, Any], keys: tuple[str, ...], layout: str) -> None:
    if missing := [key for key in keys if data.get(key) is None]:
        raise ConfigError(f"{layout} config.json lacks {', '.join(missing)}")


def _from_original(data: Mapping[str, Any]) -> ModelConfig:
    _require(data, _ORIGINAL_KEYS, "the original")
    known = {key: data[key] for key in _ORIGINAL_KEYS}
    for key in _ORIGINAL_FLOATS:
        known[key] = _number(known[key], key)
    factor = known["rope_scaling_factor"]
    known["rope_scaling"] = "yarn" if factor > 1.0 else "none"  # as the reference code does
    initial = _number(data["initial_context_length"], "initial_context_length")
    longest = initial * factor
    if not longest <= MOST:
        raise ConfigError(f"initial_context_length times rope_scaling_factor is {longest}")
    known["max_context_length"] = round(longest)
    return _apply_extra(known, data.get("ossia", {}))


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{key} must be a number, found {shown(value)}")
    if not abs(value) < 1e300:  # float() would overflow
        raise ConfigError(f"{key} must be finite, found {shown(value)}")
    return float(value)


def _from_hf(data: Mapping[str, Any]) -> ModelConfig:
    if data.get("model_type", "gpt_oss") != "gpt_oss":
        raise ConfigError(
            f"model_type is {shown(data['model_type'])}; ossia runs gpt_oss models only"
        )
    unsupported = {"attention_bias": True, "tie_word_embeddings": False, "hidden_act": "silu"}
    for key, only in unsupported.items():
        if data.get(key, only) != only:
            raise ConfigError(f"{key} is {shown(data[key])}; gpt-oss models have {only!r}")
    if data.get("swiglu_alpha", SWIGLU_ALPHA) != SWIGLU_ALPHA:
        raise ConfigError(
            f"swiglu_alpha is {shown(data['swiglu_alpha'])}; gpt-oss models have {SWIGLU_ALPHA}"
        )
    optional = {"rms_norm_eps", "swiglu_limit", "sliding_window"}
    _require(
        data, tuple(k for k in (*_HF_SAME, *_HF_RENAMES) if k not in optional), "the Hugging Face"
    )
    values = {key: data[key] for key in _HF_SAME if data.get(key) is not None}
    values |= {ours: data[theirs] for theirs, ours in _HF_RENAMES.items()}
    for key in ("rms_norm_eps", "swiglu_limit"):
        if key in values:
            values[key] = _number(values[key], key)
    kinds = data.get("layer_types")
    if not isinstance(kinds, list | tuple | None):
        raise ConfigError(f"layer_types must be a list, found {shown(kinds)}")
    values["layer_types"] = kinds or ()
    if values.get("sliding_window") is None and SLIDING in (values["layer_types"] or (SLIDING,)):
        raise ConfigError(
            "the Hugging Face config.json lacks sliding_window, but has sliding layers"
        )
    return _apply_extra(values | _rope_from_hf(data), data.get("ossia", {}))


def _rope_from_hf(data: Mapping[str, Any]) -> dict[str, Any]:
    """Our rope fields from `rope_parameters` (transformers 5) or `rope_theta` + `rope_scaling`
    (before).
    """
    rope = data.get("rope_parameters") or data.get("rope_scaling") or _HF_ROPE_DEFAULT
    if not isinstance(rope, Mapping):
        raise ConfigError(f"rope_parameters must be an object, found {shown(rope)}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in _HF_ROPE_TYPES:
        raise ConfigError(
            f"rope_type {shown(kind)} is not supported; there are {', '.join(_HF_ROPE_TYPES)}"
        )
    theta = rope.get("rope_theta", data.get("rope_theta", 150000.0))
    longest = data["max_position_embeddings"]
    original = rope.get("original_max_position_embeddings") or longest
    factor = 1.0 if kind == "default" else _number(rope.get("factor"), "rope_parameters.factor")
    if factor < 1:
        raise ConfigError(f"rope_parameters.factor must be at least 1, found {factor}")
    derived = 0.1 * math.log(factor) + 1.0 if kind == "yarn" else 1.0
    attention_factor = _number(
        rope.get("attention_factor") or derived, "rope_parameters.attention_factor"
    )
    if not math.isclose(attention_factor, derived, rel_tol=1e-6):
        raise ConfigError(
            f"attention_factor is {attention_factor}; gpt-oss derives {derived:.6f} from the factor"
        )
    for key in ("mscale", "mscale_all_dim"):
        if rope.get(key) is not None:
            raise ConfigError(
                f"rope_parameters.{key} is set to {shown(rope[key])}; gpt-oss models have none"
            )
    return {
        "rope_theta": _number(theta, "rope_theta"),
        "rope_scaling": _HF_ROPE_TYPES[kind],
        "rope_scaling_factor": factor,
        "rope_ntk_alpha": _number(rope.get("beta_slow") or 1.0, "rope_parameters.beta_slow"),
        "rope_ntk_beta": _number(rope.get("beta_fast") or 32.0, "rope_parameters.beta_fast"),
        "rope_truncate": bool(
            rope.get("truncate", kind == "yarn")
        ),  # transformers rounds unless told otherwise
        "initial_context_length": original,
    }


def _rope_to_hf(config: ModelConfig) -> dict[str, Any]:
    kind = next(theirs for theirs, ours in _HF_ROPE_TYPES.items() if ours == config.rope_scaling)
    rope: dict[str, Any] = {"rope_type": kind}
    if kind == "default":
        return rope
    return rope | {
        "factor": config.rope_scaling_factor,
        "beta_fast": config.rope_ntk_beta,
        "beta_slow": config.rope_ntk_alpha,
        "truncate": config.rope_truncate,
        "original_max_position_embeddings": config.initial_context_length,
    }


def _to_hf(config: ModelConfig, quantized: bool, rope_key: str) -> dict[str, Any]:
    if rope_key not in ("rope_parameters", "rope_scaling"):
        raise ConfigError(f"rope_key is rope_parameters or rope_scaling, found {rope_key!r}")
    data: dict[str, Any] = {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss"}
    data |= {key: getattr(config, key) for key in _HF_SAME}
    data |= {theirs: getattr(config, ours) for theirs, ours in _HF_RENAMES.items()}
    data |= {"layer_types": list(config.layer_types), "attention_bias": True, "hidden_act": "silu"}
    data |= {"tie_word_embeddings": False, "initial_context_length": config.initial_context_length}
    rope = _rope_to_hf(config)
    if rope_key == "rope_parameters":
        data["rope_parameters"] = rope | {"rope_theta": config.rope_theta}
    else:
        data |= {"rope_theta": config.rope_theta, "rope_scaling": rope}
    if quantized:
        kept = [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ]
        data["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    rest = _differences(_from_hf(data), config)
    return data | ({"ossia": rest} if rest else {})


_GPT_OSS_20B = ModelConfig()
PRESETS: dict[str, ModelConfig] = {
    "gpt-oss-20b": _GPT_OSS_20B,
    "gpt-oss-120b": replace(_GPT_OSS_20B, num_hidden_layers=36, num_experts=128, layer_types=()),
    # Every mechanism of the large ones at 1/4000 of the size. YaRN's betas are 32 and 1 and its
    # ramp is rounded: that is what llama.cpp computes for this architecture whatever a file says,
    # so all engines agree on this model.
    "nano": ModelConfig(
        num_hidden_layers=6,
        hidden_size=128,
        intermediate_size=128,
        num_experts=16,
        experts_per_token=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=2048,
        sliding_window=32,
        initial_context_length=256,
        max_context_length=2048,
        rope_theta=1000.0,
        rope_scaling_factor=8.0,
        rope_truncate=True,
    ),
    # For experiments and smoke tests: trains ten times as fast as nano.
    "micro": ModelConfig(
        num_hidden_layers=4,
        hidden_size=64,
        intermediate_size=64,
        num_experts=8,
        experts_per_token=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=512,
        sliding_window=16,
        initial_context_length=256,
        max_context_length=2048,
        rope_theta=1000.0,
        rope_scaling_factor=8.0,
        rope_truncate=True,
    ),
}


@dataclass(frozen=True)
class Accounting:
    """Parameters by component, and what the published MXFP4 form takes. Counts are parameters,
    sizes bytes.
    """

    embedding: int
    unembedding: int
    attention: int  # projections, biases, sinks
    mlp: int  # router and experts
    norms: int
    mxfp4: int  # those of `mlp` that are stored in 4.25 bits
    active: (
        int  # used by one token: all but the input embedding and the experts that were not chosen
    )

    @property
    def total(self) -> int:
        return self.embedding + self.unembedding + self.attention + self.mlp + self.norms

    @property
    def checkpoint_bytes(self) -> int:
        """bf16 for everything but the experts' matrices."""
        return self.mxfp4 * (MX_BLOCK // 2 + 1) // MX_BLOCK + 2 * (self.total - self.mxfp4)


def account(config: ModelConfig) -> Accounting:
    """Count the parameters of `config` without building it."""
    c, d = config, config.hidden_size
    sinks = c.num_attention_heads if c.attention_sink == "learned" else 0
    attention = (c.q_dim + 2 * c.kv_dim) * (d + 1) + d * (c.q_dim + 1) + sinks
    mlp = mxfp4 = idle = 0
    for layer in range(c.num_hidden_layers):
        experts, width = c.expert_shape(layer)
        matrices, biases = 3 * width * d, 2 * width + d
        mlp += experts * (matrices + biases) + (experts * (d + 1) if c.is_moe(layer) else 0)
        mxfp4 += experts * matrices
        idle += (experts - c.experts_per_token) * (matrices + biases) if c.is_moe(layer) else 0
    table = c.vocab_size * d
    norms = (2 * c.num_hidden_layers + 1) * d
    attention *= c.num_hidden_layers
    active = table + attention + mlp - idle + norms
    return Accounting(table, table, attention, mlp, norms, mxfp4, active)


def as_dict(config: ModelConfig) -> dict[str, Any]:
    """Every field as a JSON value, for training states and logs."""
    return cast(dict[str, Any], {f.name: getattr(config, f.name) for f in fields(config)}) | {
        "layer_types": list(config.layer_types)
    }
