"""The one table of tensor names: what each tensor is called in each layout, its shape and its
dtype.

Three layouts, all read and written through this table:
    hf        the published Hugging Face files: experts in MXFP4
    hf-bf16   the same after dequantization: experts fused over E as [E, in, out], which is ours
              transposed
    original  OpenAI's own: experts in MXFP4, q, k and v as rows of one matrix

`as_found` gives the rows the other names that common exporters use, experts one by one among them;
`foreign` knows by its marks what other programs have quantized. Does not know files; the content of
a directory comes in as a `Source`.

V vocabulary, D hidden, E experts, F intermediate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ossia.checkpoint.mapped import Source
from ossia.config import MX_BLOCK, ModelConfig, shown
from ossia.errors import CheckpointError, TensorMismatchError

Layout = Literal["hf", "hf-bf16", "original"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
# Hugging Face saves a trained model in the format in which it was trained
FLOATS = ("BF16", "F16", "F32")
PACKED = ("U8",)
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """The native tensor `native` is rows [first, first + rows) of the stored one, transposed if so
    marked. Of an `expert`, it is one of those that make up the native tensor, in order.
    """

    native: str
    stored: str
    shape: Shape  # of the stored tensor
    dtypes: tuple[str, ...] = FLOATS
    first: int = 0
    rows: int = 0  # 0: all of them
    transposed: bool = False
    expert: bool = False

    @property
    def native_shape(self) -> Shape:
        if self.transposed:
            return (*self.shape[:-2], self.shape[-1], self.shape[-2])
        return (self.rows or self.shape[0], *self.shape[1:])

    def view(self, stored: Tensor) -> Tensor:
        """The native tensor, without copying."""
        if self.transposed:
            return stored.transpose(-1, -2)
        return stored[self.first : self.first + self.rows] if self.rows else stored


@dataclass(frozen=True)
class Tensors(Mapping[str, Tensor]):
    """Tensors by native name, each made when it is asked for."""

    made: Mapping[str, Callable[[], Tensor]]

    def __getitem__(self, native: str) -> Tensor:
        return self.made[native]()

    def __contains__(self, native: object) -> bool:
        return native in self.made

    def __iter__(self) -> Iterator[str]:
        return iter(self.made)

    def __len__(self) -> int:
        return len(self.made)


def tensors(source: Source, rows: Iterable[Row]) -> Tensors:
    """Every native tensor: a view of its file, but of experts that are stored one by one a copy."""
    parts: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        parts[row.native].append(row)
    return Tensors({native: partial(_gathered, source, its) for native, its in parts.items()})


def _gathered(source: Source, rows: list[Row]) -> Tensor:
    views = [row.view(source.tensor(row.stored)) for row in rows]
    return torch.stack(views) if rows[0].expert else views[0]


def is_packed(layout: Layout) -> bool:
    """Whether a layout holds the experts in MXFP4."""
    return layout != "hf-bf16"


def table(config: ModelConfig, layout: Layout) -> tuple[Row, ...]:
    """Every tensor of `config` in `layout`, in the order of the model.

    Raises `CheckpointError` if MXFP4 cannot hold its shapes.
    """
    if is_packed(layout) and (config.hidden_size % MX_BLOCK or config.intermediate_size % MX_BLOCK):
        raise CheckpointError(
            f"MXFP4 needs hidden_size and intermediate_size to be multiples of {MX_BLOCK}, found "
            f"{config.hidden_size} and {config.intermediate_size}"
        )
    original = layout == "original"
    vocab = (config.vocab_size, config.hidden_size)
    rows = [
        Row(
            "embedding.weight",
            "embedding.weight" if original else "model.embed_tokens.weight",
            vocab,
        )
    ]
    for layer in range(config.num_hidden_layers):
        rows += _attention(config, layer, original)
        rows += _mlp(config, layer, layout)
    rows.append(Row("norm.scale", "norm.scale" if original else "model.norm.weight", vocab[1:]))
    rows.append(
        Row("unembedding.weight", "unembedding.weight" if original else "lm_head.weight", vocab)
    )
    return tuple(rows)


def _attention(config: ModelConfig, layer: int, original: bool) -> Iterator[Row]:
    c, d = config, config.hidden_size
    ours = f"layers.{layer}.attn."
    theirs = f"block.{layer}.attn." if original else f"model.layers.{layer}.self_attn."
    norm = theirs + "norm.scale" if original else f"model.layers.{layer}.input_layernorm.weight"
    yield Row(ours + "norm.scale", norm, (d,))
    widths = {"q": c.q_dim, "k": c.kv_dim, "v": c.kv_dim}
    fused, first = sum(widths.values()), 0
    for letter, width in widths.items():
        for part, tail in (("weight", (d,)), ("bias", ())):
            if original:
                yield Row(
                    f"{ours}{letter}.{part}",
                    f"{theirs}qkv.{part}",
                    (fused, *tail),
                    first=first,
                    rows=width,
                )
            else:
                yield Row(f"{ours}{letter}.{part}", f"{theirs}{letter}_proj.{part}", (width, *tail))
        first += width
    if c.attention_sink == "learned":
        yield Row(ours + "sinks", theirs + "sinks", (c.num_attention_heads,))
    out = theirs + ("out." if original else "o_proj.")
    yield Row(ours + "out.weight", out + "weight", (d, c.q_dim))
    yield Row(ours + "out.bias", out + "bias", (d,))


def _mlp(config: ModelConfig, layer: int, layout: Layout) -> Iterator[Row]:
    d, original = config.hidden_size, layout == "original"
    experts, width = config.expert_shape(layer)
    ours = f"layers.{layer}.moe."
    theirs = f"block.{layer}.mlp." if original else f"model.layers.{layer}.mlp."
    norm = (
        theirs + "norm.scale"
        if original
        else f"model.layers.{layer}.post_attention_layernorm.weight"
    )
    yield Row(ours + "norm.scale", norm, (d,))
    if config.is_moe(layer):
        router = theirs + ("gate." if original else "router.")
        yield Row(ours + "router.weight", router + "weight", (experts, d))
        yield Row(ours + "router.bias", router + "bias", (experts,))
    for name, number, rows, columns in (("gate_up", 1, 2 * width, d), ("down", 2, d, width)):
        stored = f"{theirs}mlp{number}_" if original else f"{theirs}experts.{name}_proj"
        yield from _experts(f"{ours}experts.{name}.", stored, layout, (experts, rows, columns))


def _experts(ours: str, stored: str, layout: Layout, shape: tuple[int, int, int]) -> Iterator[Row]:
    experts, rows, columns = shape
    if is_packed(layout):
        weight = stored + ("weight." if layout == "original" else "_")
        groups = (experts, rows, columns // MX_BLOCK)
        yield Row(ours + "blocks", weight + "blocks", (*groups, MX_BLOCK // 2), PACKED)
        yield Row(ours + "scales", weight + "scales", groups, PACKED)
    else:
        yield Row(ours + "weight", stored, (experts, columns, rows), transposed=True)
    yield Row(
        ours + "bias", stored + ("bias" if layout == "original" else "_bias"), (experts, rows)
    )


def detect(source: Source) -> Layout:
    """The layout of a directory, by the names in it. Raises `TensorMismatchError` if it is none of
    them.
    """
    names = list(source.names())
    if any(name.startswith("block.") for name in names):
        return "original"
    if any(name.startswith("model.layers.") for name in names):
        return "hf" if any(name.endswith("_scales") for name in names) else "hf-bf16"
    raise TensorMismatchError(
        f"{source.directory}: does not hold a gpt-oss model: expected tensors named model.layers.* "
        f"or block.*, found {_some(names)}"
    )


def as_found(rows: tuple[Row, ...], source: Source) -> tuple[Row, ...]:
    """The rows under the names that the source has, where other exporters use others:

        mlp.router.linear.weight       unsloth, which trains a router in a module of its own
        experts.gate_up_projs.3.weight  unsloth: one matrix [out, in] and one bias an expert
        experts.gate_up_proj_blocks     transformers 5.23, for experts that it dequantized when
                                       reading: [E, in, out] in a floating type, without scales

    What no name of a row is found for keeps its own, and `check` says that it is missing.
    """
    found: list[Row] = []
    for row in rows:
        found += [row] if row.stored in source else _renamed(row, source)
    return tuple(found)


def _renamed(row: Row, source: Source) -> list[Row]:
    router = row.stored.replace(".mlp.router.", ".mlp.router.linear.")
    if router in source:
        return [replace(row, stored=router)]
    blocks = row.stored + "_blocks"
    if row.transposed and blocks in source and source.entry(blocks).dtype in FLOATS:
        return [replace(row, stored=blocks)]
    stem, is_bias, _ = row.stored.partition("_bias")
    part = "bias" if is_bias else "weight"
    if ".experts." not in stem or f"{stem}s.0.{part}" not in source:
        return [row]
    names = [f"{stem}s.{expert}.{part}" for expert in range(row.shape[0])]
    shape = row.native_shape[1:]
    return [Row(row.native, name, shape, row.dtypes, expert=True) for name in names]


# How folders give away what has quantized them: in their config, or in their tensors' names.
_METHODS = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "compressed-tensors": "compressed-tensors (llm-compressor)",
    "modelopt": "ModelOpt (NVFP4 or FP8)",
    "hqq": "HQQ",
    "quark": "Quark",
    "torchao": "torchao",
}
_MARKS = {
    "absmax": "bitsandbytes",
    "qweight": "GPTQ or AWQ",
    "weight_packed": "compressed-tensors (llm-compressor)",
    "weight_scale_2": "ModelOpt (NVFP4 or FP8)",
    "weight_scale": "FP8",
    "weight_scale_inv": "FP8",
    "biases": "MLX",
    ".scales": "MLX",
}


def foreign(config: Mapping[str, Any], names: Iterable[str] = ()) -> str | None:
    """Which program or format has quantized a folder in a way that is not read; None for MXFP4 as
    published or no quantization.
    """
    about = config.get("quantization_config")
    said = about if isinstance(about, Mapping) else {}
    method = said.get("quant_method")
    is_unsigned = method is None and "bits" in said
    if config.get("quantization") or is_unsigned:
        return "MLX"
    if about and method != "mxfp4":
        unnamed = f"{about!r:.80}, without a quant_method,"
        return _METHODS.get(str(method), unnamed if method is None else repr(method))
    for name in names:
        is_ours = name.startswith("block.")  # the original layout has scales, too
        for mark, whose in _MARKS.items():
            if name.endswith(mark) and not is_ours:
                return whose
    return None


def check_layers(where: object, layers: Any, tensors: int) -> None:
    """To be asked before anything is made for each layer: a config of a few bytes can claim any
    number. Raises `TensorMismatchError`.
    """
    if not isinstance(layers, int) or layers > tensors:
        raise TensorMismatchError(
            f"{where}: says that there are {shown(layers)} layers, but only {tensors} tensors are "
            "there"
        )


def check(source: Source, rows: tuple[Row, ...]) -> None:
    """Raises `TensorMismatchError` unless the source holds exactly these tensors, shapes and
    dtypes.
    """
    expected = {row.stored: row for row in rows}
    if missing := [name for name in expected if name not in source]:
        known = [name for name in source.names() if name not in expected]
        besides = f"; it has {_some(known)} besides" if known else ""
        raise TensorMismatchError(f"{source.directory}: lacks {_some(missing)}{besides}")
    if unknown := [
        name for name in source.names() if name not in expected and not _is_harmless(name)
    ]:
        raise TensorMismatchError(
            f"{source.directory}: holds tensors that the config does not imply: {_some(unknown)}"
        )
    for name, row in expected.items():
        entry = source.entry(name)
        if entry.shape != row.shape or entry.dtype not in row.dtypes:
            raise TensorMismatchError(
                f"{source.where(name)}: expected {' or '.join(row.dtypes)} {list(row.shape)}, "
                f"found {entry.dtype} {list(entry.shape)}"
            )


def _is_harmless(name: str) -> bool:
    """Rotary frequencies, which some tools save although the config determines them."""
    return name.endswith("rotary_emb.inv_freq")


def _some(names: list[str]) -> str:
    listed = ", ".join(names[:5]) or "none"
    return (
        f"{listed} and {len(names) - 5} more ({len(names)} tensors)" if len(names) > 5 else listed
    )
