"""From a directory to a model: find the checkpoint, read its config, check all, hand over views of the files.

Knows which files a directory may hold; the names inside are `names.py`, the file format is `mapped.py`.
Converts nothing: weights keep the dtype they are stored in, experts stay packed, and the model's first use
reads the disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ossia.checkpoint.mapped import INDEX, Source, inside, read_json
from ossia.checkpoint.names import Layout, Row, as_saved, check, detect, is_packed, table
from ossia.config import ModelConfig
from ossia.errors import CheckpointError, ConfigError
from ossia.model import Transformer

CONFIG = "config.json"
COMPUTE_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was opened and checked: names, shapes and dtypes are those its config implies."""

    directory: Path  # of the weights: where `original/` was chosen, that
    layout: Layout
    config: ModelConfig
    json: Mapping[str, Any]  # config.json as it was read
    source: Source
    rows: tuple[Row, ...]

    def state(self) -> dict[str, Tensor]:
        """Every tensor under its native name, as a view of its file."""
        stored = {row.stored: self.source.tensor(row.stored) for row in self.rows}
        return {row.native: row.view(stored[row.stored]) for row in self.rows}


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open and check the checkpoint in a directory, or in its `original/` if that is the only one.

    Raises `CheckpointError` (`TensorMismatchError` for a tensor) or `ConfigError`; reads headers only.
    """
    directory = _weights_directory(Path(path))
    json = read_json(inside(directory, CONFIG))
    try:
        config = ModelConfig.from_json(json)
    except ConfigError as error:
        raise ConfigError(f"{directory / CONFIG}: {error}") from error
    source = Source(directory)
    layout = detect(source)
    _check_quantization(directory / CONFIG, json)
    rows = as_saved(table(config, layout), source)
    check(source, rows)
    return Checkpoint(directory, layout, config, json, source, rows)


def load(
    path: str | os.PathLike[str],
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    device: str | torch.device = "cpu",
) -> Transformer:
    """The model in a directory, ready for inference: mapped on the CPU, or copied to `device`.

    `dtype` is what it computes in; stored weights are converted at each use. MXFP4 layouts get packed
    experts, `hf-bf16` trainable ones (though no parameter asks for a gradient yet). Raises as
    `open_checkpoint`.
    """
    if dtype not in COMPUTE_DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(COMPUTE_DTYPES)}, found {dtype!r}")
    checkpoint = open_checkpoint(path)
    with torch.device("meta"):
        model = Transformer(checkpoint.config, experts="packed" if is_packed(checkpoint.layout) else "trainable")
    model.load_state_dict(checkpoint.state(), strict=True, assign=True)
    model.compute_dtype = model.residual_dtype = COMPUTE_DTYPES[dtype]
    return model.requires_grad_(False).eval().to(device)


def _weights_directory(path: Path) -> Path:
    if not path.is_dir():
        what = "is a file; give the directory that holds it" if path.exists() else "no such directory"
        raise CheckpointError(f"{path}: {what}")
    for directory in (path, path / "original"):
        if (directory / INDEX).exists() or any(directory.glob("*.safetensors")):
            return directory
    raise CheckpointError(f"{path}: no *.safetensors files here nor in original/; other formats are not read")


def _check_quantization(path: Path, json: Mapping[str, Any]) -> None:
    """The tensors decide whether experts are packed, but a third way of packing would be read wrongly."""
    quantization = json.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    if quantization is not None and method != "mxfp4":
        raise CheckpointError(f"{path}: quantized as {method!r}; only mxfp4 (or no quantization) can be loaded")
