"""LoRA changes into a checkpoint: one command, one expert in memory at a time, and nothing touched
that need not be.

    merge("gpt-oss-20b-folder", "runs/mine/train", "gpt-oss-20b-mine")

Dense matrices become W + s B A, added up in float32 and rounded once to the dtype they are
stored in. Of the experts' MXFP4 blocks only those are written anew whose quantized values change:
the others, and everything that has no change, keep their bytes. What was written is read back
through the loader and compared, so that a merge that returns is one that loads. Knows the
checkpoint through `checkpoint`, and the changes through `checkpoint/adapter.py`.
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
from ossia.checkpoint.adapter import Adapter, added, read_adapter
from ossia.checkpoint.export import (
    SCALE_RULE,
    FloatDtype,
    Sink,
    destination,
    finish,
    refuse_replacing,
    scale_rule_of,
)
from ossia.checkpoint.fitted import Tally, pieces
from ossia.checkpoint.names import PACKED, Layout, is_packed
from ossia.checkpoint.writer import SHARD_BYTES, Progress
from ossia.errors import CheckpointError

Expert = list[Tensor]  # a matrix, or blocks and scales
Place = tuple[str, int]


@dataclass
class Merged:
    """What a merge did. `expected` is what must be read back: (number of rows, checksum) by native
    name and first row.
    """

    tally: Tally = field(repr=False)  # of the experts that were rounded
    matrices: int = 0  # dense ones, changed
    blocks: int = 0  # MXFP4 blocks of matrices that have a change
    blocks_changed: int = 0  # of those: written anew, because their values change
    # of those: with a change that is not 0 everywhere, whether or not it survived rounding
    blocks_moved: int = 0
    expected: dict[Place, tuple[int, int]] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        text = f"{self.matrices} dense matrices changed"
        if self.blocks:
            share = self.blocks_changed / self.blocks
            lost = self.blocks_moved - self.blocks_changed
            text += (
                f"; {self.blocks_changed:,} of {self.blocks:,} MXFP4 blocks written anew "
                f"({share:.1%}), {lost:,} had changes too small for MXFP4"
            )
        return f"{text}; {self.tally.error}" if self.tally.error is not None else text


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
    """Write `checkpoint` with the changes of `adapter` (a run's folder, or peft's) to `out`,
    tokenizer files included.

    `layout` is that of the checkpoint unless given. Blocks whose values change are encoded under
    `rule`; full-precision experts are encoded as a whole for an MXFP4 layout, and stay as they are,
    changed, otherwise. Raises `CheckpointError` for files that do not fit together, values that
    cannot be stored, an occupied `out`, or if what was written does not read back; nothing is left
    behind then, and what was at `out` stays.
    """
    source = open_checkpoint(checkpoint)
    changes = read_adapter(Path(adapter), source.config)
    refuse_replacing(source, out)
    if layout is None:
        layout = same_layout(source)
    floats = stored_floats(source)
    notes = _notes(source, layout, changes, rule)
    with destination(
        out, source.config, layout, floats, max_shard_bytes, overwrite, progress, notes
    ) as sink:
        done = Merged(Tally(mxfp4.rule_of(rule)))
        _Merge(sink, source.tensors, changes, done).run()
        finish(sink, source)
        sink.flush()
        verify(sink.directory, done)
    return done


def same_layout(source: Checkpoint) -> Layout:
    """That of the checkpoint; of a GGUF the one that holds its experts as they are."""
    if source.layout != "gguf":
        return source.layout
    return "hf" if source.packed else "hf-bf16"


def stored_floats(checkpoint: Checkpoint) -> FloatDtype:
    """The narrower of the two dtypes we write, if it holds all of a checkpoint exactly."""
    if checkpoint.layout == "gguf":
        return "float32"
    dtypes = set()
    for row in checkpoint.rows:
        entry = checkpoint.source.entry(row.stored)
        dtypes.add(entry.dtype)
    dtypes -= set(PACKED)
    return "bfloat16" if dtypes == {"BF16"} else "float32"


def _notes(
    source: Checkpoint, target: Layout, changes: Adapter, rule: mxfp4.ScaleRule
) -> dict[str, str]:
    """The metadata that says under which rules the experts were quantized."""
    if not is_packed(target):
        return {}
    if not source.packed:
        return {SCALE_RULE: rule}
    before = scale_rule_of(source)
    rules = before.split("+") if before else []
    if changes.experts and rule not in rules:
        return {SCALE_RULE: f"{before or 'unknown'}+{rule}"}
    if not before:
        return {}
    return {SCALE_RULE: before}


@dataclass(frozen=True)
class _Merge:
    """One on its way from a checkpoint to a sink."""

    sink: Sink
    state: Mapping[str, Tensor]
    adapter: Adapter
    done: Merged

    def run(self) -> None:
        for native in self.sink.rows:
            stem, _, kind = native.rpartition(".")
            if kind == "blocks" or (kind == "weight" and ".experts." in native):
                self._experts(stem, kind)
            elif kind != "scales":  # those are written with the blocks
                self._tensor(native, stem, kind)

    def _tensor(self, native: str, stem: str, kind: str) -> None:
        change = self.adapter.changes.get(stem) if kind == "weight" else None
        delta = None
        for start, piece in pieces(self.state[native]):
            if change is not None:
                delta = change.delta(rows=slice(start, start + len(piece)))
            whole = self._added(f"{native}, with the change added", piece, delta)
            self._put(native, start, whole)
        if change is not None:
            self.done.matrices += 1

    def _experts(self, stem: str, kind: str) -> None:
        """All experts of one kind of matrix, one at a time, from either form to either form."""
        change = self.adapter.changes.get(stem)
        parts = ["weight"]
        if f"{stem}.blocks" in self.state:
            parts = ["blocks", "scales"]
        held = [self.state[f"{stem}.{part}"] for part in parts]
        for e in range(len(held[0])):
            expert = [tensor[e] for tensor in held]
            delta = None if change is None else change.delta(e)
            made = self._expert(f"{stem}, expert {e}, with the change added", kind, expert, delta)
            for part, tensor in made.items():
                self._put(f"{stem}.{part}", e, tensor.unsqueeze(0))

    def _expert(
        self, where: str, kind: str, expert: Expert, change: Tensor | None
    ) -> dict[str, Tensor]:
        """In the form of the sink. Raises `CheckpointError` for values that it cannot hold."""
        if kind == "weight":
            weight = self._added(where, _decoded(expert), change)
            if not torch.isfinite(weight).all():
                raise CheckpointError(
                    f"{where}: holds values that {self.sink.floats} cannot, or not a number"
                )
            return {"weight": weight}
        if len(expert) == 2:
            if change is not None:
                expert = self._requantized(where, expert, change)
            blocks, scales = expert
        else:
            whole = expert[0].float()
            if change is not None:
                whole = whole + change
            blocks, scales = self.done.tally.encode(where, whole)
        return {"blocks": blocks, "scales": scales}

    def _added(self, where: str, weight: Tensor, delta: Tensor | None) -> Tensor:
        try:
            return added(weight, delta, self.sink.dtype)
        except ValueError as error:
            raise CheckpointError(f"{where}: {error}") from error

    def _requantized(self, where: str, expert: Expert, change: Tensor) -> Expert:
        blocks, scales = expert
        done = self.done
        made = done.tally.requantize(where, blocks, scales, change)
        done.blocks += made.moved.numel()
        done.blocks_moved += int(made.moved.sum())
        done.blocks_changed += int(made.changed.sum())
        return [made.blocks, made.scales]

    def _put(self, native: str, start: int, piece: Tensor) -> None:
        self.sink.put(native, start, piece)
        self.done.expected[native, start] = len(piece), _checksum(piece)


def _decoded(expert: Expert) -> Tensor:
    if len(expert) == 1:
        return expert[0]
    blocks, scales = expert
    return mxfp4.decode(blocks, scales, torch.float32)


# ---- reading back ----


def _checksum(piece: Tensor) -> int:
    flat = piece.contiguous().flatten()
    data = flat.view(torch.uint8).numpy().data
    return zlib.crc32(data)


def verify(directory: Path, done: Merged) -> None:
    """Read a merged checkpoint through the loader. Raises `CheckpointError` unless every tensor is
    what was merged.
    """
    state = open_checkpoint(directory).tensors
    rows: dict[str, int] = {}
    for (native, start), (count, expected) in done.expected.items():
        rows[native] = rows.get(native, 0) + count
        piece = state[native][start : start + count]
        if _checksum(piece) != expected:
            raise CheckpointError(
                f"{native}: reads back otherwise than it was written; is the disk in order?"
            )
    for name, tensor in state.items():
        assert rows.get(name) == len(tensor), name
