"""GGUF files of gpt-oss, read: header, config, tensors under native names, tokenizer.

Knows the file format as llama.cpp's tools write it, in one file or in parts; names are `format.py`,
numbers `blocks.py`. Every claim of a header is checked against the file before a tensor is made.
Floating tensors are views of the file; experts and tensors in blocks are made when asked for, which
copies them.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ossia.checkpoint.gguf import format as gguf
from ossia.checkpoint.gguf.blocks import FORMATS, MXFP4_BYTES, blocks_from_ggml, decoded
from ossia.checkpoint.gguf.format import Slot
from ossia.checkpoint.mapped import Entry, map_privately
from ossia.checkpoint.names import Row, Tensors, check_layers
from ossia.config import MX_BLOCK, ModelConfig
from ossia.errors import CheckpointError, ConfigError, TensorMismatchError, TokenizerError
from ossia.tokenizer import HARMONY_SPECIALS, O200K_PATTERN, Tokenizer, o200k
from ossia.tokenizer.file import GPT2_PATTERN, parse, token_bytes

MAGIC = b"GGUF"
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
_FORMAT_NAMES = {form.number: name for name, form in FORMATS.items()}
_NAME_OF_A_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def find(path: Path) -> Path | None:
    """The GGUF file of a path, of one in parts the first: the path itself, whatever its name, if it
    begins as a GGUF does, or the only one in a folder without safetensors.

    Raises `CheckpointError` for a folder of several.
    """
    if path.is_file():
        return parts_of(path)[0] if _is_gguf(path) else None
    if not path.is_dir():
        return None
    for published in (path, path / "original"):
        if any(published.glob("*.safetensors")):
            return None
    files = sorted({parts_of(file)[0] for file in path.iterdir() if _is_gguf(file)})
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:20])
        raise CheckpointError(
            f"{path}: holds {len(files)} GGUF files ({names}); give the path of one, such as "
            f"{files[0]}"
        )
    return files[0] if files else None


def _is_gguf(path: Path) -> bool:
    """By its name or, as downloads and caches often drop the suffix, its first bytes."""
    if not path.is_file():  # to open a pipe would wait for somebody who writes to it
        return False
    if path.suffix == ".gguf":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def parts_of(path: Path) -> list[Path]:
    """The files of the model of which `path` is one: itself, or by its name all parts in order."""
    match = _NAME_OF_A_PART.fullmatch(path.name)
    if match is None or int(match[3]) == 0:
        return [path]
    stem, _, count = match.groups()
    return [path.with_name(f"{stem}-{n:05}-of-{count}.gguf") for n in range(1, int(count) + 1)]


def whole_name(path: Path) -> str:
    """That of a file that holds what the parts hold, of which `path` is one."""
    match = _NAME_OF_A_PART.fullmatch(path.name)
    return path.name if match is None else f"{match[1]}.gguf"


@dataclass(frozen=True)
class _Part:
    """One file: its bytes, and where its tensors lie."""

    path: Path
    data: mmap.mmap
    metadata: dict[str, Any]
    entries: dict[str, Entry]


class GgufSource:
    """The tensors of one GGUF file, or of all its parts, by their names in it.

    Raises `CheckpointError` if a file is damaged or missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        parts = _opened(path)
        self.metadata = parts[0].metadata
        self._home: dict[str, _Part] = {}
        for part in parts:
            for name in part.entries:
                if name in self._home:
                    raise CheckpointError(
                        f"tensor {name!r} is in both {self._home[name].path} and {part.path}"
                    )
                self._home[name] = part

    @property
    def template(self) -> str | None:
        """The chat template, if there is one."""
        found = self.metadata.get(gguf.CHAT_TEMPLATE)
        return found if isinstance(found, str) else None

    def __contains__(self, name: object) -> bool:
        return name in self._home

    def names(self) -> Iterator[str]:
        return iter(self._home)

    def entry(self, name: str) -> Entry:
        return self._home[name].entries[name]

    def where(self, name: str) -> str:
        """The file and the tensor, for messages."""
        return f"{self._home[name].path}: tensor {name!r}"

    def raw(self, name: str, half: int | None = None) -> Tensor:
        """The bytes of a tensor, uint8 [rows..., bytes of a row], or of a half of each expert's
        rows: a view of the file.
        """
        entry = self.entry(name)
        count = entry.end - entry.begin
        data = self._home[name].data
        flat = torch.frombuffer(data, dtype=torch.uint8, count=count, offset=entry.begin)
        *rows, _ = entry.shape
        whole = flat.view(*rows, -1)
        if half is None:
            return whole
        return whole.chunk(2, dim=1)[half]

    def tensor(self, name: str, half: int | None = None) -> Tensor:
        """The values: a view where they are floating, else made of the blocks."""
        entry = self.entry(name)
        if half is not None and len(entry.shape) == 2:  # biases: the rows are what a row holds
            whole = self.tensor(name)
            return whole.chunk(2, dim=1)[half]
        return decoded(self.raw(name, half), entry.dtype)


