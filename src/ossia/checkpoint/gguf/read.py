"""GGUF files of gpt-oss, read: header, config, tensors under native names, tokenizer.

Knows the file format as llama.cpp's converter writes it; names and numbers are `format.py`. Every
claim of a header is checked against the file before a tensor is made. Floating tensors are views of
the file; experts and tensors in Q8_0 are re-laid when asked for, which copies them.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ossia.checkpoint.gguf import format as gguf
from ossia.checkpoint.gguf.format import Slot
from ossia.checkpoint.mapped import DTYPES, Entry, map_privately
from ossia.checkpoint.names import Row, check_layers
from ossia.config import MX_BLOCK, ModelConfig
from ossia.errors import CheckpointError, ConfigError, TensorMismatchError, TokenizerError
from ossia.tokenizer import O200K_PATTERN, Tokenizer
from ossia.tokenizer.file import GPT2_PATTERN, parse

VERSIONS = (2, 3)
MAX_RANK = 4
# token types; all others are specials to us
NORMAL = 1
UNUSED = 5
PATTERNS = {"gpt-4o": O200K_PATTERN, "gpt-2": GPT2_PATTERN}  # llama.cpp's names of ways to cut text
# The types of numbers in metadata, as `struct` writes them.
_NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRING = 8
_ARRAY = 9
_FLOATS = ("F32", "F16", "BF16")
_ACCEPTED = {"matrix": (*_FLOATS, "Q8_0"), "vector": _FLOATS, "experts": ("MXFP4",)}
_TYPE_NAMES = {number: name for name, (number, _, _) in gguf.TYPES.items()}


def find(path: Path) -> Path | None:
    """The GGUF file of a path: the path itself, or the only one in a folder without safetensors.

    Raises `CheckpointError` for a folder of several.
    """
    if path.suffix == ".gguf" and path.is_file():
        return path
    if not path.is_dir():
        return None
    for published in (path, path / "original"):
        if any(published.glob("*.safetensors")):
            return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise CheckpointError(
            f"{path}: holds {len(files)} GGUF files; give the path of one, such as {files[0]}"
        )
    return files[0] if files else None


class GgufSource:
    """The tensors of one GGUF file, by their names in it.

    Raises `CheckpointError` if the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = _map(path)
        self.metadata, self._entries = _read_header(path, self._map, texts=False)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def names(self) -> Iterator[str]:
        return iter(self._entries)

    def entry(self, name: str) -> Entry:
        return self._entries[name]

    def where(self, name: str) -> str:
        """The file and the tensor, for messages."""
        return f"{self.path}: tensor {name!r}"

    def raw(self, name: str) -> Tensor:
        """The bytes of a tensor, uint8 [rows..., bytes of a row]: a view of the file."""
        entry = self._entries[name]
        count = entry.end - entry.begin
        flat = torch.frombuffer(self._map, dtype=torch.uint8, count=count, offset=entry.begin)
        return flat.view(*entry.shape[:-1], -1)

    def tensor(self, name: str) -> Tensor:
        """The values: a view where they are floating, float16 of its own where they are Q8_0."""
        raw = self.raw(name)
        dtype = self._entries[name].dtype
        if dtype == "Q8_0":
            return gguf.from_q8(raw)
        return raw.view(DTYPES[dtype])


