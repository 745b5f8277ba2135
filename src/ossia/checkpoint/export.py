"""Out of memory and between layouts: any layout, or a trained model, to any layout, one expert at a
time.

Native names are the hub: a row of the destination's table says which native tensor it holds. What
is packed on both sides goes through byte for byte; experts are encoded or decoded where the two
sides differ. Knows the layouts through `names.py` and the files through `writer.py`.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ossia import mxfp4
from ossia.checkpoint.fitted import Tally, pieces
from ossia.checkpoint.gguf.read import GgufSource
from ossia.checkpoint.gguf.read import tokenizer as gguf_tokenizer
from ossia.checkpoint.load import CONFIG, Checkpoint, open_checkpoint
from ossia.checkpoint.mapped import Source, inside
from ossia.checkpoint.names import LAYOUTS, PACKED, Layout, is_packed, table
from ossia.checkpoint.writer import SHARD_BYTES, Progress, Spec, Writer, new_directory
from ossia.config import MX_BLOCK, ModelConfig
from ossia.errors import CheckpointError
from ossia.files import write_json
from ossia.model import TrainableExperts, Transformer
from ossia.model.moe import ChangedExperts, Router
from ossia.tokenizer.file import to_json

FloatDtype = Literal["bfloat16", "float32"]
_FLOATS = {"bfloat16": (torch.bfloat16, "BF16"), "float32": (torch.float32, "F32")}
# Files that go with the weights, if they exist.
TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",  # names tokens by their ids
)
TEMPLATES = ("chat_template.jinja", "chat_template.json")
COMPANIONS = (*TOKENIZER_FILES, *TEMPLATES, "LICENSE", "USAGE_POLICY")
# In the safetensors files' own metadata: under which rule for the scale experts were quantized. No
# config.json has a place for it that all readers leave alone.
SCALE_RULE = "ossia.mxfp4_scale_rule"
# Keys of a Hugging Face config.json that are about the tokenizer and not in our config; lost unless
# handed on.
_CARRIED = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",  # what a GGUF calls them
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    layout: Layout = "hf",
    progress: Progress | None = None,
    rule: mxfp4.ScaleRule = "rceil",
    *,
    floats: FloatDtype = "bfloat16",
    max_shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> mxfp4.RoundingError | None:
    """Rewrite the checkpoint in `src` as `dst` in another layout (or the same), tokenizer files
    included.

    MXFP4 blocks stay as they are, byte for byte; full-precision experts are quantized under `rule`
    for an MXFP4 layout, which the files' metadata then names; what that cost is returned.
    Everything else is stored as `floats`. Raises `CheckpointError` for a source that does not check
    out, for experts whose values `layout` cannot hold, for a destination that is occupied; nothing
    is left behind then.
    """
    checkpoint = open_checkpoint(src)
    refuse_replacing(checkpoint, dst)
    _check_rule(rule)
    kept = scale_rule_of(checkpoint) if checkpoint.packed else rule
    notes = {SCALE_RULE: kept} if kept is not None and is_packed(layout) else {}
    with destination(
        dst, checkpoint.config, layout, floats, max_shard_bytes, overwrite, progress, notes
    ) as sink:
        tally = Tally(rule)
        _fill(sink, checkpoint.tensors, tally)
        finish(sink, checkpoint)
    return tally.error


def refuse_replacing(checkpoint: Checkpoint, dst: str | os.PathLike[str]) -> None:
    """Raises `CheckpointError` if writing `dst` would remove the checkpoint that is read."""
    reading, target = checkpoint.directory.resolve(), Path(dst).resolve()
    if target == reading or target in reading.parents:
        raise CheckpointError(f"{dst}: would replace {checkpoint.directory}, which is being read")


def finish(sink: Sink, checkpoint: Checkpoint) -> None:
    """Write the config of what `checkpoint` became, and copy what goes with the weights: of a GGUF
    what is inside, and of what lies beside it only the rest.
    """
    own: set[str] = set()
    carried = {key: checkpoint.json[key] for key in _CARRIED if key in checkpoint.json}
    if isinstance(checkpoint.source, GgufSource):
        own = _write_own(checkpoint.source, sink.directory)
        for key, name in _CARRIED.items():
            if type(number := checkpoint.source.metadata.get(name)) is int:
                carried[key] = number
    sink.describe(carried)
    homes = [checkpoint.directory]
    if checkpoint.directory.resolve().name == "original":
        homes.append(checkpoint.directory.parent)
    copy_companions(homes, sink.directory, own)


def _write_own(source: GgufSource, directory: Path) -> set[str]:
    """The tokenizer inside a GGUF and its chat template as files of their own. Returns the
    companions whose place they take.
    """
    own: set[str] = set()
    if source.template is not None:
        (directory / TEMPLATES[0]).write_text(source.template, encoding="utf-8")
        own |= {*TEMPLATES, TOKENIZER_FILES[1]}  # older ones have the template in tokenizer_config
    found = gguf_tokenizer(source.path)
    if found is not None:
        data = to_json(found.vocabulary, found.specials, found.pattern)
        write_json(directory / TOKENIZER, data)
        own |= set(TOKENIZER_FILES)
    return own


def scale_rule_of(checkpoint: Checkpoint) -> str | None:
    """Under which rule the experts of a checkpoint were quantized; None if its files do not say, as
    the published ones.

    A checkpoint with LoRA changes merged into it has two: that of the rest, or `unknown`, and that
    of the changed blocks, as in `unknown+rceil`.
    """
    return (
        checkpoint.source.metadata.get(SCALE_RULE)
        if isinstance(checkpoint.source, Source)
        else None
    )


def export(
    model: Transformer,
    dst: str | os.PathLike[str],
    layout: Layout = "hf",
    progress: Progress | None = None,
    rule: mxfp4.ScaleRule = "rceil",
    *,
    floats: FloatDtype = "bfloat16",
    max_shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    companions: str | os.PathLike[str] | None = None,
) -> mxfp4.RoundingError | None:
    """Write a model as a checkpoint; for an MXFP4 layout, trainable experts are quantized under
    `rule`, and what that cost is returned.

    Everything else is stored as `floats`. `companions` is a directory with the tokenizer's files.
    Raises `CheckpointError` as `convert` does, and for a model whose routers choose with a bias
    that no layout can hold.
    """
    _check_selection(model)
    _check_rule(rule)
    encoded = is_packed(layout) and any(
        isinstance(module, TrainableExperts) for module in model.modules()
    )
    notes = {SCALE_RULE: rule} if encoded else {}
    with destination(
        dst, model.config, layout, floats, max_shard_bytes, overwrite, progress, notes
    ) as sink:
        state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        tally = Tally(rule)
        _fill(sink, state, tally)
        sink.describe({})
        copy_companions([Path(companions)] if companions is not None else [], sink.directory)
    return tally.error


def _check_rule(rule: mxfp4.ScaleRule) -> None:
    if rule not in get_args(mxfp4.ScaleRule):
        raise CheckpointError(
            f"expected one of {', '.join(get_args(mxfp4.ScaleRule))}, found {rule!r}"
        )


def _check_selection(model: Transformer) -> None:
    for name, module in model.named_modules():
        if isinstance(module, ChangedExperts):
            raise CheckpointError(
                f"{name}: has an adapter's changes beside it; merge the adapter into a checkpoint"
            )
        bias = module.selection_bias if isinstance(module, Router) else None
        if bias is not None and bool(bias.any()):
            raise CheckpointError(
                f"{name}: chooses experts with a selection bias, which no checkpoint layout has: "
                "the exported model would choose others. Train to the end of the run, where the "
                "bias has been annealed to 0"
            )


class Sink:
    """A checkpoint being written, addressed by native names."""

    def __init__(
        self,
        directory: Path,
        config: ModelConfig,
        layout: Layout,
        floats: FloatDtype,
        writer: Writer,
    ) -> None:
        self.directory, self.config, self.layout, self.floats = directory, config, layout, floats
        self.dtype = _FLOATS[floats][0]
        self.rows = {row.native: row for row in table(config, layout)}
        self._writer = writer

    def put(self, native: str, start: int, piece: Tensor) -> None:
        """Rows [start, start + n) of the first dimension of a native tensor."""
        row = self.rows[native]
        assert piece.shape[1:] == row.native_shape[1:], (native, piece.shape, row.native_shape)
        stored = piece.transpose(-1, -2) if row.transposed else piece
        self.put_flat(native, (row.first + start) * math.prod(row.shape[1:]), stored)

    def put_flat(self, native: str, start: int, piece: Tensor) -> None:
        """Elements [start, start + n) of the stored tensor that holds a native one."""
        row = self.rows[native]
        self._writer.write(
            row.stored, start, piece if row.dtypes == PACKED else piece.to(self.dtype)
        )

    def flush(self) -> None:
        """Close the files, so that they can be read; raises as `Writer.finish` if some tensor was
        not written.
        """
        self._writer.finish(index=self.layout != "original")

    def describe(self, extra: Mapping[str, Any]) -> None:
        """Write config.json; a Hugging Face one with the keys of `extra`."""
        if self.layout == "original":
            data = self.config.to_original_json()
        else:
            data = self.config.to_hf_json(quantized=is_packed(self.layout))
            data |= {"dtype": self.floats} | dict(extra)
        write_json(self.directory / CONFIG, data, indent=2)


@contextmanager
def destination(
    dst: str | os.PathLike[str],
    config: ModelConfig,
    layout: Layout,
    floats: FloatDtype,
    max_shard_bytes: int,
    overwrite: bool,
    progress: Progress | None,
    metadata: Mapping[str, str] | None = None,
) -> Iterator[Sink]:
    """The files of a checkpoint, under a temporary name until the body has ended."""
    for value, allowed in ((layout, LAYOUTS), (floats, tuple(_FLOATS))):
        if value not in allowed:
            raise CheckpointError(f"expected one of {', '.join(allowed)}, found {value!r}")
    specs = {
        row.stored: Spec(
            row.stored, "U8" if row.dtypes == PACKED else _FLOATS[floats][1], row.shape
        )
        for row in table(config, layout)
    }
    with new_directory(Path(dst), overwrite) as directory:
        writer = Writer(directory, list(specs.values()), max_shard_bytes, progress, metadata)
        sink = Sink(directory, config, layout, floats, writer)
        yield sink
        sink.flush()


def _fill(sink: Sink, state: Mapping[str, Tensor], tally: Tally) -> None:
    """Write every native tensor of the destination from `state`, whichever form its experts have
    there.
    """
    for native, row in sink.rows.items():
        stem, _, kind = native.rpartition(".")
        if native in state:
            tensor = state[native]
            assert tensor.shape == row.native_shape, (native, tensor.shape, row.native_shape)
            for start, piece in pieces(tensor):
                sink.put(native, start, piece)
        elif kind == "weight":
            _fill_decoded(sink, native, state[f"{stem}.blocks"], state[f"{stem}.scales"])
        elif kind == "blocks":
            _fill_encoded(sink, stem, state[f"{stem}.weight"], tally)
        else:
            assert kind == "scales", native  # written with the blocks


def _fill_decoded(sink: Sink, native: str, blocks: Tensor, scales: Tensor) -> None:
    for expert in range(blocks.shape[0]):
        values = mxfp4.decode(blocks[expert], scales[expert], sink.dtype)
        if not bool(torch.isfinite(values).all()):
            raise CheckpointError(
                f"{native}, expert {expert}: has scales that {sink.floats} cannot hold, or that "
                "are not a number"
            )
        sink.put(native, expert, values.unsqueeze(0))


def _fill_encoded(sink: Sink, stem: str, weight: Tensor, tally: Tally) -> None:
    experts, rows, columns = weight.shape
    groups = columns // MX_BLOCK
    for expert in range(experts):
        for row, piece in pieces(weight[expert]):
            blocks, scales = tally.encode(f"{stem}.weight, expert {expert}", piece)
            at = (expert * rows + row) * groups
            sink.put_flat(f"{stem}.blocks", at * (MX_BLOCK // 2), blocks)
            sink.put_flat(f"{stem}.scales", at, scales)


def copy_companions(homes: Sequence[Path], directory: Path, own: Set[str] = frozenset()) -> None:
    """Copy each file that goes with the weights, except those in `own`, from the first of `homes`
    that has it.
    """
    for name in COMPANIONS:
        for home in homes:
            if name not in own and (home / name).exists():
                source = inside(home, name)
                shutil.copyfile(source, directory / name)
                break
