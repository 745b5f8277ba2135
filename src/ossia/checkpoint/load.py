"""From a directory to a model: find the checkpoint, read its config, check all, hand over views of
the files.

Knows which files a directory may hold; the names inside are `names.py`, the file format is
`mapped.py`. Converts nothing: weights keep the dtype they are stored in, experts stay packed, and
the model's first use reads the disk. The exceptions are held in memory: what a GGUF file lays out
otherwise (`gguf/read.py`), experts stored one by one, and what is changed or rounded while it is
loaded (`fitted.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from ossia.checkpoint.adapter import Change, is_adapter, read_adapter
from ossia.checkpoint.fitted import Fitted, Tally, fit
from ossia.checkpoint.gguf import read as gguf_read
from ossia.checkpoint.mapped import INDEX, Source, inside, name_files, read_json
from ossia.checkpoint.names import (
    Layout,
    Row,
    Tensors,
    as_found,
    check,
    check_layers,
    detect,
    foreign,
    table,
    tensors,
)
from ossia.checkpoint.peft import SETTINGS as PEFT_SETTINGS
from ossia.checkpoint.writer import Progress
from ossia.config import ModelConfig
from ossia.errors import CheckpointError, ConfigError
from ossia.model import Transformer
from ossia.model.moe import ChangedExperts

if TYPE_CHECKING:
    from ossia.model.processes import Spread

CONFIG = "config.json"
PICKLES = ("*.bin", "*.pt", "*.pth")
ExpertsAs = Literal["stored", "mxfp4"]
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
    # Under their native names: views of the files, or made anew each time they are asked for where
    # a file holds them in another form.
    tensors: Tensors

    @property
    def packed(self) -> bool:
        """Whether the experts are in MXFP4."""
        return any(name.endswith(".blocks") for name in self.tensors)

    @property
    def file(self) -> Path:
        """The GGUF file, of one in parts the first; else the directory."""
        if self.layout != "gguf":
            return self.directory
        return self.source.path  # type: ignore[union-attr]


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open and check the checkpoint in a directory, or in its `original/` if that is the only one;
    or a GGUF file, by its path (of one in parts, any) or that of a folder with one and no
    safetensors.

    Raises `CheckpointError` (`TensorMismatchError` for a tensor) or `ConfigError`; reads headers
    only.
    """
    if (file := gguf_read.find(Path(path))) is not None:
        config, opened, rows, state = gguf_read.open_gguf(file)
        return Checkpoint(file.parent, "gguf", config, {}, opened, rows, state)
    directory = _weights_directory(Path(path))
    json = read_json(inside(directory, CONFIG))
    _refuse_foreign(directory, foreign(json))
    try:
        config = ModelConfig.from_json(json)
    except ConfigError as error:
        raise ConfigError(f"{directory / CONFIG}: {error}") from error
    source = Source(directory)
    _refuse_foreign(directory, foreign({}, source.names()))
    layout = detect(source)
    check_layers(directory / CONFIG, config.num_hidden_layers, len([*source.names()]))
    rows = as_found(table(config, layout), source)
    check(source, rows)
    return Checkpoint(directory, layout, config, json, source, rows, tensors(source, rows))


