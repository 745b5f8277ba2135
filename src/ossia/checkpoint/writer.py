"""Writes a directory of safetensors files piece by piece, and lets it appear only when it is whole.

Every header is worked out from the names, dtypes and shapes before the first byte of data, so
pieces may come in any order and no tensor is ever held in full. Knows the file format and the index
of shards; knows no model.
"""

from __future__ import annotations

import ctypes
import glob
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ossia.checkpoint.mapped import DTYPES, INDEX, SINGLE
from ossia.errors import CheckpointError
from ossia.files import write_json

Progress = Callable[[int, int], object]  # bytes written so far, bytes in all
SHARD_BYTES = 5_000_000_000
ALIGNMENT = 64  # bytes: where a file's data begins, for vector loads from mapped weights


@dataclass(frozen=True)
class Spec:
    """A tensor to be written."""

    name: str
    dtype: str  # the format's name for it
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@contextmanager
def new_directory(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A directory to fill, which becomes `path` if the body succeeds and vanishes if it does not.

    It lies beside `path`, so that a rename is all it takes. Raises `CheckpointError` if `path`
    exists and holds anything, unless told to overwrite; then what was there is removed after the
    new one is whole.
    """
    path = path.absolute()
    _refuse_occupied(path, overwrite)
    unique = secrets.token_hex(4)
    temporary, old = (path.with_name(f".{path.name}.{unique}.{kind}") for kind in ("part", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        _refuse_occupied(path, overwrite)
        _replace(path, temporary, old)
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_killed(path: Path) -> None:
    """What writers of `path` left that were killed; it can be as large as a model. For a caller
    that is the only one to write there, such as a run that holds its folder's lock.
    """
    for kind in ("part", "old"):
        for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.{kind}"):
            shutil.rmtree(left)


def _replace(path: Path, new: Path, old: Path) -> None:
    """`new` becomes `path`, and what was there `old`; or, if that fails, all is as before."""
    if path.exists():
        path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        if old.exists():
            old.rename(path)
        raise


def _refuse_occupied(path: Path, overwrite: bool) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise CheckpointError(f"{path}: exists and is not a directory")
    if path.exists() and any(path.iterdir()) and not overwrite:
        raise CheckpointError(
            f"{path}: exists and is not empty; choose another place, or say to overwrite it"
        )


def _sync(path: Path) -> None:
    """Ask the disk to have it, so that a rename never shows files whose data a crash lost."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Writer:
    """The safetensors files of one directory: made at full size at once, then filled by `write`,
    closed by `finish`.

    Raises `CheckpointError` if the disk has less room than all of them take.
    """

    def __init__(
        self,
        directory: Path,
        specs: Sequence[Spec],
        shard_bytes: int = SHARD_BYTES,
        progress: Progress | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.total = sum(spec.nbytes for spec in specs)
        self.done = 0
        self._progress = progress
        self._directory = directory
        self._specs = {spec.name: spec for spec in specs}
        self._left = {spec.name: spec.nbytes for spec in specs}
        assert len(self._specs) == len(specs), "two tensors of one name"
        if (free := shutil.disk_usage(directory).free) < self.total:
            raise CheckpointError(
                f"{directory.parent}: needs {self.total:,} bytes of disk, {free:,} are free"
            )
        shards = _shards(specs, shard_bytes)
        self._place: dict[str, tuple[Path, int]] = {}
        for n, shard in enumerate(shards, 1):
            name = SINGLE if len(shards) == 1 else f"model-{n:05}-of-{len(shards):05}.safetensors"
            self._place |= _create(directory / name, shard, metadata or {})

    def write(self, name: str, start: int, piece: Tensor) -> None:
        """Write elements [start, start + n) of a tensor, in the order in which they are stored."""
        spec, (path, begin) = self._specs[name], self._place[name]
        assert piece.dtype == DTYPES[spec.dtype], (name, piece.dtype, spec.dtype)
        flat = piece.detach().cpu().contiguous().view(-1)
        nbytes, offset = flat.numel() * flat.itemsize, start * flat.itemsize
        assert offset + nbytes <= spec.nbytes, (name, start, piece.shape)
        with path.open("r+b", buffering=0) as file:
            file.seek(begin + offset)
            _write_all(file.fileno(), flat, nbytes)
        self._left[name] -= nbytes
        self.done += nbytes
        if self._progress is not None:
            self._progress(self.done, self.total)

    def finish(self, index: bool) -> None:
        """Check that all was written; with more than one file and `index`, list what is where."""
        unwritten = [name for name, left in self._left.items() if left]
        assert not unwritten, f"not written exactly once: {unwritten[:5]}"
        weight_map = {name: path.name for name, (path, _) in self._place.items()}
        if index and len(set(weight_map.values())) > 1:
            write_json(
                self._directory / INDEX,
                {"metadata": {"total_size": self.total}, "weight_map": weight_map},
                indent=2,
            )


def _shards(specs: Sequence[Spec], shard_bytes: int) -> list[list[Spec]]:
    """Tensors in order, a new file whenever the next would make one too large."""
    shards: list[list[Spec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    return shards


def _create(
    path: Path, specs: list[Spec], metadata: Mapping[str, str]
) -> dict[str, tuple[Path, int]]:
    """Write the header, set the file's size; where each tensor's data begins."""
    # transformers refuses a file without a format
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    at = 0
    # large elements first, so that all are aligned
    for spec in sorted(specs, key=lambda spec: -DTYPES[spec.dtype].itemsize):
        header[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [at, at + spec.nbytes],
        }
        at += spec.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    start = 8 + len(text)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(start + at)
    return {spec.name: (path, start + header[spec.name]["data_offsets"][0]) for spec in specs}


def _write_all(handle: int, flat: Tensor, nbytes: int) -> None:
    if nbytes == 0:
        return
    # The bytes of a tensor as a buffer, without numpy, which has no bfloat16.
    data = memoryview((ctypes.c_char * nbytes).from_address(flat.data_ptr())).cast("B")
    while data:
        data = data[os.write(handle, data) :]
