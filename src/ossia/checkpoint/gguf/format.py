"""The contents of a gpt-oss GGUF: its tensors' names, its metadata, its two block formats. Reading
and writing share it.

Knows names, configs and numbers; does not know files: those are `read.py` and `write.py`.

GGUF separates gate and up where the published files interleave their rows, and lays out the 16
bytes of an MXFP4 block differently: here byte j holds values 2j and 2j+1, there values j and j+16,
and the scale's byte comes before them instead of in a tensor of its own. The scale is the same e8m0
byte: GGML doubles the sixteen values and halves the scale (`kvalues_fp4`,
`ggml_e8m0_to_fp32_half`). So re-laying moves bits and loses none.

Q8_0: 32 values share a float16 scale d in front of 32 int8 codes q, value = d * q (`block_q8_0`).

E experts, R rows of an expert's matrix, G blocks in a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
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
PATTERN = "ossia.tokenizer.pattern"  # the pattern that cuts text, if llama.cpp has no name for it

Kind = Literal["matrix", "vector", "experts"]


@dataclass(frozen=True)
class Slot:
    """A tensor of the file.

    It holds rows first::step of every expert where `step` is 2, else all of `native`. `native` of
    experts is the stem, as `layers.0.moe.experts.down`, of a pair of blocks and scales.
    """

    name: str
    native: str
    shape: tuple[int, ...]  # outermost dimension first, as in torch; the file lists them backwards
    # as llama.cpp's converter stores it: matrix in the dense type, vector in F32, experts in MXFP4
    kind: Kind
    first: int = 0
    step: int = 1


def slots(config: ModelConfig) -> tuple[Slot, ...]:
    """Every tensor of `config`, in the order of the model."""
    vocab = (config.vocab_size, config.hidden_size)
    found = [Slot("token_embd.weight", "embedding.weight", vocab, "matrix")]
    for layer in range(config.num_hidden_layers):
        theirs = f"blk.{layer}."
        ours = f"layers.{layer}."
        found += _attention(config, theirs, f"{ours}attn.")
        found += _mlp(config, theirs, f"{ours}moe.")
    norm = (config.hidden_size,)
    found.append(Slot("output_norm.weight", "norm.scale", norm, "vector"))
    found.append(Slot("output.weight", "unembedding.weight", vocab, "matrix"))
    return tuple(found)


def _attention(c: ModelConfig, theirs: str, ours: str) -> Iterator[Slot]:
    hidden = c.hidden_size
    heads = c.num_attention_heads
    yield Slot(f"{theirs}attn_norm.weight", f"{ours}norm.scale", (hidden,), "vector")
    for their_name, name, rows, columns in (
        ("attn_q", "q", c.q_dim, hidden),
        ("attn_k", "k", c.kv_dim, hidden),
        ("attn_v", "v", c.kv_dim, hidden),
        ("attn_output", "out", hidden, c.q_dim),
    ):
        stem = f"{theirs}{their_name}"
        leaf = f"{ours}{name}"
        yield Slot(f"{stem}.weight", f"{leaf}.weight", (rows, columns), "matrix")
        yield Slot(f"{stem}.bias", f"{leaf}.bias", (rows,), "vector")
    yield Slot(f"{theirs}attn_sinks.weight", f"{ours}sinks", (heads,), "vector")


def _mlp(c: ModelConfig, theirs: str, ours: str) -> Iterator[Slot]:
    hidden = c.hidden_size
    width = c.intermediate_size
    experts = c.num_experts
    norm = f"{theirs}post_attention_norm.weight"
    router = f"{theirs}ffn_gate_inp"
    yield Slot(norm, f"{ours}norm.scale", (hidden,), "vector")
    yield Slot(f"{router}.weight", f"{ours}router.weight", (experts, hidden), "vector")
    yield Slot(f"{router}.bias", f"{ours}router.bias", (experts,), "vector")
    for their_name, name, rows, columns, first, step in (
        ("ffn_gate_exps", "experts.gate_up", width, hidden, 0, 2),
        ("ffn_up_exps", "experts.gate_up", width, hidden, 1, 2),
        ("ffn_down_exps", "experts.down", hidden, width, 0, 1),
    ):
        stem = f"{theirs}{their_name}"
        leaf = f"{ours}{name}"
        shape = (experts, rows, columns)
        yield Slot(f"{stem}.weight", leaf, shape, "experts", first, step)
        yield Slot(f"{stem}.bias", f"{leaf}.bias", shape[:2], "vector", first, step)


# ---- metadata ------------------------------------------------------------------------------------

# Keys after "gpt-oss." and the same fields of our config.
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
    """The keys that describe `config`.

    Raises `CheckpointError` for a config that has no keys in GGUF, as llama.cpp would compute
    another model.
    """
    fixed = {"moe_stride": 1, "attention_sink": "learned", "swiglu_limit": 7.0}
    for field, only in fixed.items():
        value = getattr(config, field)
        if value != only:
            raise CheckpointError(
                f"GGUF has no key for {field}: gpt-oss has {only!r} there, this model {value!r}"
            )
    types = {ours: theirs for theirs, ours in _SCALINGS.items()}
    if config.rope_scaling not in types:
        raise CheckpointError(f"GGUF has no name for the rope scaling {config.rope_scaling!r}")
    keys: dict[str, Value] = {}
    for key, field in _INTEGERS.items():
        keys[key] = getattr(config, field)
    for key, field in _FLOATS.items():
        keys[key] = float(getattr(config, field))
    keys["rope.scaling.type"] = types[config.rope_scaling]
    if config.rope_scaling != "none":
        keys["rope.scaling.factor"] = float(config.rope_scaling_factor)
        keys["rope.scaling.original_context_length"] = config.initial_context_length
        keys["rope.scaling.yarn_beta_fast"] = float(config.rope_ntk_beta)
        keys["rope.scaling.yarn_beta_slow"] = float(config.rope_ntk_alpha)
    if config.layer_types != _alternating(config.num_hidden_layers):
        keys[_WINDOWS] = [kind == SLIDING for kind in config.layer_types]
    found: dict[str, Value] = {}
    for key, value in keys.items():
        found[f"{ARCHITECTURE}.{key}"] = value
    rest = _not_described(config, found)
    if rest:
        found[EXTRA] = json.dumps(rest)
    return found


def _not_described(config: ModelConfig, found: Mapping[str, Value]) -> dict[str, Any]:
    """The fields of `config` that a reader of these keys would not get."""
    read_back = as_dict(config_from(found, config.vocab_size))
    rest = {}
    for field, value in as_dict(config).items():
        if read_back[field] != value:
            rest[field] = value
    return rest


def computed_otherwise(config: ModelConfig) -> str | None:
    """How llama.cpp computes another model than this one, whatever the file says; None for gpt-oss.

    For this architecture it does not read `yarn_beta_fast` and `yarn_beta_slow`, and takes 32 and
    1. (It also rounds YaRN's ramp to whole dimensions, gpt-oss's too; where betas agree, that
    changes little.)
    """
    if config.rope_scaling != "yarn":
        return None
    fast = config.rope_ntk_beta
    slow = config.rope_ntk_alpha
    if fast == 32.0 and slow == 1.0:
        return None
    options = f"--yarn-beta-fast {fast:g} --yarn-beta-slow {slow:g}"
    return (
        "llama.cpp takes YaRN's beta to be 32 and 1 for this architecture, whatever the file says: "
        f"start it with {options}, and expect other logits even so"
    )


def config_from(found: Mapping[str, Any], vocab_size: int) -> ModelConfig:
    """The config that a file's metadata describes.

    Raises `ConfigError` naming the key that is missing or wrong. GGUF does not say whether yarn's
    ramp is rounded to whole dimensions. gpt-oss does not round, so neither is that assumed here;
    llama.cpp does.
    """
    get = partial(_get, found)
    number = (int, float)
    optional = {
        "attention.key_length": 64,
        "attention.value_length": 64,
        "expert_feed_forward_length": found.get(f"{ARCHITECTURE}.feed_forward_length"),
    }
    values: dict[str, Any] = {}
    for key, field in _INTEGERS.items():
        value = get(key, (int,), optional.get(key))
        known = values.setdefault(field, value)
        if known != value:
            raise ConfigError(
                f"the metadata's {ARCHITECTURE}.{key} is {value}, where gpt-oss has {known}"
            )
    for key, field in _FLOATS.items():
        values[field] = get(key, number)
    scaling = get("rope.scaling.type", (str,), "none")
    if scaling not in _SCALINGS:
        raise ConfigError(f"rope.scaling.type is {scaling!r}; there are {', '.join(_SCALINGS)}")
    values["rope_scaling"] = _SCALINGS[scaling]
    if scaling == "none":
        values["rope_scaling_factor"] = 1.0
        values["initial_context_length"] = values["max_context_length"]
    else:
        values["rope_scaling_factor"] = get("rope.scaling.factor", number)
        values["initial_context_length"] = get("rope.scaling.original_context_length", (int,))
    values["rope_ntk_beta"] = get("rope.scaling.yarn_beta_fast", number, 32.0)
    values["rope_ntk_alpha"] = get("rope.scaling.yarn_beta_slow", number, 1.0)
    windows = get(_WINDOWS, (int, list), 2)
    values["layer_types"] = _layer_types(windows, values["num_hidden_layers"])
    config = ModelConfig(**values, vocab_size=vocab_size)
    return _with_extra(config, found.get(EXTRA, "{}"))


def _get(found: Mapping[str, Any], key: str, kinds: tuple[type, ...], default: Any = None) -> Any:
    """The value of a key, which must be of one of the kinds. Raises `ConfigError`."""
    value = found.get(f"{ARCHITECTURE}.{key}", default)
    is_flag = isinstance(value, bool) and bool not in kinds
    if is_flag or not isinstance(value, kinds):
        raise ConfigError(
            f"the metadata's {ARCHITECTURE}.{key} is missing or of a wrong type: {value!r:.60}"
        )
    return value


def _alternating(layers: int, period: int = 2) -> tuple[str, ...]:
    """Every `period`-th layer full, the others sliding; 0 means none full."""
    types = [SLIDING] * layers
    if period:
        for n in range(period - 1, layers, period):
            types[n] = FULL
    return tuple(types)


def _layer_types(windows: int | list[bool], layers: int) -> tuple[str, ...]:
    """From a period, or from one flag a layer. The config refuses a length that does not fit."""
    if isinstance(windows, int):
        return _alternating(layers, windows)
    types = []
    for slides in windows:
        types.append(SLIDING if slides else FULL)
    return tuple(types)


def _with_extra(config: ModelConfig, text: Any) -> ModelConfig:
    try:
        extra = json.loads(text)
        if isinstance(extra, dict) and "layer_types" in extra:
            types = extra["layer_types"]
            extra["layer_types"] = tuple(types)
        return replace(config, **extra)
    except ConfigError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the metadata's {EXTRA} cannot be used: {error}") from error


# ---- block formats -------------------------------------------------------------------------------

# Eight bytes at a time, as words; shifted bits never leave their byte, so the byte order does not
# matter.
_LOW = 0x0F0F0F0F0F0F0F0F
_HIGH = -0x0F0F0F0F0F0F0F10


def to_ggml(blocks: Tensor, scales: Tensor) -> Tensor:
    """Published blocks [..., G, 16] and scales [..., G] as GGML's [..., G, 17]; all uint8."""
    words = blocks.contiguous().view(torch.int64)
    first, second = words.unbind(-1)  # values 0..15 and 16..31
    even = _low_of_both(first, second)
    odd = _high_of_both(first, second)
    out = torch.empty(*scales.shape, MXFP4_BYTES, dtype=torch.uint8)
    out[..., 0] = scales
    out[..., 1::2] = _as_bytes(even)
    out[..., 2::2] = _as_bytes(odd)
    return out