@dataclass(frozen=True)
class GgufState(Mapping[str, Tensor]):
    """Every tensor under its native name, made when asked for."""

    source: GgufSource
    parts: Mapping[str, tuple[Slot, ...]]  # by native name, of experts the stem

    def __iter__(self) -> Iterator[str]:
        for native, slots in self.parts.items():
            if slots[0].kind == "experts":
                yield from (f"{native}.blocks", f"{native}.scales")
            else:
                yield native

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, native: str) -> Tensor:
        stem, _, kind = native.rpartition(".")
        if kind in ("blocks", "scales") and stem in self.parts:
            return self._packed(self.parts[stem], kind)
        slots = self.parts[native]
        if len(slots) == 1:
            return self.source.tensor(slots[0].name)
        gate_and_up = [self.source.tensor(slot.name) for slot in slots]
        return torch.stack(gate_and_up, dim=-1).flatten(-2)

    def _packed(self, slots: tuple[Slot, ...], kind: str) -> Tensor:
        experts, rows, columns = slots[0].shape
        shape = [experts, rows * len(slots), columns // MX_BLOCK]
        if kind == "blocks":
            shape.append(MX_BLOCK // 2)
        out = torch.empty(shape, dtype=torch.uint8)
        for slot in slots:
            stored = self.source.raw(slot.name)
            raw = stored.unflatten(-1, (-1, gguf.MXFP4_BYTES))
            for expert in range(experts):  # one at a time, which stays in the caches
                if kind == "blocks":
                    piece = gguf.blocks_from_ggml(raw[expert])
                else:
                    piece = raw[expert, ..., 0]
                out[expert, slot.first :: slot.step] = piece
        return out


def open_gguf(path: Path) -> tuple[ModelConfig, GgufSource, tuple[Row, ...], GgufState]:
    """Open and check a gpt-oss GGUF; reads its header only.

    Raises `CheckpointError` (`TensorMismatchError` for a tensor) or `ConfigError`.
    """
    source = GgufSource(path)
    config = _read_config(source)
    slots = gguf.slots(config)
    _check(source, slots)
    parts: defaultdict[str, list[Slot]] = defaultdict(list)
    rows = []
    for slot in slots:
        parts[slot.native].append(slot)
        rows.append(Row(slot.native, slot.name, slot.shape, _ACCEPTED[slot.kind]))
    by_name = {native: tuple(its) for native, its in parts.items()}
    state = GgufState(source, by_name)
    return config, source, tuple(rows), state


def _read_config(source: GgufSource) -> ModelConfig:
    path = source.path
    metadata = source.metadata
    architecture = metadata.get("general.architecture")
    if architecture != gguf.ARCHITECTURE:
        raise CheckpointError(
            f"{path}: its architecture is {architecture!r}; only {gguf.ARCHITECTURE!r}, as "
            "llama.cpp's converter writes it, can be loaded"
        )
    if metadata.get("split.count", 0) not in (0, 1):
        raise CheckpointError(
            f"{path}: one part of several; join them first: llama-gguf-split --merge FIRST OUT"
        )
    if "token_embd.weight" not in source:
        raise TensorMismatchError(f"{path}: lacks token_embd.weight")
    layers = metadata.get(f"{gguf.ARCHITECTURE}.block_count", 0)
    tensors = len([*source.names()])
    check_layers(path, layers, tensors)
    vocab_size = source.entry("token_embd.weight").shape[0]
    try:
        return gguf.config_from(metadata, vocab_size)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _check(source: GgufSource, slots: tuple[Slot, ...]) -> None:
    """Raises `TensorMismatchError` unless the file holds just these tensors, in known formats."""
    expected = {slot.name: slot for slot in slots}
    for name, slot in expected.items():
        if name not in source:
            raise TensorMismatchError(f"{source.path}: lacks the tensor {name!r}")
        entry = source.entry(name)
        accepted = _ACCEPTED[slot.kind]
        if entry.dtype not in accepted:
            raise TensorMismatchError(
                f"{source.where(name)}: stored as {entry.dtype}; ossia reads {', '.join(accepted)} "
                "here. Take a file that keeps the experts in MXFP4 and the rest in BF16, F16 or "
                "Q8_0 (often named mxfp4 or bf16), or the published safetensors files"
            )
        if entry.shape != slot.shape:
            raise TensorMismatchError(
                f"{source.where(name)}: expected {list(slot.shape)}, found {list(entry.shape)}"
            )
    known = {*expected, "rope_freqs.weight"}
    unknown = [name for name in source.names() if name not in known]
    if unknown:
        raise TensorMismatchError(
            f"{source.path}: holds tensors that the config does not imply: {unknown[:5]}"
        )


def tokenizer(path: str | os.PathLike[str]) -> Tokenizer | None:
    """The tokenizer in a GGUF file's metadata; None if there is none.

    Raises `TokenizerError` if it is of a kind that we cannot honour, `CheckpointError` for a
    damaged file.
    """
    file = Path(path)
    found, _ = _read_header(file, _map(file), texts=True)
    model = found.get("tokenizer.ggml.model", "none")
    if model in ("none", "no_vocab"):
        return None
    pre = found.get("tokenizer.ggml.pre")
    pattern = found.get(gguf.PATTERN) or PATTERNS.get(str(pre))
    if model != "gpt2" or pattern is None:
        raise TokenizerError(
            f"{file}: a tokenizer of kind {model!r}, {pre!r}; known are gpt2 with gpt-4o or gpt-2"
        )
    tokens = found.get("tokenizer.ggml.tokens")
    types = found.get("tokenizer.ggml.token_type")
    merges = found.get("tokenizer.ggml.merges") or []
    if not isinstance(tokens, list) or not isinstance(types, list) or len(tokens) != len(types):
        raise TokenizerError(f"{file}: tokenizer.ggml.tokens and .token_type do not match")
    data = _as_tokenizer_json(tokens, types, merges, pattern)
    try:
        return Tokenizer(*parse(data))
    except TokenizerError as error:
        raise TokenizerError(f"{file}: {error}") from error


def _as_tokenizer_json(
    tokens: list[Any], types: list[Any], merges: Any, pattern: Any
) -> dict[str, Any]:
    """The same tokenizer as a `tokenizer.json` describes it."""
    specials = []
    vocab = {}
    for number, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == NORMAL:
            vocab[token] = number
        elif kind != UNUSED:
            specials.append({"content": token, "id": number})
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return {
        "added_tokens": specials,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


# ---- the file format -----------------------------------------------------------------------------


def _map(path: Path) -> mmap.mmap:
    """Private, so that tensors may be written to without touching the file."""
    try:
        with path.open("rb") as file:
            number = file.fileno()
            size = os.fstat(number).st_size
            if size < 24:
                raise CheckpointError(f"{path}: too short for a GGUF file")
            return map_privately(path, number, size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be mapped: {error.strerror or error}") from error


class _Cursor:
    """Reads a header from front to back. Raises `CheckpointError` past the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.at = 0

    def skip(self, count: int) -> int:
        """Move past the next `count` bytes; returns where they begin."""
        begin = self.at
        self.at += count
        if self.at > len(self.data):
            raise CheckpointError(
                f"{self.path}: the file is truncated or damaged: its header runs past the end"
            )
        return begin

    def number(self, code: str) -> Any:
        layout = struct.Struct("<" + code)
        begin = self.skip(layout.size)
        (value,) = layout.unpack_from(self.data, begin)
        return value

    def string(self) -> str:
        length = self.number("Q")
        begin = self.skip(length)
        raw = self.data[begin : begin + length]
        return raw.decode("utf-8", errors="replace")

    def value(self, kind: int, texts: bool) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            of = self.number("I")
            count = self.number("Q")
            return self.array(of, count, texts)
        if kind not in _NUMBERS:
            raise CheckpointError(f"{self.path}: metadata of the unknown type {kind}")
        code = _NUMBERS[kind]
        value = self.number(code)
        if code == "f":
            return float(str(np.float32(value)))  # its shortest decimal: 1e-5, not 9.99999974e-6
        return value

    def array(self, kind: int, count: int, texts: bool) -> list[Any] | None:
        if kind == _STRING and texts:
            return [self.string() for _ in range(count)]
        if kind == _STRING:  # a vocabulary: half a million strings that only a tokenizer wants
            for _ in range(count):
                length = self.number("Q")
                self.skip(length)
            return None
        if kind not in _NUMBERS:
            raise CheckpointError(f"{self.path}: a metadata array of the unknown type {kind}")
        code = _NUMBERS[kind]
        begin = self.skip(count * struct.calcsize("<" + code))
        values = struct.unpack_from(f"<{count}{code}", self.data, begin)
        return list(values)


def _read_header(
    path: Path, data: mmap.mmap, texts: bool
) -> tuple[dict[str, Any], dict[str, Entry]]:
    """(metadata, tensors); arrays of strings only if `texts` are wanted, else None."""
    cursor = _Cursor(path, data)
    begin = cursor.skip(4)
    if data[begin:4] != b"GGUF":
        raise CheckpointError(f"{path}: is not a GGUF file")
    version = cursor.number("I")
    if version not in VERSIONS:
        raise CheckpointError(
            f"{path}: GGUF version {version:#x}; versions 2 and 3, little-endian, can be read"
        )
    tensors = cursor.number("Q")
    pairs = cursor.number("Q")
    metadata = {}
    for _ in range(pairs):
        key = cursor.string()
        kind = cursor.number("I")
        metadata[key] = cursor.value(kind, texts)
    claims = [_claim(cursor) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", gguf.ALIGNMENT)
    if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
        raise CheckpointError(f"{path}: general.alignment is {alignment!r}")
    start = -(-cursor.at // alignment) * alignment
    entries: dict[str, Entry] = {}
    for name, shape, kind, offset in claims:
        if name in entries:
            raise CheckpointError(f"{path}: tensor {name!r} is listed twice")
        where = f"{path}: tensor {name!r}"
        begin = start + offset
        entries[name] = _entry(where, name, shape, kind, begin, len(data), alignment)
    return metadata, entries


def _claim(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    rank = cursor.number("I")
    if not 1 <= rank <= MAX_RANK:
        raise CheckpointError(
            f"{cursor.path}: tensor {name!r} has {rank} dimensions; 1 to {MAX_RANK} are allowed"
        )
    backwards = [cursor.number("Q") for _ in range(rank)]
    shape = tuple(reversed(backwards))
    kind = cursor.number("I")
    offset = cursor.number("Q")
    return name, shape, kind, offset


def _entry(
    where: str, name: str, shape: tuple[int, ...], kind: int, begin: int, size: int, alignment: int
) -> Entry:
    """Tensors of other formats than ours have no size to check: `_check` refuses them by name."""
    if kind not in _TYPE_NAMES:
        return Entry(name, _foreign(kind), shape, begin, begin)
    dtype = _TYPE_NAMES[kind]
    _, values, nbytes = gguf.TYPES[dtype]
    if shape[-1] % values:
        raise CheckpointError(
            f"{where}: {dtype} needs a multiple of {values} values in a row, found {shape[-1]}"
        )
    end = begin + math.prod(shape) // values * nbytes
    if begin % alignment or end > size:
        what = "the file is truncated" if end > size else f"not aligned to {alignment}"
        raise CheckpointError(f"{where}: {what}: it takes bytes {begin} to {end} of {size}")
    if 0 in shape:
        raise CheckpointError(f"{where}: is empty: {list(shape)}")
    return Entry(name, dtype, shape, begin, end)


def _foreign(kind: int) -> str:
    """GGML's name for one of its other formats."""
    from gguf import GGMLQuantizationType  # slow: takes longer than reading the header

    known = {int(member): member.name for member in GGMLQuantizationType}
    return known.get(kind, f"the unknown type {kind}")
