"""A small model's GGUF files, made anew by the gguf package: other names, formats and parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as peer
import numpy as np
import torch
from torch import Tensor

from ossia.batch import Batch
from ossia.checkpoint import load, open_checkpoint
from ossia.config import ModelConfig

Array = np.ndarray[Any, Any]
Stored = tuple[str, Array, peer.GGMLQuantizationType]
Change = Callable[[Any], list[Stored]]

SMALL = ModelConfig(
    num_hidden_layers=2,
    hidden_size=96,
    intermediate_size=64,
    num_experts=5,
    experts_per_token=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=321,
    sliding_window=7,
    initial_context_length=32,
    max_context_length=256,
    rope_theta=10000.0,
    rope_scaling_factor=8.0,
    rope_ntk_beta=4.0,
)


def logits(path: Path, length: int = 40) -> Tensor:
    model = load(path)
    tokens = torch.randint(
        0, model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        found: Tensor = model(tokens, Batch.packed([length]))
    return found


def assert_same(first: Path, second: Path) -> None:
    """Every native tensor has the same values; packed experts the same bytes."""
    a, b = open_checkpoint(first).tensors, open_checkpoint(second).tensors
    assert set(a) == set(b)
    for name in a:
        assert a[name].shape == b[name].shape, name
        assert torch.equal(a[name].float(), b[name].float()), name


def as_it_is(tensor: Any) -> list[Stored]:
    return [(tensor.name, tensor.data, tensor.tensor_type)]


def written(
    target: Path,
    source: Path,
    change: Change = as_it_is,
    *,
    tensors: slice = slice(None),
    keys: bool = True,
    more: dict[str, int] | None = None,
) -> Path:
    """A GGUF by the gguf package: tensors of another as `change` makes them, with its metadata or
    without.
    """
    reader = peer.GGUFReader(source)
    writer = peer.GGUFWriter(target, "gpt-oss")
    for name, field in reader.fields.items():
        if keys and not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0])
    for name, value in (more or {}).items():
        writer.add_key_value(name, value, peer.GGUFValueType.INT32)
    for tensor in list(reader.tensors)[tensors]:
        for name, data, kind in change(tensor):
            writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def values(tensor: Any) -> Array:
    return peer.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