def load(
    path: str | os.PathLike[str],
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    *,
    adapter: str | os.PathLike[str] | None = None,
    experts: ExpertsAs = "stored",
    spread: Spread | None = None,
) -> Transformer:
    """The model in a directory or GGUF file, ready for inference: mapped on the CPU, or copied to
    `device`.

    A GGUF's experts, and what it stores in blocks (which becomes float16: off by at most 2^-11 of
    each value), are copied into memory; `progress` hears of tensors done and in all. `dtype` is
    what it computes in; stored weights are converted at each use. MXFP4 layouts get packed experts,
    others trainable ones (though no parameter asks for a gradient yet). With `experts` "mxfp4" all
    are packed: those in floating types are rounded, and `rounding` of the model says what that
    cost. `adapter` is a folder of low-rank changes (`adapter.py`): dense matrices take them up, so
    do experts that are not packed, or are rounded; packed ones have them beside. `spread`: the part
    of the model that this process has is loaded; of safetensors, no other part is read. Raises as
    `open_checkpoint` and `read_adapter`, and `ConfigError` for what cannot be spread.
    """
    for value, allowed in ((dtype, COMPUTE_DTYPES), (experts, get_args(ExpertsAs))):
        if value not in allowed:
            raise ConfigError(f"expected one of {', '.join(allowed)}, found {value!r}")
    checkpoint = open_checkpoint(path)
    name_files()  # before weights are read
    changes: Mapping[str, Change] = {}
    if adapter is not None:
        changes = read_adapter(Path(adapter), checkpoint.config).changes
    tally = Tally("rceil") if experts == "mxfp4" else None
    if tally is not None:
        table(checkpoint.config, "hf")  # raises if MXFP4 cannot hold its shapes
    fitted = fit(checkpoint.tensors, changes, tally, dtype == "float32", progress)
    is_packed = checkpoint.packed or tally is not None
    with torch.device("meta"):
        model = Transformer(checkpoint.config, experts="packed" if is_packed else "trainable")
    if spread is not None:
        _spread(model, fitted, spread, is_packed)
    model.load_state_dict(fitted.tensors, strict=True, assign=True)
    for stem, change in fitted.beside.items():
        home, _, leaf = stem.rpartition(".")
        base = model.get_submodule(stem)
        changed = ChangedExperts(base, change.a, change.b, change.scale)
        setattr(model.get_submodule(home), leaf, changed)
    model.rounding = tally.error if tally is not None else None
    model.compute_dtype = COMPUTE_DTYPES[dtype]
    model.kv_kind = "bf16" if dtype == "bfloat16" else "float32"
    model.requires_grad_(False).eval()
    try:
        return model.to(device)
    except torch.OutOfMemoryError as error:
        weights = (*model.parameters(), *model.buffers())
        size = sum(weight.nbytes for weight in weights)
        raise ConfigError(
            f"weights of {size / 1e9:.1f} GB do not fit into the memory of {device} ({error}); "
            "spread them over several: --parallel ep=2 under torchrun, or compute on the CPU"
        ) from error


def _spread(model: Transformer, fitted: Fitted, spread: Spread, is_packed: bool) -> None:
    """`model`, without memory, and its tensors become those of one process."""
    from ossia.model import spread as spreading  # imports much of torch

    spreading.check_parts(model.config, spread.parts, is_packed)
    if fitted.beside:
        raise ConfigError(
            "an adapter's changes of experts in MXFP4 cannot be spread over processes: "
            "--experts mxfp4 rounds them in, or write a model with them: ossia train merge "
            "model=BASE adapter=ADAPTER --out DIR"
        )
    spreading.apply(model, spread)
    for name, whole in fitted.tensors.items():
        fitted.tensors[name] = spreading.part_of(name, whole, model.config, spread)


def _weights_directory(path: Path) -> Path:
    if not path.exists():
        raise CheckpointError(f"{path}: no such directory")
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: is a file, not a GGUF; give a GGUF file, or the directory that holds "
            f"{CONFIG} and *.safetensors"
        )
    if is_adapter(path):
        raise CheckpointError(
            f"{path}: is an adapter, changes to a model and no model{_base_of(path)}. Give the "
            f"base and the changes: --adapter {path}, or merge them: ossia train merge model=BASE "
            f"adapter={path} --out DIR"
        )
    for directory in (path, path / "original"):
        if (directory / INDEX).exists() or any(directory.glob("*.safetensors")):
            return directory
    pickles = [file.name for pattern in PICKLES for file in path.glob(pattern)]
    raise CheckpointError(
        f"{path}: no *.safetensors files here nor in original/, and no GGUF; other formats are not "
        + (f"read: save {pickles[0]} again, with safe_serialization=True" if pickles else "read")
    )


def _base_of(adapter: Path) -> str:
    path = adapter / PEFT_SETTINGS
    base = read_json(path).get("base_model_name_or_path") if path.exists() else None
    return f" (of {base!r:.200})" if base else ""


def _refuse_foreign(directory: Path, whose: str | None) -> None:
    if whose is not None:
        raise CheckpointError(
            f"{directory}: quantized as {whose}, which ossia does not read. Take the model that it "
            "was made from: in MXFP4 as published (openai/gpt-oss-20b), in bfloat16, or a GGUF; or "
            "let the program that made it write bfloat16"
        )
