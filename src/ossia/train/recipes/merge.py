"""Put the low-rank changes of a run, or of a peft adapter, into the model they are for, and write a
checkpoint in MXFP4.

    ossia train merge model=gpt-oss-20b adapter=runs/mine/train --out runs/merged
    ossia chat runs/merged/model

What merging does is `merge.py`; this is its command.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ossia import hub
from ossia.checkpoint import open_checkpoint, peft
from ossia.checkpoint.adapter import SETTINGS
from ossia.errors import ConfigError
from ossia.mxfp4 import ScaleRule
from ossia.train.pipeline import Phase
from ossia.train.recipes.sft import config_of, fingerprint, is_preset, stored_bytes
from ossia.train.weights.merge import merge, same_layout


@dataclass(frozen=True)
class Config:
    """What `key=value` can set. `adapter` must be given."""

    # that the changes are for: nano, gpt-oss-20b, a folder, a GGUF, or a Hugging Face id
    model: str = "nano"
    # of the run with LoRA, or of peft: a folder, or a Hugging Face id
    adapter: Path | None = None
    rule: ScaleRule = "rceil"  # for the scales of the MXFP4 blocks that change
    layout: Literal["same", "hf", "original", "hf-bf16"] = "same"  # of what is written


def phases(config: Config, out: Path) -> list[Phase]:
    """One: read, add, write. Raises `ConfigError` if no adapter is given, `ModelNotFoundError` if
    there is no such model or adapter.
    """
    if config.adapter is None:
        raise ConfigError("say what to merge: adapter=FOLDER, of a run with LoRA or of peft")
    adapter = hub.find(config.adapter)
    settings = asdict(config)
    settings["adapter"] = str(adapter)
    settings["changes"] = fingerprint(adapter.glob("*.safetensors"))

    def run() -> None:
        base = hub.find(config.model)
        layout = None if config.layout == "same" else config.layout
        print(merge(base, adapter, out / "model", config.rule, layout=layout, overwrite=True))
        print(f"try it: ossia chat {out / 'model'}")

    written = config.layout
    if written == "same":
        written = (
            "hf"
            if is_preset(config.model)
            else same_layout(open_checkpoint(hub.find(config.model)))
        )
    disk = stored_bytes(config_of(config.model, hub.find), written)
    does = "Add the changes and write the model."
    needs = (adapter / (peft.SETTINGS if (adapter / peft.SETTINGS).exists() else SETTINGS),)
    return [Phase("merge", does, run, settings=settings, needs=needs, disk=disk)]
