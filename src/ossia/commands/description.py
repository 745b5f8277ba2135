"""What `ossia info` says: parameters by component, bytes on disk and in memory, cache, files,
kernels.

`describe` gathers it as one JSON value, `as_text` lays that out. Reads headers and small files,
never weights, and goes to the network only for a hub model's name that is not a preset's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ossia import checkpoint, hub, kernels
from ossia.commands.display import in_columns
from ossia.config import MX_BLOCK, PRESETS, ModelConfig, account, as_dict
from ossia.figures import human_bytes
from ossia.llm import sampling_defaults
from ossia.tokenizer import HARMONY_SPECIALS, Tokenizer
from ossia.tools import sandbox

BF16 = 2  # bytes
LABEL = 14  # columns of a name, at least
COMPONENTS = {
    "embedding": "embedding",
    "unembedding": "unembedding",
    "attention": "attention",
    "mlp": "MLP (router + experts)",
    "norms": "norms",
}


def describe(name: str) -> dict[str, Any]:
    """Everything about a preset (from its numbers alone) or a checkpoint (its headers are checked),
    as JSON.

    Raises `ModelNotFoundError`, `CheckpointError`, `ConfigError` or `TokenizerError`.
    """
    preset = {theirs: ours for ours, theirs in hub.HUB_IDS.items()}.get(name, name)
    here = name == "nano" and hub.embedded("nano").exists()
    if preset in PRESETS and not here and not Path(name).exists():
        config = ModelConfig.preset(preset)
        return {"name": preset, "source": "preset", "layout": "hf", "packed": True} | _numbers(
            config, _published_bytes(config)
        )
    folder = hub.find(name)
    opened = checkpoint.open_checkpoint(folder)
    tokenizer = checkpoint.find_tokenizer(folder, opened.config)
    files = {
        path.name: path.stat().st_size
        for path in sorted(opened.directory.iterdir())
        if path.is_file()
    }
    return (
        {"name": name, "source": str(opened.file), "layout": opened.layout}
        | {"packed": opened.packed}
        | _numbers(opened.config, _stored_bytes(opened))
        | {"files": files, "tokenizer": None if tokenizer is None else _about_tokenizer(tokenizer)}
        | {"generation_defaults": _about_sampling(folder)}
    )


def _numbers(config: ModelConfig, stored: dict[str, int]) -> dict[str, Any]:
    counts = account(config)
    mxfp4 = counts.mxfp4 * (MX_BLOCK // 2 + 1) // MX_BLOCK
    sizes = stored | {
        "total": sum(stored.values()),
        "mxfp4": mxfp4,
        "total_if_bf16": BF16 * counts.total,
    }
    return {
        "parameters": {
            key: getattr(counts, key) for key in (*COMPONENTS, "total", "active", "mxfp4")
        },
        "bytes": sizes,
        "kv_cache_bytes": _cache_bytes(config),
        "config": as_dict(config),
        "kernels": [
            dict(zip(("operation", "served_by", "why"), row, strict=True))
            for row in kernels.in_use()
        ],
        "sandbox": _sandbox(),
    }


def _sandbox() -> dict[str, Any]:
    """What the tool `python` would run code in here. It is proved now, which takes a moment."""
    found = sandbox.find()
    chosen = None if found.rung is None else {"name": found.rung.name, "is": found.rung.about}
    return {"chosen": chosen, "refused": [{"name": n, "why": why} for n, why in found.refused]}


def _published_bytes(config: ModelConfig) -> dict[str, int]:
    """Of each component as published: the experts' matrices in MXFP4, all else in bfloat16."""
    counts = account(config)
    sizes = {key: BF16 * int(getattr(counts, key)) for key in COMPONENTS}
    return sizes | {"mlp": sizes["mlp"] - (BF16 * counts.total - counts.checkpoint_bytes)}


def _stored_bytes(opened: checkpoint.Checkpoint) -> dict[str, int]:
    """Of each component in these files."""
    sizes = dict.fromkeys(COMPONENTS, 0)
    for stored, native in {row.stored: row.native for row in opened.rows}.items():
        entry = opened.source.entry(stored)
        sizes[_component(native)] += entry.end - entry.begin
    return sizes


