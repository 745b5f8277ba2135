"""From a directory to a model: find the checkpoint, read its config, check all, hand over views of
the files.

Knows which files a directory may hold; the names inside are `names.py`, the file format is
`mapped.py`. Converts nothing: weights keep the dtype they are stored in, experts stay packed, and
the model's first use reads the disk. The exception is a GGUF file (`gguf/read.py`): its experts are
laid out otherwise, so they are read, re-laid and held in memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ossia.checkpoint.gguf import read as gguf_read
from ossia.checkpoint.mapped import INDEX, Source, inside, name_files, read_json
from ossia.checkpoint.names import (
    Layout,
    Row,
    as_saved,
    check,
    check_layers,
    detect,
    is_packed,
    table,
)
from ossia.checkpoint.writer import Progress
from ossia.config import ModelConfig
from ossia.errors import CheckpointError, ConfigError
from ossia.model import Transformer

CONFIG = "config.json"
COMPUTE_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was opened and checked: names, shapes and dtypes are those its config
    implies.
    """

    directory: Path  # of the weights: where `original/` was chosen, that
    layout: Layout | Literal["gguf"]
    config: ModelConfig
    json: Mapping[str, Any]  # config.json as it was read; of a GGUF file, nothing
    source: Source | gguf_read.GgufSource
    rows: tuple[Row, ...]
    relaid: gguf_read.GgufState | None = None  # of a GGUF file: its tensors in native form

    def state(self) -> Mapping[str, Tensor]:
        """Every tensor under its native name, as a view of its file.

        Tensors that a GGUF file holds in another form are re-laid each time they are asked for.
        """
        if self.relaid is not None:
            return self.relaid
        stored = {row.stored: self.source.tensor(row.stored) for row in self.rows}
        return {row.native: row.view(stored[row.stored]) for row in self.rows}


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open and check the checkpoint in a directory, or in its `original/` if that is the only one;
    or a GGUF file, by its path or that of a folder with one and no safetensors.

    Raises `CheckpointError` (`TensorMismatchError` for a tensor) or `ConfigError`; reads headers
    only.
    """
    if (file := gguf_read.find(Path(path))) is not None:
        config, opened, rows, state = gguf_read.open_gguf(file)
        return Checkpoint(file.parent, "gguf", config, {}, opened, rows, state)
    directory = _weights_directory(Path(path))
    json = read_json(inside(directory, CONFIG))
    try:
        config = ModelConfig.from_json(json)
    except ConfigError as error:
        raise ConfigError(f"{directory / CONFIG}: {error}") from error
    source = Source(directory)
    layout = detect(source)
    check_layers(directory / CONFIG, config.num_hidden_layers, len([*source.names()]))
    _check_quantization(directory / CONFIG, json)
    rows = as_saved(table(config, layout), source)
    check(source, rows)
    return Checkpoint(directory, layout, config, json, source, rows)


def load(
    path: str | os.PathLike[str],
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Transformer:
    """The model in a directory or GGUF file, ready for inference: mapped on the CPU, or copied to
    `device`.

    A GGUF's experts, and matrices in Q8_0 (which become float16: off by at most 2^-11 of each
    value), are copied into memory; `progress` hears of tensors done and in all. `dtype` is what it
    computes in; stored weights are converted at each use. MXFP4 layouts get packed experts,
    `hf-bf16` trainable ones (though no parameter asks for a gradient yet). Raises as
    `open_checkpoint`.
    """
    if dtype not in COMPUTE_DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(COMPUTE_DTYPES)}, found {dtype!r}")
    checkpoint = open_checkpoint(path)
    name_files()  # before weights are read
    experts: Literal["packed", "trainable"] = "trainable"
    if is_packed(checkpoint.layout):
        experts = "packed"
    with torch.device("meta"):
        model = Transformer(checkpoint.config, experts=experts)
    model.load_state_dict(_gathered(checkpoint.state(), progress), strict=True, assign=True)
    model.compute_dtype = COMPUTE_DTYPES[dtype]
    model.kv_kind = "bf16" if dtype == "bfloat16" else "float32"
    return model.requires_grad_(False).eval().to(device)


def _gathered(state: Mapping[str, Tensor], progress: Progress | None) -> dict[str, Tensor]:
    """All tensors at once; those that have to be re-laid are, here."""
    found = {}
    for name, tensor in state.items():
        found[name] = tensor
        if progress is not None:
            progress(len(found), len(state))
    return found


def _weights_directory(path: Path) -> Path:
    if not path.exists():
        raise CheckpointError(f"{path}: no such directory")
    if not path.is_dir():
        raise CheckpointError(f"{path}: is a file, not a GGUF; give the directory that holds it")
    for directory in (path, path / "original"):
        if (directory / INDEX).exists() or any(directory.glob("*.safetensors")):
            return directory
    raise CheckpointError(
        f"{path}: no *.safetensors files here nor in original/, and no GGUF; other formats are not "
        "read"
    )


def _check_quantization(path: Path, json: Mapping[str, Any]) -> None:
    """The tensors decide whether experts are packed, but a third way of packing would be read
    wrongly.
    """
    quantization = json.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    if quantization is not None and method != "mxfp4":
        raise CheckpointError(
            f"{path}: quantized as {method!r}; only mxfp4 (or no quantization) can be loaded"
        )
