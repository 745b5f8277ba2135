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


@dataclass
class Merged:
    """What a merge did. `expected` are the checksums of what must be read back, by native name and
    first row.
    """

    rule: mxfp4.ScaleRule
    matrices: int = 0  # of attention, changed
    blocks: int = 0  # MXFP4 blocks of matrices that have a change
    blocks_changed: int = 0  # of those: written anew, because their values change
    blocks_moved: int = (
        0  # of those: with a change that is not 0 everywhere, whether or not it survived rounding
    )
    expected: dict[tuple[str, int], int] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        text = f"{self.matrices} attention matrices changed"
        if self.blocks:
            share = self.blocks_changed / self.blocks
            text += (
                f"; {self.blocks_changed:,} of {self.blocks:,} MXFP4 blocks written anew ({share:.1%}), "
                f"{self.blocks_moved - self.blocks_changed:,} had changes too small for MXFP4"
            )
        return text


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
    source, changes = open_checkpoint(checkpoint), read_adapter(Path(adapter))
    check_base(changes, source.config)
    refuse_replacing(source, out)
    target: Layout = layout or ("hf" if source.layout == "gguf" else source.layout)
    floats, notes = stored_floats(source), _notes(source, target, changes, rule)
    with destination(
        out, source.config, target, floats, max_shard_bytes, overwrite, progress, notes
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
    dtypes = {checkpoint.source.entry(row.stored).dtype for row in checkpoint.rows} - set(PACKED)
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
    if not changes.lora.experts or (before is not None and rule in before.split("+")):
        return {SCALE_RULE: before} if before else {}
    return {SCALE_RULE: f"{before or 'unknown'}+{rule}"}


def _fill(
    sink: Sink, state: Mapping[str, Tensor], adapter: Adapter, rule: mxfp4.ScaleRule
) -> Merged:
    done = Merged(rule)
    for native in sink.rows:
        stem, _, kind = native.rpartition(".")
        if kind == "blocks" or (kind == "weight" and ".experts." in native):
            _experts(sink, state, stem, kind, adapter, done)
        elif kind == "scales":
            pass  # written with the blocks
        else:
            factors = adapter.factors(stem) if kind == "weight" else None
            for start, piece in pieces(state[native]):
                if factors is not None:
                    a, b = factors
                    piece = added(
                        piece,
                        low_rank_product(a, b[start : start + len(piece)], adapter.scale),
                        sink.dtype,
                    )
                _put(sink, native, start, piece.to(sink.dtype), done)
            done.matrices += factors is not None
    return done


def _experts(
    sink: Sink, state: Mapping[str, Tensor], stem: str, kind: str, adapter: Adapter, done: Merged
) -> None:
    """All experts of one kind of matrix, one at a time, from either form to either form."""
    factors = adapter.factors(stem)
    packed = f"{stem}.blocks" in state
    held = [state[f"{stem}.{part}"] for part in (("blocks", "scales") if packed else ("weight",))]
    for e in range(held[0].shape[0]):
        delta = None if factors is None else _delta(factors, e, adapter.scale)
        try:
            if kind == "weight":
                before = (
                    mxfp4.decode(held[0][e], held[1][e], torch.float32) if packed else held[0][e]
                )
                after = before.to(sink.dtype) if delta is None else added(before, delta, sink.dtype)
                if not bool(torch.isfinite(after).all()):
                    raise ValueError(f"holds values that {sink.floats} cannot, or not a number")
                _put(sink, f"{stem}.weight", e, after.unsqueeze(0), done)
                continue
            if packed:
                blocks, scales = held[0][e], held[1][e]
                if delta is not None:
                    blocks, scales = _requantized(blocks, scales, delta, done)
            else:
                whole = held[0][e].float()
                blocks, scales = mxfp4.encode(whole if delta is None else whole + delta, done.rule)
        except ValueError as error:
            raise CheckpointError(f"{stem}, expert {e}, with the change added: {error}") from error
        _put(sink, f"{stem}.blocks", e, blocks.unsqueeze(0), done)
        _put(sink, f"{stem}.scales", e, scales.unsqueeze(0), done)


def _delta(factors: tuple[Tensor, Tensor], e: int, scale: float) -> Tensor:
    a, b = factors
    return low_rank_product(
        a[e].clone(), b[e].clone(), scale
    )  # off the file: products depend on alignment


def _requantized(
    blocks: Tensor, scales: Tensor, delta: Tensor, done: Merged
) -> tuple[Tensor, Tensor]:
    """(blocks, scales) of one expert with the change added; blocks whose values stay the same keep
    their bytes.
    """
    moved = delta.unflatten(-1, (-1, mxfp4.BLOCK)).ne(0).any(-1)
    done.blocks += moved.numel()
    if not bool(moved.any()):
        return blocks, scales
    before = mxfp4.decode(blocks, scales, torch.float32)
    new_blocks, new_scales = mxfp4.encode(before + delta, done.rule)
    after = mxfp4.decode(new_blocks, new_scales, torch.float32)
    changed = moved & after.ne(before).unflatten(-1, (-1, mxfp4.BLOCK)).any(-1)
    done.blocks_moved += int(moved.sum())
    done.blocks_changed += int(changed.sum())
    return torch.where(changed.unsqueeze(-1), new_blocks, blocks), torch.where(
        changed, new_scales, scales
    )


def added(weight: Tensor, delta: Tensor, dtype: torch.dtype) -> Tensor:
    """weight + delta, added up in float32 and rounded once; where delta is 0 the weight keeps its
    bits.
    """
    return torch.where(delta == 0, weight.to(dtype), (weight.float() + delta).to(dtype))


# ---- reading back ----


def _put(sink: Sink, native: str, start: int, piece: Tensor, done: Merged) -> None:
    sink.put(native, start, piece)
    done.expected[native, start] = _checksum(piece) + (piece.shape[0] << 32)


def _checksum(piece: Tensor) -> int:
    return zlib.crc32(piece.contiguous().flatten().view(torch.uint8).numpy().data)


def verify(directory: Path, done: Merged) -> None:
    """Read a merged checkpoint through the loader. Raises `CheckpointError` unless every tensor is
    what was merged.
    """
    state = open_checkpoint(directory).state()
    rows: dict[str, int] = {}
    for (native, start), expected in done.expected.items():
        count = expected >> 32
        rows[native] = rows.get(native, 0) + count
        if _checksum(state[native][start : start + count]) != expected & 0xFFFFFFFF:
            raise CheckpointError(
                f"{native}: reads back otherwise than it was written; is the disk in order?"
            )
    missing = [name for name, tensor in state.items() if rows.get(name) != tensor.shape[0]]
    assert not missing, missing[:5]
