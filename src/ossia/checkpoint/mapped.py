"""Safetensors files as torch tensors that are views of the file: read when used, never copied.

Knows the file format (8 bytes of header length, a JSON header, the data), the index that lists the
shards of a model, and which paths an index may name. Everything a header claims is checked against
the file before a tensor is made. Knows no model: which names and shapes should be there is
`names.py`.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import mmap
import os
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor

from ossia.errors import CheckpointError
from ossia.kernels import cpu

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_HEADER = 100_000_000  # bytes, the format's own limit
MAX_RANK = 8
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}
# A private mapping that may be written to counts in full against memory unless told not to: the
# kernel would refuse to map a file larger than memory. Python names the flag only since 3.13.
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0


@dataclass
class _Mapped:
    """A file, and what it was like when it was mapped. A change of any of the numbers can mean that
    pages that have not been read yet are others than they were.
    """

    path: Path
    numbers: tuple[int, int, int]  # of bytes, of the last write, of the inode
    is_named: bool = False  # to the handler of `name_files`

    def change(self) -> str | None:
        try:
            found = _numbers(self.path.stat())
        except OSError as error:
            return f"{self.path} is gone: {error.strerror or error}"
        names = ("size", "time of the last write", "inode")
        pairs = zip(names, self.numbers, found, strict=True)
        changes = [f"its {name} was {old} and is {new}" for name, old, new in pairs if old != new]
        return f"{self.path} has changed: {', '.join(changes)}" if changes else None


def _numbers(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


# kept while a tensor is a view of them, or their file is open
_maps: WeakKeyDictionary[mmap.mmap, _Mapped] = WeakKeyDictionary()


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: `begin` and `end` are byte offsets from the start of its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class MappedFile:
    """One safetensors file. Raises `CheckpointError` if its header and its size do not agree in
    every respect.

    Writing to a tensor changes this process's copy of the page, never the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = _map(path)
        entries, self.metadata = _read_header(path, self._map)
        self.entries = {entry.name: entry for entry in entries}

    def tensor(self, name: str) -> Tensor:
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        count = math.prod(entry.shape)
        if count == 0:
            return torch.empty(entry.shape, dtype=dtype)
        if (
            entry.begin % dtype.itemsize
        ):  # the format allows it, processors may not: the one case that is copied
            raw = torch.frombuffer(
                self._map, dtype=torch.uint8, count=entry.end - entry.begin, offset=entry.begin
            )
            return raw.clone().view(dtype).view(entry.shape)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=entry.begin).view(
            entry.shape
        )


def is_mapped(tensor: Tensor) -> bool:
    """Whether a tensor is a view of a mapped file, rather than memory of its own."""
    begin = tensor.data_ptr()
    end = begin + tensor.numel() * tensor.element_size()
    starts = ((_address(data), len(data)) for data in list(_maps))
    return any(start <= begin and end <= start + size for start, size in starts)


def _address(data: mmap.mmap) -> int:
    return torch.frombuffer(data, dtype=torch.uint8, count=1).data_ptr()


def changed_file() -> str | None:
    """What has changed about a file that tensors are still views of; None if nothing has."""
    changes = (mapped.change() for mapped in list(_maps.values()))
    return next((change for change in changes if change is not None), None)


def name_files() -> None:
    """From now on, if a file that tensors are views of becomes shorter than they need, the process
    ends with the file's name, and not only with a signal. Without compiled kernels: the signal.
    """
    library = cpu.compiled()
    if isinstance(library, str):
        return
    for data, mapped in list(_maps.items()):
        if not mapped.is_named:
            mapped.is_named = True
            begin = _address(data)
            library.ossia_watch_map(begin, len(data), os.fsencode(mapped.path))
            finalize(data, library.ossia_forget_map, begin).atexit = False