def _component(native: str) -> str:
    """`layers.0.attn.q.weight` -> "attention"."""
    if native.endswith("norm.scale"):
        return "norms"
    if native.startswith("layers."):
        return "attention" if ".attn." in native else "mlp"
    return native.removesuffix(".weight")


def _cache_bytes(config: ModelConfig) -> dict[str, int]:
    """Keys and values in bf16. Only layers with full attention keep tokens beyond the window."""
    layer = 2 * config.kv_dim * BF16
    windows = [config.window(n) for n in range(config.num_hidden_layers)]
    context = config.max_context_length
    return {
        "per_token_within_window": layer * len(windows),
        "per_token_beyond_window": layer * windows.count(None),
        "full_context": layer * sum(min(window or context, context) for window in windows),
        "full_context_without_windows": layer * len(windows) * context,
    }


def _about_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    missing = [name for name in HARMONY_SPECIALS if name not in tokenizer.specials]
    return {
        "ordinary_tokens": len(tokenizer.vocabulary),
        "special_tokens": len(tokenizer.specials),
        "ids": tokenizer.vocab_size,
        "missing_harmony_specials": missing,
    }


def _about_sampling(folder: Path) -> dict[str, Any]:
    params = asdict(sampling_defaults(folder))
    return {key: params[key] for key in ("temperature", "top_p", "top_k", "min_p")}


# ---- as text -------------------------------------------------------------------------------------


def as_text(info: dict[str, Any]) -> str:
    """The same for reading."""
    config = ModelConfig(**info["config"] | {"layer_types": tuple(info["config"]["layer_types"])})
    parts: list[Iterable[str]] = [_head(info), _parameter_table(info, config), _size_lines(info)]
    parts.append(_config_lines(config))
    if "files" in info:
        parts += [_file_lines(info), _text_lines(info)]
    parts += [_kernel_lines(info), _sandbox_lines(info["sandbox"])]
    return "\n\n".join("\n".join(part) for part in parts)


def _head(info: dict[str, Any]) -> Iterator[str]:
    if info["source"] == "preset":
        yield f"{info['name']}: by its published numbers; no weights were looked for"
    else:
        yield f"{info['name']}: {info['layout']} layout in {info['source']}"
        yield "every tensor's name, shape and dtype is as its config.json implies"


def _parameter_table(info: dict[str, Any], config: ModelConfig) -> Iterator[str]:
    counts, sizes = info["parameters"], info["bytes"]
    unit = (1e9, "B") if counts["total"] >= 1e9 else (1e6, "M")

    def row(label: str, count: int, stored: str) -> tuple[str, ...]:
        short = f"{count / unit[0]:.2f}{unit[1]}"
        return f"  {label}", short, f"{count:,}", f"{count / counts['total']:.2%}", stored

    both = ("embedding", "unembedding")
    ends = human_bytes(sum(sizes[key] for key in both))
    rows = [
        ("parameters", "", "exactly", "share", "stored in"),
        row("embedding + unembedding", sum(counts[key] for key in both), ends),
    ]
    for key in COMPONENTS:
        label = "  " * (key in both) + COMPONENTS[key]
        rows.append(row(label, counts[key], human_bytes(sizes[key])))
    rows.append(row("total", counts["total"], human_bytes(sizes["total"])))
    rows.append(row("active for one token", counts["active"], ""))
    *lines, active = in_columns(rows, indent=0, right=4, least=26)
    chosen = f"{config.experts_per_token} of {config.num_experts} experts, no input embedding"
    yield from lines
    yield f"{active:<{len(lines[0])}}  {chosen}"


