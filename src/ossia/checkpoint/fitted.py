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
from ossia.checkpoint.adapter import Change, added, requantized
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
        self.note(values, mxfp4.decode(blocks, scales, torch.float32))
        return blocks, scales

    def note(self, values: Tensor, rounded: Tensor) -> None:
        cost = error_of(values, self.rule, "experts", rounded)
        self.error = cost if self.error is None else self.error + cost


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
        if kind == "weight" and ".experts." in name and tally is not None:
            _encode(done, stem, tensor, change, tally)
        elif kind == "weight" and change is not None:
            done.tensors[name] = _sum(tensor, change, torch.float32 if exact else tensor.dtype)
        elif kind == "blocks" and change is not None and tally is not None:
            _requantize(done, stem, tensor, state[f"{stem}.scales"], change, tally)
        elif name not in done.tensors:  # scales come with their blocks where these are made anew
            done.tensors[name] = tensor
        if kind == "blocks" and change is not None and tally is None:
            done.beside[stem] = change
        if progress is not None:
            progress(number, len(state))
    return done


def _sum(tensor: Tensor, change: Change, dtype: torch.dtype) -> Tensor:
    out = torch.empty(tensor.shape, dtype=dtype)
    if tensor.dim() == 3:
        for expert in range(len(tensor)):
            out[expert] = added(tensor[expert], change.delta(expert), dtype)
        return out
    for start, piece in pieces(tensor):
        rows = slice(start, start + len(piece))
        out[rows] = added(piece, change.delta(rows=rows), dtype)
    return out


def _encode(done: Fitted, stem: str, weight: Tensor, change: Change | None, tally: Tally) -> None:
    """Experts in a floating type, with their change."""
    held = []
    for expert in range(len(weight)):
        values = weight[expert].float()
        if change is not None:
            values = values + change.delta(expert)
        held.append(tally.encode(f"{stem}, expert {expert}", values))
    for kind, parts in zip(("blocks", "scales"), zip(*held, strict=True), strict=True):
        done.tensors[f"{stem}.{kind}"] = torch.stack(parts)


def _requantize(
    done: Fitted, stem: str, blocks: Tensor, scales: Tensor, change: Change, tally: Tally
) -> None:
    """Experts in MXFP4, with their change."""
    new_blocks = torch.empty_like(blocks)
    new_scales = torch.empty_like(scales)
    for expert in range(len(blocks)):
        delta = change.delta(expert)
        wanted = mxfp4.decode(blocks[expert], scales[expert], torch.float32) + delta
        try:
            made = requantized(blocks[expert], scales[expert], delta, tally.rule)
        except ValueError as error:
            raise CheckpointError(
                f"{stem}, expert {expert}, with the change added: {error}"
            ) from error
        new_blocks[expert] = made.blocks
        new_scales[expert] = made.scales
        tally.note(wanted, mxfp4.decode(made.blocks, made.scales, torch.float32))
    done.tensors[f"{stem}.blocks"] = new_blocks
    done.tensors[f"{stem}.scales"] = new_scales
