"""What a gpt-oss GGUF holds: its tensors' names, its metadata, its two block formats. Reading and
writing share it.

Knows names, configs and numbers; knows no files: those are `read.py` and `write.py`.

GGUF keeps gate and up apart where the published files interleave their rows, and lays the 16 bytes
of an MXFP4 block out otherwise: here byte j holds values 2j and 2j+1, there values j and j+16, and
the scale's byte stands before them instead of in a tensor of its own. The scale is the same e8m0
byte: GGML doubles the sixteen values and halves the scale (`kvalues_fp4`,
`ggml_e8m0_to_fp32_half`). So re-laying moves bits and loses none.

Q8_0: 32 values share a float16 scale d in front of 32 int8 codes q, value = d * q (`block_q8_0`).

E experts, R rows of an expert's matrix, G blocks in a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ossia.config import FULL, MX_BLOCK, SLIDING, ModelConfig, as_dict
from ossia.errors import CheckpointError, ConfigError

ARCHITECTURE = "gpt-oss"
ALIGNMENT = 32  # bytes: where each tensor's data begins, unless the file says otherwise
MXFP4_BYTES = 1 + MX_BLOCK // 2
Q8_BYTES = 2 + MX_BLOCK
# The formats that are read: GGUF's number for each, values in a block, bytes of a block.
TYPES = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q8_0": (8, MX_BLOCK, Q8_BYTES),
    "BF16": (30, 1, 2),
    "MXFP4": (39, MX_BLOCK, MXFP4_BYTES),
}
EXTRA = "ossia.config"  # JSON: fields of our config that GGUF has no key for; others ignore it
PATTERN = "ossia.tokenizer.pattern"  # how text is cut, where llama.cpp has no name for exactly that

Kind = Literal["matrix", "vector", "experts"]


@dataclass(frozen=True)
class Slot:
    """A tensor of the file. It holds rows first::step of every expert where `step` is 2, else all
    of `native`.

    `native` of experts is the stem, as `layers.0.moe.experts.down`, of a pair of blocks and scales.
    """

    name: str
    native: str
    shape: tuple[int, ...]  # outermost dimension first, as in torch; the file lists them backwards
    # what llama.cpp's converter stores: matrix in the dense type, vector in F32, experts in MXFP4
    kind: Kind
    first: int = 0
    step: int = 1


def slots(config: ModelConfig) -> tuple[Slot, ...]:
    """Every tensor of `config`, in the order of the model."""
    vocab = (config.vocab_size, config.hidden_size)
    found = [Slot("token_embd.weight", "embedding.weight", vocab, "matrix")]
    for layer in range(config.num_hidden_layers):
        found += _attention(config, f"blk.{layer}.", f"layers.{layer}.attn.")
        found += _mlp(config, f"blk.{layer}.", f"layers.{layer}.moe.")
    found.append(Slot("output_norm.weight", "norm.scale", vocab[1:], "vector"))
    found.append(Slot("output.weight", "unembedding.weight", vocab, "matrix"))
    return tuple(found)


def _attention(c: ModelConfig, theirs: str, ours: str) -> Iterator[Slot]:
    yield Slot(f"{theirs}attn_norm.weight", f"{ours}norm.scale", (c.hidden_size,), "vector")
    for name, rows, columns in (
        ("q", c.q_dim, c.hidden_size),
        ("k", c.kv_dim, c.hidden_size),
        ("v", c.kv_dim, c.hidden_size),
        ("out", c.hidden_size, c.q_dim),
    ):
        stem = f"{theirs}attn_{'output' if name == 'out' else name}"
        yield Slot(f"{stem}.weight", f"{ours}{name}.weight", (rows, columns), "matrix")
        yield Slot(f"{stem}.bias", f"{ours}{name}.bias", (rows,), "vector")
    yield Slot(f"{theirs}attn_sinks.weight", f"{ours}sinks", (c.num_attention_heads,), "vector")


def _mlp(c: ModelConfig, theirs: str, ours: str) -> Iterator[Slot]:
    d, width, experts = c.hidden_size, c.intermediate_size, c.num_experts
    yield Slot(f"{theirs}post_attention_norm.weight", f"{ours}norm.scale", (d,), "vector")
    yield Slot(f"{theirs}ffn_gate_inp.weight", f"{ours}router.weight", (experts, d), "vector")
    yield Slot(f"{theirs}ffn_gate_inp.bias", f"{ours}router.bias", (experts,), "vector")
    for name, native, rows, columns, first, step in (
        ("gate", "gate_up", width, d, 0, 2),
        ("up", "gate_up", width, d, 1, 2),
        ("down", "down", d, width, 0, 1),
    ):
        stem, leaf = f"{theirs}ffn_{name}_exps", f"{ours}experts.{native}"
        yield Slot(f"{stem}.weight", leaf, (experts, rows, columns), "experts", first, step)
        yield Slot(f"{stem}.bias", f"{leaf}.bias", (experts, rows), "vector", first, step)


# ---- metadata ------------------------------------------------------------------------------------

# Keys after "gpt-oss." and the fields of our config they are.
_INTEGERS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_context_length",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "expert_feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "expert_count": "num_experts",
    "expert_used_count": "experts_per_token",
    "attention.sliding_window": "sliding_window",
}
_FLOATS = {"rope.freq_base": "rope_theta", "attention.layer_norm_rms_epsilon": "rms_norm_eps"}
_SCALINGS = {"none": "none", "linear": "pi", "yarn": "yarn"}  # rope.scaling.type: ours
_WINDOWS = "attention.sliding_window_pattern"
Value = int | float | str | list[bool]


def metadata(config: ModelConfig) -> dict[str, Value]:
    """The keys that describe `config`. Raises `CheckpointError` for what llama.cpp cannot be told,
    and would compute as if it were not so.
    """
    fixed = {"moe_stride": 1, "attention_sink": "learned", "swiglu_limit": 7.0}
    for field, only in fixed.items():
        if (value := getattr(config, field)) != only:
            raise CheckpointError(
                f"GGUF has no key for {field}: gpt-oss has {only!r} there, this model {value!r}"
            )
    types = {ours: theirs for theirs, ours in _SCALINGS.items()}
    if config.rope_scaling not in types:
        raise CheckpointError(f"GGUF has no name for the rope scaling {config.rope_scaling!r}")
    keys: dict[str, Value] = {key: getattr(config, field) for key, field in _INTEGERS.items()}
    keys |= {key: float(getattr(config, field)) for key, field in _FLOATS.items()}
    keys["rope.scaling.type"] = types[config.rope_scaling]
    if config.rope_scaling != "none":
        keys["rope.scaling.factor"] = float(config.rope_scaling_factor)
        keys["rope.scaling.original_context_length"] = config.initial_context_length
        keys["rope.scaling.yarn_beta_fast"] = float(config.rope_ntk_beta)
        keys["rope.scaling.yarn_beta_slow"] = float(config.rope_ntk_alpha)
    if config.layer_types != _alternating(config.num_hidden_layers):
        keys[_WINDOWS] = [kind == SLIDING for kind in config.layer_types]
    found = {f"{ARCHITECTURE}.{key}": value for key, value in keys.items()}
    read_back = as_dict(config_from(found, config.vocab_size))
    rest = {field: value for field, value in as_dict(config).items() if read_back[field] != value}
    if rest:
        found[EXTRA] = json.dumps(rest)
    return found


def computed_otherwise(config: ModelConfig) -> str | None:
    """What llama.cpp makes of this model that is not what it means, whatever the file says; None
    for gpt-oss.

    For this architecture it reads no `yarn_beta_fast` and `yarn_beta_slow`, and takes 32 and 1. (It
    also rounds YaRN's ramp to whole dimensions, gpt-oss's too; where betas agree, that changes
    little.)
    """
    usual = config.rope_ntk_beta == 32.0 and config.rope_ntk_alpha == 1.0
    if config.rope_scaling != "yarn" or usual:
        return None
    options = (
        f"--yarn-beta-fast {config.rope_ntk_beta:g} --yarn-beta-slow {config.rope_ntk_alpha:g}"
    )
    return (
        "llama.cpp takes YaRN's beta to be 32 and 1 for this architecture, whatever the file says: "
        f"start it with {options}, and expect other logits even so"
    )


def config_from(found: Mapping[str, Any], vocab_size: int) -> ModelConfig:
    """The config that a file's metadata describes. Raises `ConfigError` naming the key that is
    missing or odd.

    Nothing in GGUF says whether yarn's ramp is rounded to whole dimensions. gpt-oss does not round,
    so neither is that assumed here; llama.cpp does.
    """

    def get(key: str, kinds: tuple[type, ...], default: Any = None) -> Any:
        value = found.get(f"{ARCHITECTURE}.{key}", default)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ConfigError(
                f"the metadata's {ARCHITECTURE}.{key} is missing or of a wrong type: {value!r:.60}"
            )
        return value

    number = (int, float)
    optional = {
        "attention.key_length": 64,
        "attention.value_length": 64,
        "expert_feed_forward_length": found.get(f"{ARCHITECTURE}.feed_forward_length"),
    }
    values: dict[str, Any] = {}
    for key, field in _INTEGERS.items():
        value = get(key, (int,), optional.get(key))
        if values.setdefault(field, value) != value:
            raise ConfigError(
                f"the metadata's {ARCHITECTURE}.{key} is {value}, where gpt-oss has {values[field]}"
            )
    values |= {field: get(key, number) for key, field in _FLOATS.items()}
    scaling = get("rope.scaling.type", (str,), "none")
    if scaling not in _SCALINGS:
        raise ConfigError(f"rope.scaling.type is {scaling!r}; there are {', '.join(_SCALINGS)}")
    values["rope_scaling"] = _SCALINGS[scaling]
    values["rope_scaling_factor"] = 1.0
    values["initial_context_length"] = values["max_context_length"]
    if scaling != "none":
        values["rope_scaling_factor"] = get("rope.scaling.factor", number)
        values["initial_context_length"] = get("rope.scaling.original_context_length", (int,))
    values["rope_ntk_beta"] = get("rope.scaling.yarn_beta_fast", number, 32.0)
    values["rope_ntk_alpha"] = get("rope.scaling.yarn_beta_slow", number, 1.0)
    values["layer_types"] = _layer_types(get(_WINDOWS, (int, list), 2), values["num_hidden_layers"])
    return _with_extra(ModelConfig(**values, vocab_size=vocab_size), found.get(EXTRA, "{}"))


def _alternating(layers: int, period: int = 2) -> tuple[str, ...]:
    """Every `period`-th layer full, the others sliding; 0 means none full."""
    return tuple(FULL if period and n % period == period - 1 else SLIDING for n in range(layers))


def _layer_types(windows: int | list[bool], layers: int) -> tuple[str, ...]:
    """From a period, or from one flag a layer; a length that does not fit is the config's to
    refuse.
    """
    if isinstance(windows, int):
        return _alternating(layers, windows)
    return tuple(SLIDING if slides else FULL for slides in windows)


def _with_extra(config: ModelConfig, text: Any) -> ModelConfig:
    try:
        extra = json.loads(text)
        if isinstance(extra, dict) and "layer_types" in extra:
            extra["layer_types"] = tuple(extra["layer_types"])
        return replace(config, **extra)
    except ConfigError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the metadata's {EXTRA} cannot be used: {error}") from error


# ---- block formats -------------------------------------------------------------------------------

# Eight bytes at a time, as words; what is shifted never leaves its byte, so the byte order does not
# matter.
_LOW, _HIGH = 0x0F0F0F0F0F0F0F0F, -0x0F0F0F0F0F0F0F10


def to_ggml(blocks: Tensor, scales: Tensor) -> Tensor:
    """Published blocks [..., G, 16] and scales [..., G] as GGML's [..., G, 17]; all uint8."""
    first, second = blocks.contiguous().view(torch.int64).unbind(-1)  # values 0..15 and 16..31
    out = torch.empty(*scales.shape, MXFP4_BYTES, dtype=torch.uint8)
    out[..., 0] = scales
    out[..., 1::2] = _as_bytes((first & _LOW) | ((second & _LOW) << 4))
    out[..., 2::2] = _as_bytes(((first >> 4) & _LOW) | (second & _HIGH))
    return out


