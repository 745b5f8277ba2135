"""What recipes share that begin with a model that somebody has made: its shape, its tokenizer,
weights that were trained from it, and how it is fine-tuned. No files of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ossia.checkpoint import export, open_checkpoint
from ossia.config import ModelConfig
from ossia.model import Transformer
from ossia.tokenizer import Tokenizer
from ossia.train.overrides import keys
from ossia.train.recipes.sft import base_folder, tokenizer_of
from ossia.train.settings import Balance, Hyperparameters
from ossia.train.weights.export import load_weights

# of every weight, as recipes/nano.py makes the model
FULL_UPDATES = Hyperparameters(
    peak_lr=5e-3,
    warmup=20,
    decay=0.6,
    floor=0.1,
    weight_decay=0.0,
    balance=Balance("none", router_z=0.0),
)


@dataclass(frozen=True)
class Begun:
    """`model`: nano, a folder, or a Hugging Face id."""

    model: str

    @property
    def folder(self) -> Path:
        return base_folder(self.model)

    @cached_property
    def shape(self) -> ModelConfig:
        return open_checkpoint(self.folder).config

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.folder)

    @property
    def digest(self) -> str:
        """Of the weights: another nano is another beginning."""
        found = hashlib.sha256()
        for path in sorted(self.folder.glob("*.safetensors")):
            found.update(path.read_bytes())
        return found.hexdigest()[:12]

    def weights(self, trained: Path) -> Transformer:
        """What a run from this model has left, to sample from."""
        return load_weights(self.shape, trained).eval().requires_grad_(False)

    def export(self, trained: Path, place: Path) -> None:
        """That as a checkpoint, with the experts as they are: what begins with it does so with
        these weights to the bit.
        """
        export(self.weights(trained), place, "hf-bf16", overwrite=True, companions=self.folder)


def command(recipe: str, config: Any) -> str:
    """That makes a page again: with all that differs from the recipe's own settings, but for where
    the page goes.
    """
    usual = {key.name: key.value for key in keys(type(config)())}
    said = [f"ossia train recipes/{recipe} profile={config.profile}"]
    for key in keys(config):
        if key.name not in ("profile", "docs") and key.value != usual.get(key.name):
            said.append(f"{key.name}={key.value}")
    return " ".join(said)
