"""Low-rank changes of a run: put onto a model to be trained on or measured, and written for peft.

Reading them from a folder and checking them is `checkpoint/adapter.py`; what a change does in
training is `lora.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ossia.checkpoint import peft
from ossia.checkpoint.adapter import SETTINGS, A, Adapter, read_adapter
from ossia.checkpoint.mapped import read_json
from ossia.errors import CheckpointError, ConfigError
from ossia.model import Transformer
from ossia.train.settings import Lora
from ossia.train.weights.lora import attach, lora_parameters

_PEFT_NAMES = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj"}


def load_adapter(model: Transformer, folder: Path) -> Transformer:
    """Attach the changes that a run left in `folder` to `model`, in place, as `attach` does. Raises
    `CheckpointError` if they are for another one.
    """
    adapter = read_adapter(folder, model.config)
    settings = read_json(folder / SETTINGS)
    settings.pop("ossia", None)
    try:
        attach(model, Lora(**settings))
    except (TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{folder / SETTINGS}: not the settings of an adapter: {error}"
        ) from error
    with torch.no_grad():
        for name, p in lora_parameters(model).items():
            stem, _, letter = name.rpartition(".")
            change = adapter.changes[stem]
            p.copy_(change.a if letter == A else change.b)
    return model


def save_peft(adapter: Adapter, folder: Path, base: str) -> None:
    """Write the adapter in the form of the `peft` library, for a base model it can find as `base`.

    Attention only: peft keeps changes of experts in another form. Raises `ConfigError` for an
    adapter that has them.
    """
    if adapter.experts:
        raise ConfigError(
            "only changes of attention can be written for peft; train with lora.experts=false, or "
            "merge"
        )
    tensors = {}
    rank, alpha = 0, 0.0
    for stem, change in adapter.changes.items():
        _, layer, _, matrix = stem.split(".")
        path = f"base_model.model.model.layers.{layer}.self_attn.{_PEFT_NAMES[matrix]}"
        tensors[f"{path}.lora_A.weight"] = change.a.clone()
        tensors[f"{path}.lora_B.weight"] = change.b.clone()
        rank = len(change.a)
        alpha = change.scale * rank
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(_PEFT_NAMES.values()),
        "inference_mode": True,
        "fan_in_fan_out": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, folder / peft.WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(settings, indent=2) + "\n"
    (folder / peft.SETTINGS).write_text(text, encoding="utf-8")