def map_privately(path: Path, descriptor: int, size: int) -> mmap.mmap:
    """A file's bytes, to be read when used; writing changes this process's copy of a page. Raises
    OSError.
    """
    if _NO_RESERVE:
        flags, access = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        made = mmap.mmap(descriptor, size, flags=flags, prot=access)
    else:
        made = mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
    _maps[made] = _Mapped(path.absolute(), _numbers(os.fstat(descriptor)))
    return made


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path}: expected a regular file")
            if status.st_size < 8:
                raise CheckpointError(
                    f"{path}: {status.st_size} bytes, too short for a safetensors file"
                )
            return map_privately(path, file.fileno(), status.st_size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be mapped: {error.strerror or error}") from error


def _read_header(path: Path, data: mmap.mmap) -> tuple[list[Entry], dict[str, str]]:
    """Every tensor of the file: dtypes known, sizes as shapes imply, no gap, overlap or rest in the
    data. And what the file says about itself.
    """
    size = len(data)
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER, size - 8):
        raise CheckpointError(
            f"{path}: truncated, or not a safetensors file: the header should take {length} bytes, "
            f"the limit is {MAX_HEADER} and the file has {size}"
        )
    header = parse_json(data[8 : 8 + length], path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise CheckpointError(f"{path}: __metadata__ must map names to strings")
    entries = [_entry(path, name, claim, 8 + length) for name, claim in header.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    at = 8 + length
    for entry in entries:
        if entry.begin != at:
            what = "leaves a gap after the one before"
            if entry.begin < at:
                what = "overlaps the one before"
            raise CheckpointError(
                f"{path}: tensor {entry.name!r} {what}: starts at {entry.begin}, expected {at}"
            )
        at = entry.end
    if at != size:
        what = "is truncated" if at > size else "has bytes that belong to no tensor"
        raise CheckpointError(
            f"{path}: the file {what}: its tensors end at byte {at}, the file at {size}"
        )
    return entries, metadata


def _entry(path: Path, name: str, claim: Any, start: int) -> Entry:
    where = f"{path}: tensor {name!r}"
    if not isinstance(claim, dict) or set(claim) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"{where}: expected dtype, shape and data_offsets, found {_short(claim)}"
        )
    dtype = claim["dtype"]
    shape = claim["shape"]
    offsets = claim["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{where}: dtype {_short(dtype)} is not one of {', '.join(DTYPES)}")
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        raise CheckpointError(
            f"{where}: shape {_short(shape)} is not a list of at most {MAX_RANK} sizes"
        )
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{where}: data_offsets {_short(offsets)} are not two byte offsets")
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != expected:
        raise CheckpointError(
            f"{where}: {dtype} {shape} takes {expected} bytes, but data_offsets {offsets} span "
            f"{offsets[1] - offsets[0]}"
        )
    return Entry(name, dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def parse_json(text: bytes, path: Path) -> dict[str, Any]:
    """A JSON object in UTF-8 without duplicate keys. Raises `CheckpointError`."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=_no_duplicates)
    except RecursionError as error:
        raise CheckpointError(f"{path}: the JSON is nested too deeply") from error
    except ValueError as error:  # bad UTF-8 or JSON, a huge integer, a key that is there twice
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {_short(value)}")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {next(name for name in names if names.count(name) > 1)!r}")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of at most 100 MB. Raises `CheckpointError`."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_HEADER + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(text) > MAX_HEADER:
        raise CheckpointError(f"{path}: larger than {MAX_HEADER} bytes")
    return parse_json(text, path)


def inside(directory: Path, name: str) -> Path:
    """The file `name` of `directory`, if it is a plain file name and really lies there.

    A link may point elsewhere in the directory, or, as the Hugging Face download cache has it, into
    the `blobs` folder beside the folder of snapshots. Raises `CheckpointError` for anything else.
    """
    if (
        not name
        or name in (".", "..")
        or name != Path(name).name
        or any(c in name for c in "/\\:\0")
    ):
        raise CheckpointError(
            f"{directory}: {name!r} is not a plain file name; files must lie in the directory "
            "itself"
        )
    path = directory / name
    try:
        target, home = path.resolve(), directory.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise CheckpointError(f"{path}: cannot be resolved: {error}") from error
    blobs = target.parent
    in_cache = blobs.name == "blobs" and blobs.parent in home.parents
    if home not in target.parents and not in_cache:
        raise CheckpointError(f"{path}: is a link out of the checkpoint's directory, to {target}")
    if not target.is_file():
        raise CheckpointError(
            f"{path}: " + ("is not a regular file" if target.exists() else "the file is missing")
        )
    return path


class Source:
    """All tensors of a checkpoint directory, by name.

    The files are those that model.safetensors.index.json names, or model.safetensors, or else every
    *.safetensors. Raises `CheckpointError` if there are none, if one is damaged or missing, if two
    hold the same tensor, or if an index does not say exactly what its shards hold. (The index's
    total_size is not looked at: nothing depends on it.)
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        index = self._read_index() if (directory / INDEX).exists() else None
        names = sorted(set(index.values())) if index is not None else self._without_index()
        files = {name: MappedFile(inside(directory, name)) for name in names}
        if index is not None:
            self._check_index(index, files)
        self._home: dict[str, MappedFile] = {}
        self.metadata: dict[str, str] = {}  # what the files say about themselves, taken together
        for file in files.values():
            self.metadata |= file.metadata
            for name in file.entries:
                if name in self._home:
                    raise CheckpointError(
                        f"tensor {name!r} is in both {self._home[name].path} and {file.path}"
                    )
                self._home[name] = file

    def __contains__(self, name: object) -> bool:
        return name in self._home

    def names(self) -> Iterable[str]:
        return self._home.keys()

    def entry(self, name: str) -> Entry:
        return self._home[name].entries[name]

    def where(self, name: str) -> str:
        """The file and the tensor, for messages."""
        return f"{self._home[name].path}: tensor {name!r}"

    def tensor(self, name: str) -> Tensor:
        """A view of the file."""
        return self._home[name].tensor(name)

    def _without_index(self) -> list[str]:
        if (self.directory / SINGLE).exists():
            return [SINGLE]
        if names := sorted(path.name for path in self.directory.glob("*.safetensors")):
            return names
        raise CheckpointError(f"{self.directory}: no *.safetensors file and no {INDEX}")

    def _read_index(self) -> dict[str, str]:
        path = inside(self.directory, INDEX)
        weight_map = read_json(path).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(
                f"{path}: weight_map must map tensor names to files, found {_short(weight_map)}"
            )
        for tensor, name in weight_map.items():
            if not isinstance(name, str) or not name.endswith(".safetensors"):
                raise CheckpointError(
                    f"{path}: tensor {tensor!r} is said to be in {_short(name)}, which is not a "
                    "safetensors file"
                )
        if (self.directory / SINGLE).exists() and SINGLE not in weight_map.values():
            raise CheckpointError(
                f"{self.directory}: holds both {SINGLE} and {INDEX}; remove the one that is stale"
            )
        return weight_map

    def _check_index(self, index: Mapping[str, str], files: Mapping[str, MappedFile]) -> None:
        path = self.directory / INDEX
        for tensor, name in index.items():
            if tensor not in files[name].entries:
                raise CheckpointError(
                    f"{path}: says that tensor {tensor!r} is in {name}, which does not hold it"
                )
        for name, file in files.items():
            for tensor in file.entries:
                if index.get(tensor) != name:
                    said = (
                        f"says it is in {index[tensor]}" if tensor in index else "does not list it"
                    )
                    raise CheckpointError(
                        f"{path}: {name} holds tensor {tensor!r}, but the index {said}"
                    )
