"""The weights of a run: where they come from, and the folder that it leaves behind.

`weights.safetensors` holds float32 tensors under native names, and `config.json` the architecture
in the original layout's keys. A run with LoRA leaves the low-rank changes alone: the rest is where
it started from. Publishing (MXFP4, the two published layouts) is `checkpoint.export`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ossia import mxfp4
from ossia.checkpoint import load, open_checkpoint
from ossia.checkpoint.adapter import SETTINGS
from ossia.checkpoint.gguf.read import parts_of
from ossia.config import ModelConfig
from ossia.errors import CheckpointError
from ossia.model import Transformer
from ossia.train.optim import trained
from ossia.train.run import Run
from ossia.train.state import write_whole
from ossia.train.weights.device import device_of
from ossia.train.weights.lora import attach, describe_adapter
from ossia.train.weights.quantization import set_fake_quantize

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
SAMPLE = 1 << 16  # bytes at both ends of a file that stand for all of it
Tensors = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def start(run: Run) -> Transformer:
    """The model that `run` begins with, in training mode: fresh, from a run's folder, or from a
    released checkpoint, whose experts become trainable matrices (with LoRA they stay packed). It
    has the architecture of `run.config`, and lies on the run's device; fresh weights are the same
    on every one.

    Raises `CheckpointError` if the weights are of other shapes, `ConfigError` if there is no such
    device.
    """
    if run.lora is not None:
        model = _frozen(run)
    elif run.start_from is None:
        model = Transformer(run.config)
        model.init_weights(run.hyper.seed)
    else:
        model = load_weights(run.config, run.start_from)
    set_fake_quantize(model, run.quantize)
    model.compute_dtype = getattr(torch, run.hyper.precision)
    return model.to(device_of(run)).train()


def _frozen(run: Run) -> Transformer:
    """The model that LoRA changes, with its low-rank parts in place."""
    assert run.start_from is not None and run.lora is not None
    if (run.start_from / WEIGHTS).exists():
        model = load_weights(run.config, run.start_from)
    else:
        model = load(run.start_from, run.hyper.precision)
        if model.config != run.config:
            model = _rebuilt(model, run.config)
    attach(model.requires_grad_(False), run.lora, run.hyper.seed)
    return model


def _rebuilt(model: Transformer, config: ModelConfig) -> Transformer:
    """The same tensors in another architecture."""
    with torch.device("meta"):
        other = Transformer(config, experts="packed")
    state = model.state_dict()
    _check(other.state_dict(), state, "the checkpoint")
    other.load_state_dict(state, assign=True)
    return other


def load_weights(into: Transformer | ModelConfig, folder: Path) -> Transformer:
    """The model (a new one, if given a config) with the weights in `folder`: a run's or a released
    checkpoint's.

    Raises `CheckpointError` if there are none, or if names or shapes differ.
    """
    model = Transformer(into) if isinstance(into, ModelConfig) else into
    path = folder / WEIGHTS
    state = _read(path) if path.exists() else _of_checkpoint(folder)
    _check(model.state_dict(), state, str(folder))
    model.load_state_dict(state)
    return model


@torch.no_grad()
def restore(model: Transformer, folder: Path) -> Transformer:
    """`model`, as `start` makes it, with the weights that its run has trained."""
    state = _read(folder / WEIGHTS)
    wanted = trained(model)
    _check(wanted, state, str(folder))
    for name, p in wanted.items():
        if hasattr(p, "full_tensor"):  # on several processes: each takes its part
            from ossia.model.parallel import assign

            assign(p, state[name])
        else:
            p.copy_(state[name])
    return model


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _of_checkpoint(folder: Path) -> dict[str, Tensor]:
    """Every tensor in float32, packed experts as matrices."""
    state = open_checkpoint(folder).tensors
    out = {}
    for name, tensor in state.items():
        stem = name.removesuffix("blocks")
        if stem != name:
            scales = state[stem + "scales"]
            out[stem + "weight"] = mxfp4.decode(tensor, scales, torch.float32)
        elif not name.endswith(".scales"):
            out[name] = tensor.float()
    return out


def _check(into: Tensors, state: Tensors, where: str) -> None:
    differ = difference(shapes(into), shapes(state))
    if differ is not None:
        raise CheckpointError(f"{where}: not the weights of this architecture: {differ}")


def difference(wanted: Shapes, found: Shapes) -> str | None:
    """Between the tensors that are wanted and those that were found, in words; None for none."""
    names = sorted(wanted.keys() | found.keys())
    differing = [name for name in names if wanted.get(name) != found.get(name)]
    if not differing:
        return None
    name = differing[0]
    expected = wanted.get(name, "nothing")
    return (
        f"{len(differing)} tensors differ, among them {name}: expected {expected}, "
        f"found {found.get(name, 'nothing')}"
    )


def shapes(tensors: Tensors) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def save_weights(model: Transformer, folder: Path) -> None:
    """Write what `model` trains to `folder`. The file of weights comes last, and whole.

    Raises `TrainingError` if the disk is full.
    """
    tensors: dict[str, Tensor] = {}
    for name, p in trained(model).items():
        value = p.detach().float().cpu()
        tensors[name] = value.contiguous()
    config = json.dumps(model.config.to_original_json(), indent=2) + "\n"
    write_whole(folder / CONFIG, config.encode())
    settings = describe_adapter(model)
    if settings is not None:
        write_whole(folder / SETTINGS, settings)
    data = safetensors.torch.save(tensors, {"format": "pt"})
    write_whole(folder / WEIGHTS, data)


def fingerprint(folder: Path | None) -> str | None:
    """Tells the weights that a run starts from from others, wherever the folder lies: a hash of the
    sizes, beginnings and ends of its files. Raises `CheckpointError` if there are none.
    """
    if folder is None:
        return None
    files = _weight_files(folder)
    if not files:
        raise CheckpointError(
            f"{folder}: no weights to start from: neither {WEIGHTS} of a run nor a checkpoint"
        )
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            size = path.stat().st_size
            digest.update(str(size).encode())
            digest.update(file.read(SAMPLE))
            file.seek(max(0, size - SAMPLE))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def _weight_files(place: Path) -> list[Path]:
    """The file and its other parts, those of a run, or those of a checkpoint; else none."""
    if place.is_file():
        return parts_of(place)
    if (place / WEIGHTS).is_file():
        return [place / WEIGHTS]
    for folder in (place, place / "original"):
        files = [*folder.glob("*.safetensors"), *folder.glob("*.gguf")]
        if files:
            return sorted(files)
    return []
