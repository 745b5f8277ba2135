"""The contents of a gpt-oss GGUF: its tensors' names and its metadata. Reading and writing share
it.

Knows names and configs; does not know files: those are `read.py` and `write.py`. The formats of
numbers are `blocks.py`.

GGUF separates gate and up where the published files interleave their rows. Some files have the two
in one tensor, gate's rows before up's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from ossia.config import FULL, SLIDING, ModelConfig, as_dict
from ossia.errors import CheckpointError, ConfigError

ARCHITECTURE = "gpt-oss"
ALIGNMENT = 32  # bytes: where each tensor's data begins, unless the file says otherwise
EXTRA = "ossia.config"  # JSON: fields of our config that GGUF has no key for; others ignore it
CHAT_TEMPLATE = "tokenizer.chat_template"
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
    half: int | None = None  # 0 or 1: of a tensor of two, gate and up, this one's rows

    @property
    def stored_shape(self) -> tuple[int, ...]:
        if self.half is None:
            return self.shape
        experts, rows, *columns = self.shape
        return (experts, 2 * rows, *columns)

    def fused(self) -> Slot:
        """The same rows, where gate and up are one tensor."""
        for half, one in enumerate(("ffn_gate_exps", "ffn_up_exps")):
            if one in self.name:
                return replace(self, name=self.name.replace(one, "ffn_gate_up_exps"), half=half)
        return self


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