def _opened(path: Path) -> list[_Part]:
    """All parts, the first with the metadata of all."""
    paths = parts_of(path)
    if missing := [part.name for part in paths if not part.exists()]:
        raise CheckpointError(
            f"{path.parent}: lacks {', '.join(missing[:5])} of a GGUF in {len(paths)} parts; put "
            "all parts into one folder"
        )
    parts = []
    for number, one in enumerate(paths):
        data = _map(one)
        metadata, entries = _read_header(one, data, texts=False)
        _check_part(one, metadata, number, len(paths))
        parts.append(_Part(one, data, metadata, entries))
    wanted = parts[0].metadata.get("split.tensors.count")
    found = sum(len(part.entries) for part in parts)
    if len(parts) > 1 and wanted not in (None, found):
        raise CheckpointError(
            f"{paths[0]}: its parts hold {found} tensors, the first says {wanted}; are they all of "
            "one model?"
        )
    return parts


def _check_part(path: Path, metadata: dict[str, Any], number: int, count: int) -> None:
    """Raises `CheckpointError` unless a file is the part that its name says it is."""
    is_count = metadata.get("split.count", 0)
    is_number = metadata.get("split.no", 0)
    if type(is_count) is not int or type(is_number) is not int:
        raise CheckpointError(
            f"{path}: split.count and split.no must be whole numbers, found {is_count!r:.60} and "
            f"{is_number!r:.60}; download the file again"
        )
    if count == 1 and is_count not in (0, 1):
        raise CheckpointError(
            f"{path}: one of {is_count} parts, under a name that does not say which; name them "
            f"NAME-00001-of-{is_count:05}.gguf and so on, or join them: llama-gguf-split --merge "
            "FIRST OUT"
        )
    if count > 1 and (is_number, is_count) != (number, count):
        raise CheckpointError(
            f"{path}: by its name part {number + 1} of {count}, by its content part "
            f"{is_number + 1} of {is_count or 1}; give the parts the names they had"
        )


def open_gguf(path: Path) -> tuple[ModelConfig, GgufSource, tuple[Row, ...], Tensors]:
    """Open and check a gpt-oss GGUF; reads headers only.

    Raises `CheckpointError` (`TensorMismatchError` for a tensor) or `ConfigError`.
    """
    source = GgufSource(path)
    config = _read_config(source)
    slots = []
    for slot in gguf.slots(config):
        if slot.name not in source and slot.fused().name in source:
            slot = slot.fused()
        slots.append(slot)
    _check(source, slots)
    parts: defaultdict[str, list[Slot]] = defaultdict(list)
    rows = []
    for slot in slots:
        parts[slot.native].append(slot)
        rows.append(Row(slot.native, slot.name, slot.stored_shape, tuple(FORMATS)))
    matrices = [slot.name for slot in slots if slot.kind == "experts"]
    is_packed = all(source.entry(name).dtype == "MXFP4" for name in matrices)
    made: dict[str, Callable[[], Tensor]] = {}
    for native, its in parts.items():
        if its[0].kind != "experts":
            made[native] = partial(_values, source, its)
        elif is_packed:
            for kind in ("blocks", "scales"):
                made[f"{native}.{kind}"] = partial(_packed, source, its, kind)
        else:
            made[f"{native}.weight"] = partial(_values, source, its)
    return config, source, tuple(rows), Tensors(made)


def _values(source: GgufSource, slots: list[Slot]) -> Tensor:
    """A native tensor; of gate and up the rows alternate."""
    held = [source.tensor(slot.name, slot.half) for slot in slots]
    if len(held) == 1:
        return held[0]
    pairs = torch.stack(held, dim=2)
    return pairs.flatten(1, 2)


