"""Low-rank changes as files: what a run with LoRA leaves in its folder, read, checked and put onto
a model again.

Three files: `weights.safetensors` with the changes alone, `config.json` of the model,
`adapter.json` with the settings. Knows what they must agree on; what a change does is `lora.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ossia.checkpoint.mapped import MappedFile, read_json
from ossia.config import ModelConfig
from ossia.errors import CheckpointError, ConfigError
from ossia.model import Transformer
from ossia.train.settings import Lora
from ossia.train.weights.export import CONFIG, WEIGHTS, Shapes, difference, shapes
from ossia.train.weights.lora import ADAPTER, A, B, attach, lora_parameters


@dataclass(frozen=True)
class Adapter:
    """The low-rank changes that a run left in a folder, checked against the architecture they are
    for.
    """

    folder: Path
    lora: Lora
    config: ModelConfig
    tensors: Mapping[str, Tensor]  # views of the file

    @property
    def scale(self) -> float:
        return self.lora.alpha / self.lora.rank

    def factors(self, matrix: str) -> tuple[Tensor, Tensor] | None:
        """(a, b) of a native matrix, such as `layers.0.attn.q` or `layers.0.moe.experts.down`; None
        if it has none.
        """
        a = self.tensors.get(f"{matrix}.{A}")
        b = self.tensors.get(f"{matrix}.{B}")
        if a is None or b is None:
            return None
        return a, b


def read_adapter(folder: Path) -> Adapter:
    """Raises `CheckpointError` if the folder holds no adapter, or one whose tensors are not what
    its settings say.
    """
    if not (folder / ADAPTER).exists():
        raise CheckpointError(
            f"{folder}: no {ADAPTER}: give the folder of a run with LoRA that came to its end"
        )
    data = read_json(folder / ADAPTER)
    fields = {key: value for key, value in data.items() if key != "ossia"}
    try:
        lora = Lora(**fields)
    except (TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{folder / ADAPTER}: not the settings of an adapter: {error}"
        ) from error
    try:
        config = ModelConfig.from_json(read_json(folder / CONFIG))
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
    file = MappedFile(folder / WEIGHTS)
    tensors = {name: file.tensor(name) for name in file.entries}
    _check_tensors(folder / WEIGHTS, tensors, dict(expected_shapes(config, lora)))
    return Adapter(folder, lora, config, tensors)


def expected_shapes(config: ModelConfig, lora: Lora) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor of an adapter."""
    c = config
    r = lora.rank
    attention = {
        "q": (c.q_dim, c.hidden_size),
        "k": (c.kv_dim, c.hidden_size),
        "v": (c.kv_dim, c.hidden_size),
        "out": (c.hidden_size, c.q_dim),
    }
    for layer in range(c.num_hidden_layers):
        if lora.attention:
            for name, (rows, columns) in attention.items():
                stem = f"layers.{layer}.attn.{name}"
                yield f"{stem}.{A}", (r, columns)
                yield f"{stem}.{B}", (rows, r)
        if lora.experts:
            count, width = c.expert_shape(layer)
            experts = {"gate_up": (2 * width, c.hidden_size), "down": (c.hidden_size, width)}
            for name, (rows, columns) in experts.items():
                stem = f"layers.{layer}.moe.experts.{name}"
                yield f"{stem}.{A}", (count, r, columns)
                yield f"{stem}.{B}", (count, rows, r)


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], expected: Shapes) -> None:
    differ = difference(expected, shapes(tensors))
    if differ is not None:
        raise CheckpointError(f"{path}: not what the adapter's settings say: {differ}")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds values that are infinite or not a number")


def load_adapter(model: Transformer, folder: Path) -> Transformer:
    """Attach the changes in `folder` to `model`, in place. Raises `CheckpointError` if they are for
    another one.
    """
    adapter = read_adapter(folder)
    check_base(adapter, model.config)
    attach(model, adapter.lora)
    with torch.no_grad():
        for name, p in lora_parameters(model).items():
            p.copy_(adapter.tensors[name])
    return model


def check_base(adapter: Adapter, config: ModelConfig) -> None:
    """Raises `CheckpointError` if the adapter's tensors do not fit a model of this config."""
    wanted = dict(expected_shapes(config, adapter.lora))
    found = dict(expected_shapes(adapter.config, adapter.lora))
    if found != wanted:
        raise CheckpointError(
            f"{adapter.folder}: was trained on a model of other shapes; merge it into that one"
        )


# ---- other tools ----

_PEFT_NAMES = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj"}


def save_peft(adapter: Adapter, folder: Path, base: str) -> None:
    """Write the adapter in the form of the `peft` library, for a base model it can find as `base`.

    Attention only: peft keeps changes of experts in another form. Raises `ConfigError` for an
    adapter that has them.
    """
    if adapter.lora.experts:
        raise ConfigError(
            "only changes of attention can be written for peft; train with lora.experts=false, or "
            "merge"
        )
    tensors = {}
    for name, tensor in adapter.tensors.items():
        _, layer, _, matrix, letter = name.split(".")
        path = f"base_model.model.model.layers.{layer}.self_attn.{_PEFT_NAMES[matrix]}"
        tensors[f"{path}.lora_{letter[-1].upper()}.weight"] = tensor.clone()
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.lora.rank,
        "lora_alpha": adapter.lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(_PEFT_NAMES.values()),
        "inference_mode": True,
        "fan_in_fan_out": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(
        tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"}
    )
    (folder / "adapter_config.json").write_text(
        json.dumps(settings, indent=2) + "\n", encoding="utf-8"
    )
