"""A checkpoint's tensors as a loaded model is to hold them: with an adapter's changes, and with
experts in MXFP4 where that is asked for.

Dense matrices get their changes in the dtype they are stored in (in float32 if the model computes
in it). Experts in MXFP4 cannot hold a change without rounding: they stay as they are and the change
beside them, unless they are to be MXFP4 with it. What rounding cost is added up. One tensor at a
time; knows no files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ossia import mxfp4
from ossia.checkpoint.adapter import Change, Requantized, added, requantized
from ossia.checkpoint.writer import Progress
from ossia.errors import CheckpointError
from ossia.mxfp4 import RoundingError, ScaleRule, error_of

CHUNK = 1 << 22  # elements handled at once, unless one expert has more


def pieces(tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first row, rows) of at most CHUNK elements, or one row."""
    step = max(1, CHUNK // math.prod(tensor.shape[1:]))
    for start in range(0, tensor.shape[0], step):
        yield start, tensor[start : start + step]


class Tally:
    """What rounding experts to MXFP4 under a rule cost, added up; None if none were."""

    def __init__(self, rule: ScaleRule) -> None:
        self.rule: ScaleRule = rule
        self.error: RoundingError | None = None

    def encode(self, where: str, values: Tensor) -> tuple[Tensor, Tensor]:
        """(blocks, scales). Raises `CheckpointError` for values that MXFP4 cannot hold."""
        try:
            blocks, scales = mxfp4.encode(values.contiguous(), self.rule)
        except ValueError as error:
            raise CheckpointError(f"{where}: {error}") from error
        stored = mxfp4.decode(blocks, scales, torch.float32)
        self.note(values, stored)
        return blocks, scales

    def requantize(self, where: str, blocks: Tensor, scales: Tensor, delta: Tensor) -> Requantized:
        """One expert with a change added. Raises `CheckpointError` as `encode` does."""
        try:
            made = requantized(blocks, scales, delta, self.rule)
        except ValueError as error:
            raise CheckpointError(f"{where}: {error}") from error
        wanted = mxfp4.decode(blocks, scales, torch.float32) + delta
        stored = mxfp4.decode(made.blocks, made.scales, torch.float32)
        self.note(wanted, stored)
        return made

    def note(self, values: Tensor, rounded: Tensor) -> None:
        cost = error_of(values, self.rule, "experts", rounded)
        if self.error is not None:
            cost = self.error + cost
        self.error = cost


@dataclass
class Fitted:
    """The tensors by native name, and the changes of experts that are to be kept beside them."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    beside: dict[str, Change] = field(default_factory=dict)


def fit(
    state: Mapping[str, Tensor],
    changes: Mapping[str, Change],
    tally: Tally | None,
    exact: bool = False,
    progress: Progress | None = None,
) -> Fitted:
    """With a `tally` experts become MXFP4. `exact`: sums of dense matrices stay in float32.
    `progress` hears of tensors done and in all.
    """
    done = Fitted()
    for number, (name, tensor) in enumerate(state.items(), 1):
        stem, _, kind = name.rpartition(".")
        change = changes.get(stem)
        if kind == "blocks" and change is not None:
            _fit_packed(done, stem, tensor, state[f"{stem}.scales"], change, tally)
        elif kind == "weight" and ".experts." in name and tally is not None:
            _encode(done, stem, tensor, change, tally)
        elif kind == "weight" and change is not None:
            dtype = torch.float32 if exact else tensor.dtype
            try:
                done.tensors[name] = _sum(tensor, change, dtype)
            except ValueError as error:
                raise CheckpointError(f"{name}, with the change added: {error}") from error
        elif name not in done.tensors:  # scales come with their blocks where these are made anew
            done.tensors[name] = tensor
        if progress is not None:
            progress(number, len(state))
    return done


def _sum(tensor: Tensor, change: Change, dtype: torch.dtype) -> Tensor:
    out = torch.empty(tensor.shape, dtype=dtype)
    if tensor.dim() == 3:
        for expert, weight in enumerate(tensor):
            delta = change.delta(expert)
            out[expert] = added(weight, delta, dtype)
        return out
    for start, piece in pieces(tensor):
        rows = slice(start, start + len(piece))
        delta = change.delta(rows=rows)
        out[rows] = added(piece, delta, dtype)
    return out


def _encode(done: Fitted, stem: str, weight: Tensor, change: Change | None, tally: Tally) -> None:
    """Experts in a floating type, with their change."""
    blocks = []
    scales = []
    for expert, matrix in enumerate(weight):
        values = matrix.float()
        if change is not None:
            values = values + change.delta(expert)
        made = tally.encode(f"{stem}, expert {expert}", values)
        blocks.append(made[0])
        scales.append(made[1])
    done.tensors[f"{stem}.blocks"] = torch.stack(blocks)
    done.tensors[f"{stem}.scales"] = torch.stack(scales)


def _fit_packed(
    done: Fitted, stem: str, blocks: Tensor, scales: Tensor, change: Change, tally: Tally | None
) -> None:
    """Experts in MXFP4, with their change in it or beside it."""
    if tally is None:
        done.tensors[f"{stem}.blocks"] = blocks
        done.beside[stem] = change
        return
    new_blocks = torch.empty_like(blocks)
    new_scales = torch.empty_like(scales)
    for expert, held in enumerate(zip(blocks, scales, strict=True)):
        where = f"{stem}, expert {expert}, with the change added"
        made = tally.requantize(where, *held, change.delta(expert))
        new_blocks[expert] = made.blocks
        new_scales[expert] = made.scales
    done.tensors[f"{stem}.blocks"] = new_blocks
    done.tensors[f"{stem}.scales"] = new_scales
