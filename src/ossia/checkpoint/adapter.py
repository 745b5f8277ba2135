"""Low-rank changes to a model's matrices, W + scale * B A: read from a folder, checked against the
base, added.

Two forms of folder: what `ossia train` leaves of a run with LoRA, and peft's (`peft.py`). Knows
what a change is and how the sum is rounded; training them is train/weights/lora.py, writing a
merged checkpoint train/weights/merge.py.

E experts, r rank.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ossia import mxfp4
from ossia.checkpoint import peft
from ossia.checkpoint.mapped import MappedFile, inside, name_files, read_json
from ossia.checkpoint.names import Row, table
from ossia.config import ModelConfig
from ossia.errors import CheckpointError

SETTINGS = "adapter.json"
WEIGHTS = "weights.safetensors"
A, B = "lora_a", "lora_b"


@dataclass(frozen=True)
class Change:
    """scale * b @ a of a matrix [outputs, inputs]; of experts, of each: a [.., r, inputs], b [..,
    outputs, r].
    """

    a: Tensor
    b: Tensor
    scale: float

    def delta(self, expert: int | None = None, rows: slice = slice(None)) -> Tensor:
        """What is added to these rows of the matrix, or of that of one expert, in float32."""
        a = self.a
        b = self.b
        if expert is not None:
            a = a[expert]
            b = b[expert]
        # copied off the file: products depend on alignment
        own_a = a.float().clone()
        own_b = b[rows].float().clone()
        product = own_b @ own_a
        return product.mul_(self.scale)


@dataclass(frozen=True)
class Adapter:
    """The changes in a folder, by native names such as `layers.0.attn.q` and
    `layers.0.moe.experts.down`.
    """

    folder: Path
    changes: Mapping[str, Change]

    @property
    def experts(self) -> bool:
        """Whether experts are changed."""
        return any(".experts." in stem for stem in self.changes)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds changes and no model."""
    if (folder / peft.SETTINGS).exists():
        names = [path.name for path in folder.glob("*.safetensors")]
        return not any(name.startswith("model") for name in names)
    return (folder / SETTINGS).exists()


def read_adapter(folder: Path, config: ModelConfig) -> Adapter:
    """The changes in `folder`, which are for a model of `config`.

    Raises `CheckpointError` if it holds none, if they are of a kind that is not read, or if they do
    not fit.
    """
    rows = {}
    for row in table(config, "hf-bf16"):
        if row.native.endswith(".weight"):
            rows[row.native.removesuffix(".weight")] = row
    if (folder / peft.SETTINGS).exists():
        factors = peft.read(folder, rows)
        found = {stem: Change(*its) for stem, its in factors.items()}
    elif (folder / SETTINGS).exists():
        found = _of_a_run(folder, rows)
    else:
        raise CheckpointError(
            f"{folder}: no adapter: neither {SETTINGS}, which a run with LoRA leaves when it came "
            f"to its end, nor peft's {peft.SETTINGS}"
        )
    for stem, change in found.items():
        _check(folder, stem, change, rows[stem].native_shape)
    return Adapter(folder, found)


def _of_a_run(folder: Path, rows: Mapping[str, Row]) -> dict[str, Change]:
    settings = read_json(folder / SETTINGS)
    rank = settings.pop("rank", None)
    alpha = settings.pop("alpha", None)
    attention = settings.pop("attention", True)
    experts = settings.pop("experts", True)
    settings.pop("ossia", None)
    is_rank = type(rank) is int and rank >= 1
    is_alpha = type(alpha) in (int, float) and abs(alpha) <= sys.float_info.max
    if not is_rank or not is_alpha or settings:
        raise CheckpointError(
            f"{folder / SETTINGS}: not the settings of an adapter: rank {rank!r}, alpha {alpha!r}, "
            f"unknown {sorted(settings)}; give the folder of a run as it was left"
        )
    wanted = [stem for stem in rows if attention and ".attn." in stem]
    wanted += [stem for stem in rows if experts and ".experts." in stem]
    file = MappedFile(inside(folder, WEIGHTS))
    name_files()
    names = {f"{stem}.{letter}" for stem in wanted for letter in (A, B)}
    if differing := sorted(names ^ set(file.entries)):
        raise CheckpointError(
            f"{file.path}: not what {SETTINGS} says, or for a model of other shapes: "
            f"{len(differing)} tensors differ, among them {differing[0]}"
        )
    found = {}
    for stem in wanted:
        a = file.tensor(f"{stem}.{A}")
        b = file.tensor(f"{stem}.{B}")
        if a.dim() < 2 or a.shape[-2] != rank:
            raise CheckpointError(
                f"{file.path}: {stem}.{A} is {list(a.shape)}, expected rank {rank} as {SETTINGS} "
                "says"
            )
        found[stem] = Change(a, b, alpha / rank)
    return found


def _check(folder: Path, stem: str, change: Change, shape: tuple[int, ...]) -> None:
    *experts, outputs, inputs = shape
    rank = change.a.shape[-2]
    a, b = (*experts, rank, inputs), (*experts, outputs, rank)
    if change.a.shape != a or change.b.shape != b:
        raise CheckpointError(
            f"{folder}: the change of {stem} is for a model of other shapes: expected "
            f"{list(a)} and {list(b)}, found {list(change.a.shape)} and {list(change.b.shape)}; "
            "give the model that it was trained on"
        )
    if not abs(change.scale) <= torch.finfo(torch.float32).max:
        raise CheckpointError(
            f"{folder}: the change of {stem} has a scale (alpha / rank) of {change.scale:g}, which "
            "float32 cannot hold; put right alpha in its settings"
        )
    for tensor in (change.a, change.b):
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{folder}: the change of {stem} holds values that are infinite or not a number"
            )


# ---- the sums ------------------------------------------------------------------------------------


def added(weight: Tensor, delta: Tensor | None, dtype: torch.dtype) -> Tensor:
    """weight + delta, added up in float32 and rounded once; where delta is 0 the weight keeps its
    bits. Raises ValueError for sums that `dtype` cannot hold.
    """
    if delta is None:
        return weight.to(dtype)
    total = weight.float() + delta
    same = delta == 0
    summed = torch.where(same, weight.to(dtype), total.to(dtype))
    if not bool(torch.isfinite(summed).all()):
        raise ValueError(f"holds values that {dtype} cannot, or not a number")
    return summed


@dataclass
class Requantized:
    """One expert's blocks and scales with a change added, and which blocks [rows, G] that moved:
    `moved` if the change is not 0 everywhere, `changed` if other values are stored for it.
    """

    blocks: Tensor
    scales: Tensor
    moved: Tensor
    changed: Tensor


def requantized(
    blocks: Tensor, scales: Tensor, delta: Tensor, rule: mxfp4.ScaleRule
) -> Requantized:
    """Blocks whose values stay the same keep their bytes. Raises ValueError for values that MXFP4
    cannot hold.
    """
    moved = _any_in_block(delta.ne(0))
    before = mxfp4.decode(blocks, scales, torch.float32)
    new_blocks, new_scales = mxfp4.encode(before + delta, rule)
    after = mxfp4.decode(new_blocks, new_scales, torch.float32)
    changed = moved & _any_in_block(after.ne(before))
    blocks = torch.where(changed.unsqueeze(-1), new_blocks, blocks)
    scales = torch.where(changed, new_scales, scales)
    return Requantized(blocks, scales, moved, changed)


def _any_in_block(which: Tensor) -> Tensor:
    blocks: Tensor = which.unflatten(-1, (-1, mxfp4.BLOCK))
    return blocks.any(-1)