def blocks_from_ggml(raw: Tensor) -> Tensor:
    """GGML's [..., G, 17] as published blocks [..., G, 16]; the scales are raw[..., 0]."""
    even, odd = (raw[..., start::2].contiguous().view(torch.int64).squeeze(-1) for start in (1, 2))
    first = (even & _LOW) | ((odd & _LOW) << 4)
    second = ((even >> 4) & _LOW) | (odd & _HIGH)
    return torch.stack((first, second), dim=-1).view(torch.uint8)


def _as_bytes(words: Tensor) -> Tensor:
    return words.unsqueeze(-1).view(torch.uint8)


def to_q8(values: Tensor) -> Tensor:
    """Q8_0 [..., K/32 * 34] uint8 of `values` [..., K]; the rounding is that of llama.cpp's
    reference.
    """
    grouped = values.float().unflatten(-1, (-1, MX_BLOCK))
    scale = grouped.abs().amax(-1, keepdim=True) / 127
    scaled = grouped * torch.where(scale == 0, 0.0, 1 / scale)
    size = scaled.abs()
    whole = size.floor()
    nearest = whole + (size - whole >= 0.5)  # halves away from zero
    codes = torch.copysign(nearest, scaled).to(torch.int8)
    parts = (scale.half().view(torch.uint8), codes.view(torch.uint8))
    return torch.cat(parts, dim=-1).flatten(-2)


def from_q8(raw: Tensor) -> Tensor:
    """float16 [rows, K] of Q8_0 [rows, K/32 * 34]: off by at most 2^-11 of each value, where
    bfloat16, which takes as much memory, would be off by 2^-8, half a step of Q8_0 itself. Of
    scales too large for it, bfloat16.
    """
    grouped = raw.unflatten(-1, (-1, Q8_BYTES))
    scales = grouped[..., :2].contiguous().view(torch.float16).float()
    fits = bool((scales.abs() * 127 < torch.finfo(torch.float16).max).all())
    dtype = torch.float16 if fits else torch.bfloat16
    out = torch.empty(*grouped.shape[:-1], MX_BLOCK, dtype=dtype)
    step = max(1, (1 << 20) // grouped[0].numel())
    for row in range(0, len(out), step):  # not all at once: the products are float32
        part = slice(row, row + step)
        out[part] = grouped[part, :, 2:].view(torch.int8) * scales[part]
    return out.flatten(-2)