def _packed(source: GgufSource, slots: list[Slot], kind: str) -> Tensor:
    """Blocks or scales of all experts, of one kind of matrix."""
    experts, rows, columns = slots[0].shape
    shape = [experts, rows * len(slots), columns // MX_BLOCK]
    if kind == "blocks":
        shape.append(MX_BLOCK // 2)
    out = torch.empty(shape, dtype=torch.uint8)
    for slot in slots:
        stored = source.raw(slot.name, slot.half)
        raw = stored.unflatten(-1, (-1, MXFP4_BYTES))
        for expert in range(experts):  # one at a time, which stays in the caches
            if kind == "blocks":
                piece = blocks_from_ggml(raw[expert])
            else:
                piece = raw[expert, ..., 0]
            out[expert, slot.first :: slot.step] = piece
    return out


def _read_config(source: GgufSource) -> ModelConfig:
    path = source.path
    metadata = source.metadata
    architecture = metadata.get("general.architecture")
    if architecture != gguf.ARCHITECTURE:
        raise CheckpointError(
            f"{path}: its architecture is {architecture!r}; only {gguf.ARCHITECTURE!r}, as "
            "llama.cpp's converter writes it, can be loaded"
        )
    if "token_embd.weight" not in source:
        raise TensorMismatchError(f"{path}: lacks token_embd.weight; download the file again")
    layers = metadata.get(f"{gguf.ARCHITECTURE}.block_count", 0)
    tensors = len([*source.names()])
    check_layers(path, layers, tensors)
    vocab_size = source.entry("token_embd.weight").shape[0]
    try:
        return gguf.config_from(metadata, vocab_size)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _check(source: GgufSource, slots: list[Slot]) -> None:
    """Raises `TensorMismatchError` unless the file holds just these tensors, in known formats."""
    for slot in slots:
        name = slot.name
        if name not in source:
            raise TensorMismatchError(f"{source.path}: lacks the tensor {name!r}")
        entry = source.entry(name)
        if entry.dtype not in FORMATS:
            raise TensorMismatchError(
                f"{source.where(name)}: stored as {entry.dtype}; ossia reads {', '.join(FORMATS)}. "
                "Take a file in one of these (their names end in Q4_K_M, Q8_0, F16, MXFP4 and so "
                "on), or the published safetensors files"
            )
        if entry.shape != slot.stored_shape:
            raise TensorMismatchError(
                f"{source.where(name)}: expected {list(slot.stored_shape)}, found "
                f"{list(entry.shape)}"
            )
    known = {"rope_freqs.weight", *(slot.name for slot in slots)}
    unknown = [name for name in source.names() if name not in known]
    if unknown:
        raise TensorMismatchError(
            f"{source.path}: holds tensors that the config does not imply: {unknown[:5]}"
        )


def tokenizer(path: str | os.PathLike[str]) -> Tokenizer | None:
    """The tokenizer in a GGUF file's metadata; None if there is none. If its tokens are o200k's,
    that of this package, which is the same and quickly made.

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
    if not all(isinstance(token, str) for token in tokens):
        raise TokenizerError(f"{file}: tokenizer.ggml.tokens must be strings")
    data = _as_tokenizer_json(tokens, types, merges, pattern)
    try:
        if pattern == O200K_PATTERN and _is_o200k(tokens):
            return Tokenizer.o200k_harmony()
        return Tokenizer(*parse(data))
    except TokenizerError as error:
        raise TokenizerError(f"{file}: {error}") from error


def _is_o200k(tokens: list[str]) -> bool:
    """Whether the tokens are o200k's, and those that Harmony needs follow."""
    if len(tokens) < o200k.SIZE:
        return False
    ours = Tokenizer.o200k_harmony().specials
    if any(tokens[ours[name] : ours[name] + 1] != [name] for name in HARMONY_SPECIALS):
        return False
    plain = {token_bytes(token): n for n, token in enumerate(tokens[: o200k.SIZE])}
    return o200k.in_merge_order(plain) is not None


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
    if data[begin:4] != MAGIC:
        raise CheckpointError(
            f"{path}: is not a GGUF file, although its name says so; download it again"
        )
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
    if kind not in _FORMAT_NAMES:
        return Entry(name, _foreign(kind), shape, begin, begin)
    dtype = _FORMAT_NAMES[kind]
    form = FORMATS[dtype]
    if shape[-1] % form.values:
        raise CheckpointError(
            f"{where}: {dtype} needs a multiple of {form.values} values in a row, found {shape[-1]}"
        )
    end = begin + math.prod(shape) // form.values * form.nbytes
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