def blocks_from_ggml(raw: Tensor) -> Tensor:
    """GGML's [..., G, 17] as published blocks [..., G, 16]; the scales are raw[..., 0]."""
    even = _as_words(raw[..., 1::2])
    odd = _as_words(raw[..., 2::2])
    first = _low_of_both(even, odd)
    second = _high_of_both(even, odd)
    blocks = torch.stack((first, second), dim=-1)
    return blocks.view(torch.uint8)


def _low_of_both(a: Tensor, b: Tensor) -> Tensor:
    """Bytes of the low halves of a's and b's bytes, b's above a's."""
    lower = a & _LOW
    upper = (b & _LOW) << 4
    return lower | upper


def _high_of_both(a: Tensor, b: Tensor) -> Tensor:
    """Bytes of the high halves of a's and b's bytes, b's above a's."""
    lower = (a >> 4) & _LOW
    upper = b & _HIGH
    return lower | upper


def _as_words(raw: Tensor) -> Tensor:
    words = raw.contiguous().view(torch.int64)
    return words.squeeze(-1)


def _as_bytes(words: Tensor) -> Tensor:
    return words.unsqueeze(-1).view(torch.uint8)


def to_q8(values: Tensor) -> Tensor:
    """Q8_0 [..., K/32 * 34] uint8 of `values` [..., K], rounded as llama.cpp's reference does."""
    grouped = values.float().unflatten(-1, (-1, MX_BLOCK))
    largest = grouped.abs().amax(-1, keepdim=True)
    scale = largest / 127
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    scaled = grouped * inverse
    size = scaled.abs()
    whole = size.floor()
    rest = size - whole
    nearest = whole + (rest >= 0.5)  # halves away from zero
    codes = torch.copysign(nearest, scaled).to(torch.int8)
    scale_bytes = scale.half().view(torch.uint8)
    code_bytes = codes.view(torch.uint8)
    return torch.cat((scale_bytes, code_bytes), dim=-1).flatten(-2)


def from_q8(raw: Tensor) -> Tensor:
    """float16 [rows, K] of Q8_0 [rows, K/32 * 34]; bfloat16 if its scales are too large for that.

    float16 is off by at most 2^-11 of each value; bfloat16, which takes as much memory, by 2^-8,
    half a step of Q8_0 itself.
    """
    grouped = raw.unflatten(-1, (-1, Q8_BYTES))
    codes = grouped[..., 2:].view(torch.int8)
    halves = grouped[..., :2].contiguous().view(torch.float16)
    scales = halves.float()
    limit = torch.finfo(torch.float16).max
    fits = bool((scales.abs() * 127 < limit).all())
    dtype = torch.float16 if fits else torch.bfloat16
    out = torch.empty(*grouped.shape[:-1], MX_BLOCK, dtype=dtype)
    step = max(1, (1 << 20) // grouped[0].numel())
    for row in range(0, len(out), step):  # not all at once: the products are float32
        part = slice(row, row + step)
        out[part] = codes[part] * scales[part]
    return out.flatten(-2)
