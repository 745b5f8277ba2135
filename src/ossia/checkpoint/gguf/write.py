"""A checkpoint as one GGUF file for llama.cpp: streamed, a few MB at a time, under a temporary name
until whole.

The gguf package writes the header; we write the data after it, because that is never in memory at
once. Names and metadata are `format.py`, numbers `blocks.py`. Experts go into GGML's MXFP4 blocks
bit for bit, matrices into BF16 or Q8_0, everything else (norms, biases, sinks, router) into F32, as
llama.cpp's own converter does.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ossia import mxfp4
from ossia.checkpoint.fitted import Tally, pieces
from ossia.checkpoint.gguf import format as gguf
from ossia.checkpoint.gguf.blocks import FORMATS, to_ggml, to_q8
from ossia.checkpoint.gguf.format import Slot
from ossia.checkpoint.gguf.read import NORMAL, PATTERNS, UNUSED, GgufSource, parts_of, whole_name
from ossia.checkpoint.load import Checkpoint, open_checkpoint
from ossia.checkpoint.mapped import read_json
from ossia.checkpoint.tokenizer import find_tokenizer
from ossia.checkpoint.writer import Progress
from ossia.config import MX_BLOCK, ModelConfig
from ossia.errors import CheckpointError
from ossia.files import beside
from ossia.tokenizer import O200K_PATTERN, SINGLE_DIGITS_PATTERN, Tokenizer
from ossia.tokenizer.file import to_json

if TYPE_CHECKING:
    from gguf import GGUFWriter

Dense = Literal["bf16", "q8_0"]
_MOSTLY_MXFP4 = 38  # llama.cpp's number for a file of this kind (LLAMA_FTYPE_MOSTLY_MXFP4_MOE)
_CONTROL = 3  # the token type of specials


def write_gguf(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    dense: Dense = "bf16",
    progress: Progress | None = None,
    rule: mxfp4.ScaleRule = "rceil",
    *,
    overwrite: bool = False,
) -> mxfp4.RoundingError | None:
    """Write the checkpoint in `src` as the GGUF file `dst`, with its tokenizer and chat template.

    MXFP4 blocks keep every bit; full-precision experts are quantized under `rule`, and what that
    cost is returned. `dense` is the format of the embedding, the unembedding and the attention's
    matrices; one whose rows Q8_0 cannot hold (not a multiple of 32) stays in BF16. Raises
    `CheckpointError` for a source that is not valid or that GGUF cannot describe, for a destination
    that exists or is named as a part of a split file, for a disk too small; it then leaves no file.
    """
    _check_choice(dense, get_args(Dense))
    _check_choice(rule, get_args(mxfp4.ScaleRule))
    checkpoint = open_checkpoint(src)
    tokenizer = find_tokenizer(Path(src), checkpoint.config)
    path = Path(dst).absolute()
    slots = gguf.slots(checkpoint.config)
    _refuse(path, overwrite, _sizes(slots, dense))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as temporary:
            _write_header(temporary, checkpoint, tokenizer, slots, dense)
            tally = Tally(rule)
            _append_data(temporary, checkpoint.tensors, slots, dense, tally, progress)
            _refuse(path, overwrite, 0)
            temporary.replace(path)
            return tally.error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error


def _check_choice(value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise CheckpointError(f"expected one of {', '.join(allowed)}, found {value!r}")


def _refuse(path: Path, overwrite: bool, nbytes: int) -> None:
    if path.is_dir() or path.suffix != ".gguf":
        raise CheckpointError(f"{path}: give the name of a file that ends in .gguf")
    if parts_of(path) != [path]:
        raise CheckpointError(
            f"{path}: is the name of a part of a file, and one whole file is written: choose "
            f"another name, such as {path.with_name(whole_name(path))}"
        )
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path}: exists; choose another name, or say to overwrite it")
    home = next(folder for folder in path.parents if folder.exists())
    free = shutil.disk_usage(home).free
    if free < nbytes:
        raise CheckpointError(f"{home}: needs {nbytes:,} bytes of disk, {free:,} are free")


def _stored_as(slot: Slot, dense: Dense) -> str:
    if slot.kind == "experts":
        return "MXFP4"
    if slot.kind == "vector":
        return "F32"
    if dense == "q8_0" and slot.shape[-1] % MX_BLOCK == 0:
        return "Q8_0"
    return "BF16"


def _nbytes(slot: Slot, dense: Dense) -> int:
    stored = _stored_as(slot, dense)
    form = FORMATS[stored]
    return math.prod(slot.shape) // form.values * form.nbytes


def _sizes(slots: tuple[Slot, ...], dense: Dense) -> int:
    return sum(_nbytes(slot, dense) for slot in slots)


# ---- header --------------------------------------------------------------------------------------


def _write_header(
    path: Path,
    checkpoint: Checkpoint,
    tokenizer: Tokenizer | None,
    slots: tuple[Slot, ...],
    dense: Dense,
) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    config = checkpoint.config
    if config.hidden_size % MX_BLOCK or config.intermediate_size % MX_BLOCK:
        raise CheckpointError(
            f"MXFP4 needs hidden_size and intermediate_size to be multiples of {MX_BLOCK}, found "
            f"{config.hidden_size} and {config.intermediate_size}"
        )
    described = gguf.metadata(config)  # raises before there is a file
    writer = GGUFWriter(path, gguf.ARCHITECTURE)
    writer.add_name(f"gpt-oss, {config.num_hidden_layers} layers of {config.num_experts} experts")
    writer.add_file_type(_MOSTLY_MXFP4)
    writer.add_quantization_version(2)
    for key, value in described.items():
        _add(writer, key, value)
    own = checkpoint.source.template if isinstance(checkpoint.source, GgufSource) else None
    template = own or _chat_template(checkpoint.directory)
    _add_tokenizer(writer, config, tokenizer, template)
    dtype: Any = np.dtype(np.uint8)
    for slot in slots:
        stored = _stored_as(slot, dense)
        form = FORMATS[stored]
        *rows, columns = slot.shape
        bytes_shape = (*rows, columns // form.values * form.nbytes)
        kind = GGMLQuantizationType(form.number)
        writer.add_tensor_info(slot.name, bytes_shape, dtype, _nbytes(slot, dense), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _add(writer: GGUFWriter, key: str, value: gguf.Value) -> None:
    match value:
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
        case float():
            writer.add_float32(key, value)
        case int():
            writer.add_uint32(key, value)


def _chat_template(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    older = folder / "tokenizer_config.json"
    if not older.exists():
        return None
    template = read_json(older).get("chat_template")
    return template if isinstance(template, str) else None


def _add_tokenizer(
    writer: GGUFWriter, config: ModelConfig, tokenizer: Tokenizer | None, template: str | None
) -> None:
    """Tokens, types and merges. Without a tokenizer llama.cpp reads and writes ids only."""
    if tokenizer is None:
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(config.vocab_size)
        return
    tokens = [f"[PAD{n}]" for n in range(config.vocab_size)]
    types = [UNUSED] * config.vocab_size
    file: Any = to_json(tokenizer.vocabulary, tokenizer.specials, tokenizer.pattern)
    for text, number in file["model"]["vocab"].items():
        if number < config.vocab_size:
            tokens[number] = text
            types[number] = NORMAL
    for name, number in tokenizer.specials.items():
        if number < config.vocab_size:
            tokens[number] = name
            types[number] = _CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre(writer, tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(file["model"]["merges"])
    writer.add_add_bos_token(False)
    uses = {"bos": "<|startoftext|>", "eos": "<|return|>", "pad": "<|endoftext|>"}
    for use, name in uses.items():
        if name in tokenizer.specials:
            getattr(writer, f"add_{use}_token_id")(tokenizer.specials[name])
    if template is not None:
        writer.add_chat_template(template)


def _pre(writer: GGUFWriter, tokenizer: Tokenizer) -> str:
    """llama.cpp's name for the pattern that cuts text.

    It has none for single digits, but with a vocabulary without a token of two digits, which is the
    result of learning that way, cutting out three at a time ends the same.
    """
    names = {pattern: name for name, pattern in PATTERNS.items()}
    if tokenizer.pattern == SINGLE_DIGITS_PATTERN:
        two = next((t for t in tokenizer.vocabulary if len(t) > 1 and t.isdigit()), None)
        if two is None:
            writer.add_string(gguf.PATTERN, tokenizer.pattern)
            return names[O200K_PATTERN]
    if tokenizer.pattern not in names:
        raise CheckpointError(
            f"llama.cpp has no name for the way this tokenizer cuts text: {tokenizer.pattern!r:.80}"
        )
    return names[tokenizer.pattern]


# ---- data ----------------------------------------------------------------------------------------


def _append_data(
    path: Path,
    state: Mapping[str, Tensor],
    slots: tuple[Slot, ...],
    dense: Dense,
    tally: Tally,
    progress: Progress | None,
) -> None:
    done = 0
    total = _sizes(slots, dense)
    with path.open("ab") as file:
        for slot in slots:
            file.write(b"\0" * (-file.tell() % gguf.ALIGNMENT))
            written = 0
            for piece in _pieces(slot, state, _stored_as(slot, dense), tally):
                written += file.write(piece.contiguous().numpy().data)
                if progress is not None:
                    progress(done + written, total)
            assert written == _nbytes(slot, dense), (slot, written)
            done += written
        file.write(b"\0" * (-file.tell() % gguf.ALIGNMENT))
        file.flush()
        os.fsync(file.fileno())


def _pieces(slot: Slot, state: Mapping[str, Tensor], stored: str, tally: Tally) -> Iterator[Tensor]:
    """The bytes of a tensor in order, a few MB at a time."""
    if stored == "MXFP4":
        yield from _expert_pieces(slot, state, tally)
        return
    tensor = state[slot.native]
    if slot.step > 1:
        tensor = tensor[:, slot.first :: slot.step]
    assert tensor.shape == slot.shape, (slot, tensor.shape)
    for _, piece in pieces(tensor):
        if stored == "Q8_0":
            yield to_q8(piece)
            continue
        dtype = torch.bfloat16 if stored == "BF16" else torch.float32
        converted = piece.to(dtype).contiguous()
        yield converted.view(torch.uint8)


def _expert_pieces(slot: Slot, state: Mapping[str, Tensor], tally: Tally) -> Iterator[Tensor]:
    rows = slice(slot.first, None, slot.step)
    if f"{slot.native}.blocks" in state:
        blocks = state[f"{slot.native}.blocks"]
        scales = state[f"{slot.native}.scales"]
        for expert in range(slot.shape[0]):
            yield to_ggml(blocks[expert, rows], scales[expert, rows])
        return
    weight = state[f"{slot.native}.weight"]
    for expert in range(slot.shape[0]):
        encoded = tally.encode(f"{slot.native}, expert {expert}", weight[expert, rows])
        yield to_ggml(*encoded)
