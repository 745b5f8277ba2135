"""LoRA changes into a checkpoint: one command, one expert in memory at a time, and nothing touched
that need not be.

    merge("gpt-oss-20b-folder", "runs/mine/train", "gpt-oss-20b-mine")

Attention matrices become W + s B A, added up in float32 and rounded once to the dtype they are
stored in. Of the experts' MXFP4 blocks only those are written anew whose quantized values change:
the others, and everything that has no change, keep their bytes. What was written is read back
through the loader and compared, so that a merge that returns is one that loads. Knows the
checkpoint through `checkpoint`, the changes through `adapter.py`.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ossia import mxfp4
from ossia.checkpoint import Checkpoint, open_checkpoint
from ossia.checkpoint.export import (
    SCALE_RULE,
    FloatDtype,
    Sink,
    destination,
    finish,
    pieces,
    refuse_replacing,
    scale_rule_of,
)
from ossia.checkpoint.names import PACKED, Layout, is_packed
from ossia.checkpoint.writer import SHARD_BYTES, Progress
from ossia.errors import CheckpointError
from ossia.train.weights.adapter import Adapter, check_base, read_adapter
from ossia.train.weights.lora import low_rank_product

Tensors = Mapping[str, Tensor]
Factors = tuple[Tensor, Tensor]  # a and b of a low-rank change
Expert = list[Tensor]  # a matrix, or blocks and scales
Place = tuple[str, int]


@dataclass
class Merged:
    """What a merge did. `expected` is what must be read back: (number of rows, checksum) by native
    name and first row.
    """

    rule: mxfp4.ScaleRule
    matrices: int = 0  # of attention, changed
    blocks: int = 0  # MXFP4 blocks of matrices that have a change
    blocks_changed: int = 0  # of those: written anew, because their values change
    # of those: with a change that is not 0 everywhere, whether or not it survived rounding
    blocks_moved: int = 0
    expected: dict[Place, tuple[int, int]] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        text = f"{self.matrices} attention matrices changed"
        if not self.blocks:
            return text
        share = self.blocks_changed / self.blocks
        lost = self.blocks_moved - self.blocks_changed
        return (
            f"{text}; {self.blocks_changed:,} of {self.blocks:,} MXFP4 blocks written anew "
            f"({share:.1%}), {lost:,} had changes too small for MXFP4"
        )


def merge(
    checkpoint: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    out: str | os.PathLike[str],
    rule: mxfp4.ScaleRule = "rceil",
    *,
    layout: Layout | None = None,
    max_shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Merged:
    """Write `checkpoint` with the changes of `adapter` (a run's folder) to `out`, tokenizer files
    included.

    `layout` is that of the checkpoint unless given. Blocks whose values change are encoded under
    `rule`; full-precision experts are encoded as a whole for an MXFP4 layout, and stay as they are,
    changed, otherwise. Raises `CheckpointError` for files that do not fit together, values that
    cannot be stored, an occupied `out`, or if what was written does not read back; nothing is left
    behind then, and what was at `out` stays.
    """
    source = open_checkpoint(checkpoint)
    changes = read_adapter(Path(adapter))
    check_base(changes, source.config)
    refuse_replacing(source, out)
    if layout is None:
        layout = "hf" if source.layout == "gguf" else source.layout
    floats = stored_floats(source)
    notes = _notes(source, layout, changes, rule)
    with destination(
        out, source.config, layout, floats, max_shard_bytes, overwrite, progress, notes
    ) as sink:
        done = _fill(sink, source.state(), changes, mxfp4.rule_of(rule))
        finish(sink, source)
        sink.flush()
        verify(sink.directory, done)
    return done


def stored_floats(checkpoint: Checkpoint) -> FloatDtype:
    """The narrower of the two dtypes we write, if it holds all of a checkpoint exactly."""
    if checkpoint.layout == "gguf":
        return "float32"
    entries = [checkpoint.source.entry(row.stored) for row in checkpoint.rows]
    dtypes = {entry.dtype for entry in entries} - set(PACKED)
    return "bfloat16" if dtypes == {"BF16"} else "float32"


def _notes(
    source: Checkpoint, target: Layout, changes: Adapter, rule: mxfp4.ScaleRule
) -> dict[str, str]:
    """The metadata that says under which rules the experts were quantized."""
    if not is_packed(target):
        return {}
    if not is_packed(source.layout):
        return {SCALE_RULE: rule}
    before = scale_rule_of(source)
    rules = before.split("+") if before else []
    if changes.lora.experts and rule not in rules:
        return {SCALE_RULE: f"{before or 'unknown'}+{rule}"}
    return {SCALE_RULE: before} if before else {}


def _fill(sink: Sink, state: Tensors, adapter: Adapter, rule: mxfp4.ScaleRule) -> Merged:
    done = Merged(rule)
    for native in sink.rows:
        stem, _, kind = native.rpartition(".")
        if kind == "blocks" or (kind == "weight" and ".experts." in native):
            _experts(sink, state, stem, kind, adapter, done)
        elif kind != "scales":  # those are written with the blocks
            factors = adapter.factors(stem) if kind == "weight" else None
            _matrix(sink, native, state[native], factors, adapter.scale, done)
    return done


def _matrix(
    sink: Sink, native: str, matrix: Tensor, factors: Factors | None, scale: float, done: Merged
) -> None:
    change = None
    for start, piece in pieces(matrix):
        if factors is not None:
            a, b = factors
            change = low_rank_product(a, b[start : start + len(piece)], scale)
        _put(sink, native, start, added(piece, change, sink.dtype), done)
    if factors is not None:
        done.matrices += 1


def _experts(
    sink: Sink, state: Tensors, stem: str, kind: str, adapter: Adapter, done: Merged
) -> None:
    """All experts of one kind of matrix, one at a time, from either form to either form."""
    factors = adapter.factors(stem)
    names = ("blocks", "scales") if f"{stem}.blocks" in state else ("weight",)
    held = [state[f"{stem}.{name}"] for name in names]
    for e in range(len(held[0])):
        expert = [tensor[e] for tensor in held]
        delta = None
        if factors is not None:
            a, b = factors
            # copied off the file: products depend on alignment
            delta = low_rank_product(a[e].clone(), b[e].clone(), adapter.scale)
        try:
            if kind == "weight":
                parts = {"weight": _as_weight(expert, delta, sink)}
            else:
                blocks, scales = _as_blocks(expert, delta, done)
                parts = {"blocks": blocks, "scales": scales}
        except ValueError as error:
            raise CheckpointError(f"{stem}, expert {e}, with the change added: {error}") from error
        for part, tensor in parts.items():
            _put(sink, f"{stem}.{part}", e, tensor.unsqueeze(0), done)


def _as_weight(expert: Expert, delta: Tensor | None, sink: Sink) -> Tensor:
    """Raises ValueError for what the dtype of the checkpoint cannot hold."""
    before = _decoded(expert)
    after = added(before, delta, sink.dtype)
    if not torch.isfinite(after).all():
        raise ValueError(f"holds values that {sink.floats} cannot, or not a number")
    return after


def _as_blocks(expert: Expert, delta: Tensor | None, done: Merged) -> tuple[Tensor, Tensor]:
    """(blocks, scales). Raises ValueError for what MXFP4 cannot hold."""
    if len(expert) == 1:
        whole = expert[0].float()
        if delta is not None:
            whole = whole + delta
        return mxfp4.encode(whole, done.rule)
    blocks, scales = expert
    if delta is None:
        return blocks, scales
    return _requantized(blocks, scales, delta, done)


def _decoded(expert: Expert) -> Tensor:
    if len(expert) == 1:
        return expert[0]
    blocks, scales = expert
    return mxfp4.decode(blocks, scales, torch.float32)


def _requantized(
    blocks: Tensor, scales: Tensor, delta: Tensor, done: Merged
) -> tuple[Tensor, Tensor]:
    """(blocks, scales) of one expert with the change added; blocks whose values stay the same keep
    their bytes.
    """
    moved = _any_in_block(delta.ne(0))
    done.blocks += moved.numel()
    if not moved.any():
        return blocks, scales
    before = mxfp4.decode(blocks, scales, torch.float32)
    new_blocks, new_scales = mxfp4.encode(before + delta, done.rule)
    after = mxfp4.decode(new_blocks, new_scales, torch.float32)
    changed = moved & _any_in_block(after.ne(before))
    done.blocks_moved += int(moved.sum())
    done.blocks_changed += int(changed.sum())
    blocks = torch.where(changed.unsqueeze(-1), new_blocks, blocks)
    scales = torch.where(changed, new_scales, scales)
    return blocks, scales


def _any_in_block(which: Tensor) -> Tensor:
    blocks: Tensor = which.unflatten(-1, (-1, mxfp4.BLOCK))
    return blocks.any(-1)


def added(weight: Tensor, delta: Tensor | None, dtype: torch.dtype) -> Tensor:
    """weight + delta, added up in float32 and rounded once; where delta is 0 the weight keeps its
    bits.
    """
    if delta is None:
        return weight.to(dtype)
    total = weight.float() + delta
    return torch.where(delta == 0, weight.to(dtype), total.to(dtype))


# ---- reading back ----


def _put(sink: Sink, native: str, start: int, piece: Tensor, done: Merged) -> None:
    sink.put(native, start, piece)
    done.expected[native, start] = len(piece), _checksum(piece)


def _checksum(piece: Tensor) -> int:
    flat = piece.contiguous().flatten()
    return zlib.crc32(flat.view(torch.uint8).numpy().data)


def verify(directory: Path, done: Merged) -> None:
    """Read a merged checkpoint through the loader. Raises `CheckpointError` unless every tensor is
    what was merged.
    """
    state = open_checkpoint(directory).state()
    rows: dict[str, int] = {}
    for (native, start), (count, expected) in done.expected.items():
        rows[native] = rows.get(native, 0) + count
        piece = state[native][start : start + count]
        if _checksum(piece) != expected:
            raise CheckpointError(
                f"{native}: reads back otherwise than it was written; is the disk in order?"
            )
    missing = [name for name, tensor in state.items() if rows.get(name) != len(tensor)]
    assert not missing, missing[:5]