def _size_lines(info: dict[str, Any]) -> Iterator[str]:
    counts, sizes = info["parameters"], info["bytes"]
    cache = {key: human_bytes(size) for key, size in info["kv_cache_bytes"].items()}
    disk = human_bytes(sizes["total"])
    if "files" in info:
        disk += f", {human_bytes(sum(info['files'].values()))} with all files"
    share = f"the experts' matrices, {counts['mxfp4'] / counts['total']:.1%} of the parameters"
    rows = [
        ("on disk", disk),
        ("in memory", f"{human_bytes(sizes['total'])}, mapped: read as it is used"),
    ]
    if info["packed"]:
        rows.append(("in MXFP4", f"{human_bytes(sizes['mxfp4'])} at 4.25 bits a weight: {share}"))
        rows.append(("all in bf16", f"{human_bytes(sizes['total_if_bf16'])} (layout hf-bf16)"))
    else:
        rows.append(("in MXFP4", f"nothing; layouts hf and original hold {share}, in MXFP4"))
    rows.append(("KV cache", f"{cache['per_token_within_window']} a token in bf16"))
    rows.append(("", f"{cache['per_token_beyond_window']} a token that is older than the window"))
    whole, all_full = cache["full_context"], cache["full_context_without_windows"]
    rows.append(("", f"{whole} for a full context; without windows it would be {all_full}"))
    yield "bytes"
    yield from in_columns(rows, least=LABEL)


def _config_lines(config: ModelConfig) -> Iterator[str]:
    c = config
    windowed = sum(c.window(n) is not None for n in range(c.num_hidden_layers))
    order = " (alternating, window first)" if c == replace(c, layer_types=()) else ""
    layers = f"{c.num_hidden_layers}: {windowed} see a window of {c.sliding_window} tokens, "
    layers += f"{c.num_hidden_layers - windowed} everything{order}"
    experts = f"{c.num_experts}, {c.experts_per_token} per token, {c.intermediate_size:,} wide, "
    experts += f"SwiGLU clamped at {c.swiglu_limit:g}"
    if c.moe_stride > 1:
        experts += f"; in every {c.moe_stride}th layer only"
    heads = f"{c.num_attention_heads} for queries, {c.num_key_value_heads} for keys and values, "
    heads += f"{c.head_dim} wide; sinks: {c.attention_sink.replace('_', ' ')}"
    rope = f"theta {c.rope_theta:g}, {c.rope_scaling}"
    if c.rope_scaling != "none":
        rope += f" x{c.rope_scaling_factor:g} from {c.initial_context_length:,} tokens"
    yield "configuration"
    rows = [("layers", layers), ("hidden size", f"{c.hidden_size:,}"), ("attention heads", heads)]
    rows += [("experts", experts), ("context", f"{c.max_context_length:,} tokens"), ("rope", rope)]
    yield from in_columns([*rows, ("vocabulary", f"{c.vocab_size:,}")], least=LABEL)


def _file_lines(info: dict[str, Any]) -> Iterator[str]:
    yield "files"
    files = [(name, human_bytes(size)) for name, size in info["files"].items()]
    yield from in_columns(files, least=LABEL)


def _text_lines(info: dict[str, Any]) -> Iterator[str]:
    yield "text"
    t = info["tokenizer"]
    about = "none in the folder: only token ids can be used"
    if t is not None:
        missing = ", ".join(t["missing_harmony_specials"])
        about = f"{t['ordinary_tokens']:,} ordinary tokens, {t['special_tokens']:,} specials, "
        about += f"without {missing}: no chat" if missing else "all that Harmony needs"
    defaults = ", ".join(f"{key} {value:g}" for key, value in info["generation_defaults"].items())
    yield from in_columns([("tokenizer", about), ("sampling", defaults)], least=LABEL)


def _kernel_lines(info: dict[str, Any]) -> Iterator[str]:
    """What serves each operation, and why; a reason that all share is said once."""
    used = info["kernels"]
    reasons = {kernel["why"] for kernel in used}
    yield f"kernels: {reasons.pop()}" if len(reasons) == 1 else "kernels"
    said = "{served_by} ({why})" if reasons else "{served_by}"
    serving = [(kernel["operation"], said.format(**kernel)) for kernel in used]
    yield from in_columns(serving, least=LABEL)


def _sandbox_lines(found: dict[str, Any]) -> Iterator[str]:
    """The one in use, and why none that would be better."""
    yield "sandbox of the tool python"
    chosen = found["chosen"] or {"name": "none", "is": "code is not run"}
    rows = [(chosen["name"], chosen["is"])]
    for each in found["refused"]:
        first, *others = each["why"].splitlines()
        rows += [(f"not {each['name']}", first), *(("", line) for line in others)]
    yield from in_columns(rows, least=LABEL)
