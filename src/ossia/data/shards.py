"""Shards: tokenized documents in files that are mapped, not read. Knows token ids and files; no
text, no model.

A folder of shards:

    index.json     vocabulary (size, fingerprint), counts, and of every file: name, documents,
                   tokens, bytes, checksum
    00000.shard    64 bytes of header, the ids of all documents end to end (uint16, or uint32 for a
                   vocabulary over 65,536), zeros up to a multiple of 8, and the documents' offsets
                   in tokens (uint64, documents + 1)

Integers are little-endian. `index.json` is written last, by renaming: a folder without one holds no
shards, so a writer that was killed leaves nothing that could be mistaken for data.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ossia.data.reading import ShardExamples
from ossia.errors import DataError
from ossia.files import write_json
from ossia.tokenizer import Tokenizer

if TYPE_CHECKING:
    from ossia.data.reading import ShardExamples

MAGIC = b"ossia\x00sh"
VERSION = 1
# magic, version, bytes per id, vocabulary size, documents, tokens, fingerprint
HEADER = struct.Struct("<8sHHIQQ32s")
INDEX = "index.json"
SHARD_TOKENS = 1 << 27  # 256 or 512 MiB a file
_CHECK_BYTES = 1 << 22
_MAPPED = 256  # files at a time: each takes a file descriptor, of which a process often has 1,024


@dataclass(frozen=True)
class Vocabulary:
    """The meaning of ids: their number, and a hash of everything that turns text into ids."""

    size: int
    fingerprint: str  # 64 hexadecimal digits

    @staticmethod
    def of(tokenizer: Tokenizer) -> Vocabulary:
        hashed = blake2b(digest_size=32)
        for token, id_ in sorted(tokenizer.vocabulary.items(), key=lambda item: item[1]):
            hashed.update(b"%d:%d:" % (id_, len(token)) + token)
        for name, id_ in sorted(tokenizer.specials.items(), key=lambda item: item[1]):
            hashed.update(b"special %d:" % id_ + name.encode() + b"\0")
        hashed.update(tokenizer.pattern.encode())
        return Vocabulary(tokenizer.vocab_size, hashed.hexdigest())

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.size <= 1 << 16 else "<u4")


@dataclass(frozen=True)
class ShardFile:
    """One line of the index. `file` is relative to the index."""

    file: str
    documents: int
    tokens: int
    bytes: int
    # BLAKE2b-128 of everything after the header; the header itself is compared with the index
    checksum: str


# ---- writing -------------------------------------------------------------------------------------


def write_shards(
    documents: Iterable[Sequence[int] | NDArray[Any]],
    folder: str | Path,
    vocabulary: Vocabulary | Tokenizer,
    *,
    shard_tokens: int = SHARD_TOKENS,
    overwrite: bool = False,
) -> Shards:
    """Write `documents` (ids, with whatever specials stand around them) to `folder`: everything or
    nothing.

    A file ends with the document that brings it to `shard_tokens`. The same documents give the same
    bytes. Raises `DataError` for a document without ids or with ids outside the vocabulary, and if
    `folder` holds shards already (unless `overwrite`, which replaces them when the new ones are
    complete).
    """
    if isinstance(vocabulary, Tokenizer):
        vocabulary = Vocabulary.of(vocabulary)
    folder = Path(folder)
    if (folder / INDEX).exists() and not overwrite:
        raise DataError(
            f"{folder} holds shards already: choose another folder, or overwrite them on purpose"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.shard.tmp"):  # of a writer that was killed
        leftover.unlink()
    writers: list[_Writer] = []
    done: list[ShardFile] = []
    try:
        for number, document in enumerate(documents):
            with _writing(folder):  # not around `documents`, which may fail to read
                if not writers:
                    writers.append(_Writer(folder / f"{len(done):05}.shard.tmp", vocabulary))
                writers[0].add(document, number)
                if writers[0].tokens >= shard_tokens:
                    full = writers[0].finish()  # if it fails, _discard closes it
                    done.append(full)
                    writers.clear()
        with _writing(folder):
            done += [writer.finish() for writer in writers]
    except BaseException:
        _discard(folder, writers)
        raise
    _publish(folder, done, vocabulary)
    return Shards(folder, vocabulary)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write shards to {folder}: {error}. What was there before is unchanged"
        ) from error


def _discard(folder: Path, writers: Sequence[_Writer]) -> None:
    """Remove everything: after a full disk the space is needed."""
    for writer in writers:
        # closing writes the buffer, which is discarded in any case
        with contextlib.suppress(OSError):
            writer.file.close()
    for leftover in folder.glob("*.shard.tmp"):
        leftover.unlink()


def merge_shards(parts: Sequence[str | Path], folder: str | Path) -> Shards:
    """One index in `folder` over the shards in `parts`, in this order; no file is copied, so
    `parts` must stay.

    `parts` are best inside `folder`, which can then be moved as a whole. Raises `DataError` if
    their vocabularies differ, or if one of them is damaged.
    """
    folder = Path(folder)
    opened = [Shards(part) for part in parts]
    if not opened:
        raise DataError("there are no shards to merge: give at least one folder")
    for one in opened[1:]:
        if one.vocabulary != opened[0].vocabulary:
            raise DataError(
                f"{one.folder} was made with another tokenizer than {opened[0].folder}: tokenize "
                "both with one"
            )
    files = []
    for one in opened:
        for shard in one.files:
            path = os.path.relpath(one.folder / shard.file, folder)
            files.append(
                ShardFile(
                    Path(path).as_posix(),
                    shard.documents,
                    shard.tokens,
                    shard.bytes,
                    shard.checksum,
                )
            )
    folder.mkdir(parents=True, exist_ok=True)
    _write_index(folder, files, opened[0].vocabulary)
    return Shards(folder)


class _Writer:
    """One file that grows; its header is filled in at the end."""

    def __init__(self, path: Path, vocabulary: Vocabulary) -> None:
        self.path, self.vocabulary = path, vocabulary
        self.offsets = array("Q", [0])
        self.checksum = blake2b(digest_size=16)
        self.file: IO[bytes] = path.open("wb", buffering=1 << 20)
        self.file.write(bytes(HEADER.size))

    @property
    def tokens(self) -> int:
        return self.offsets[-1]

    def add(self, document: Sequence[int] | NDArray[Any], number: int) -> None:
        ids = np.asarray(document)
        if ids.ndim != 1 or not ids.size:
            raise DataError(f"document {number} has no tokens: leave empty documents out")
        if ids.dtype.kind not in "iu":
            raise DataError(f"document {number} holds {ids.dtype} values: token ids are integers")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocabulary.size:
            raise DataError(
                f"document {number} has the id {low if low < 0 else high}, but the vocabulary has "
                f"{self.vocabulary.size} ids: it was tokenized with another one"
            )
        self._write(ids.astype(self.vocabulary.dtype).tobytes())
        self.offsets.append(self.tokens + ids.size)

    def finish(self) -> ShardFile:
        """Complete the file under its temporary name."""
        documents, tokens = len(self.offsets) - 1, self.tokens
        self._write(bytes(-(tokens * self.vocabulary.dtype.itemsize) % 8))
        self._write(np.frombuffer(self.offsets, dtype=np.uint64).astype("<u8").tobytes())
        size = self.file.tell()
        self.file.seek(0)
        self.file.write(_header(self.vocabulary, documents, tokens))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return ShardFile(
            self.path.name.removesuffix(".tmp"), documents, tokens, size, self.checksum.hexdigest()
        )

    def _write(self, data: bytes) -> None:
        self.checksum.update(data)
        self.file.write(data)


def _header(vocabulary: Vocabulary, documents: int, tokens: int) -> bytes:
    fingerprint = bytes.fromhex(vocabulary.fingerprint)
    width = vocabulary.dtype.itemsize
    return HEADER.pack(MAGIC, VERSION, width, vocabulary.size, documents, tokens, fingerprint)


def _publish(folder: Path, files: list[ShardFile], vocabulary: Vocabulary) -> None:
    """Give everything its name, the index last. While files are replaced there is no index."""
    try:
        (folder / INDEX).unlink(missing_ok=True)
        for shard in files:
            os.replace(folder / f"{shard.file}.tmp", folder / shard.file)
        _write_index(folder, files, vocabulary)
    except OSError as error:
        raise DataError(
            f"cannot complete the shards in {folder}: {error}. Make room and write them again"
        ) from error
    named = {shard.file for shard in files}
    for path in folder.glob("*.shard"):  # of earlier shards that are overwritten
        if path.name not in named:
            path.unlink()


def _write_index(folder: Path, files: list[ShardFile], vocabulary: Vocabulary) -> None:
    data = {
        "format": "ossia shards",
        "version": VERSION,
        "vocabulary": asdict(vocabulary),
        "documents": sum(shard.documents for shard in files),
        "tokens": sum(shard.tokens for shard in files),
        "shards": [asdict(shard) for shard in files],
    }
    write_json(folder / INDEX, data, sole_writer=True)


# ---- reading -------------------------------------------------------------------------------------


class Shards:
    """A folder of shards, opened: documents 0 to `documents` - 1, each a view of a mapped file.

    Opening reads the index and compares sizes and headers; `verify` reads everything. Raises
    `DataError` naming the file that is missing, truncated, damaged or, if `vocabulary` is given,
    made with another tokenizer.
    """

    def __init__(
        self, folder: str | Path, vocabulary: Vocabulary | Tokenizer | None = None
    ) -> None:
        self.folder = Path(folder)
        self.vocabulary, self.files = _read_index(self.folder)
        wanted = Vocabulary.of(vocabulary) if isinstance(vocabulary, Tokenizer) else vocabulary
        if wanted is not None and wanted != self.vocabulary:
            raise DataError(
                f"{self.folder} was made with another tokenizer ({self.vocabulary.size} ids, "
                "fingerprint "
                f"{self.vocabulary.fingerprint[:12]}; wanted {wanted.size} ids, "
                f"{wanted.fingerprint[:12]}): tokenize "
                "the text again, or use the tokenizer it was made with"
            )
        for shard in self.files:
            _check_header(self.folder / shard.file, shard, self.vocabulary)
        self._firsts = np.cumsum([0, *(shard.documents for shard in self.files)])
        self._mapped: dict[int, tuple[NDArray[Any], NDArray[np.uint64]]] = {}

    @property
    def documents(self) -> int:
        return int(self._firsts[-1])

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.files)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the content, by the checksums of the files: the same documents in the same
        order and cut.
        """
        lines = [f"{shard.documents} {shard.tokens} {shard.checksum}" for shard in self.files]
        return blake2b(
            "\n".join([self.vocabulary.fingerprint, *lines]).encode(), digest_size=16
        ).hexdigest()

    def __len__(self) -> int:
        return self.documents

    def document(self, number: int) -> NDArray[Any]:
        """The ids of document `number`, uint16 or uint32 [n]: a view of the file. Raises
        `IndexError`.
        """
        if not 0 <= number < self.documents:
            raise IndexError(f"document {number} of {self.documents}")
        shard = int(np.searchsorted(self._firsts, number, side="right")) - 1
        tokens, offsets = self._map(shard)
        local = number - int(self._firsts[shard])
        begin, end = int(offsets[local]), int(offsets[local + 1])
        if not begin < end <= len(tokens):
            raise _damaged(
                self.folder / self.files[shard].file,
                f"the offsets of document {local} make no sense",
            )
        return tokens[begin:end]

    def examples(
        self, *, longest: int, seed: int = 0, shuffle: bool = True, rank: int = 0, ranks: int = 1
    ) -> ShardExamples:
        """Endless examples: `examples(...)(state)` yields (example, state to go on from). See
        `ShardExamples`.
        """
        return ShardExamples(self, longest, seed, shuffle, rank, ranks)

    def verify(self) -> None:
        """Read every byte: checksums, offsets that ascend, ids inside the vocabulary. Raises
        `DataError`.
        """
        for number, shard in enumerate(self.files):
            path = self.folder / shard.file
            checksum = blake2b(digest_size=16)
            with path.open("rb") as file:
                file.seek(HEADER.size)
                while chunk := file.read(_CHECK_BYTES):
                    checksum.update(chunk)
            if checksum.hexdigest() != shard.checksum:
                raise _damaged(path, "its checksum is not the one in the index")
            tokens, offsets = self._map(number)
            if (
                int(offsets[0])
                or int(offsets[-1]) != len(tokens)
                or not bool((offsets[1:] > offsets[:-1]).all())
            ):
                raise _damaged(
                    path,
                    "the offsets of its documents do not ascend from 0 to the number of tokens",
                )
            if len(tokens) and int(tokens.max()) >= self.vocabulary.size:
                raise _damaged(
                    path, f"it holds ids outside the vocabulary of {self.vocabulary.size}"
                )

    def _map(self, number: int) -> tuple[NDArray[Any], NDArray[np.uint64]]:
        """(ids, offsets) of file `number`. The files used last stay mapped; pages come and go as
        the system likes.
        """
        found = self._mapped.pop(number, None) or self._map_anew(self.files[number])
        self._mapped[number] = found
        if len(self._mapped) > _MAPPED:
            oldest = next(iter(self._mapped))
            del self._mapped[oldest]  # a file is unmapped when no view of it is left
        return found

    def _map_anew(self, shard: ShardFile) -> tuple[NDArray[Any], NDArray[np.uint64]]:
        path = self.folder / shard.file
        try:
            data = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        except OSError as error:
            raise DataError(
                f"cannot map {path} ({error.strerror}): restore the file, or allow more open files"
            ) from error
        dtype = self.vocabulary.dtype
        tokens = data[HEADER.size : HEADER.size + shard.tokens * dtype.itemsize].view(dtype)
        return tokens, data[len(data) - 8 * (shard.documents + 1) :].view("<u8")


def _read_index(folder: Path) -> tuple[Vocabulary, tuple[ShardFile, ...]]:
    path = folder / INDEX
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{folder} holds no shards: cannot read {path} ({error.strerror}). A writer that was "
            "stopped leaves none; "
            "tokenize again"
        ) from error
    except ValueError as error:
        raise _damaged(path, f"it is not JSON ({error})") from error
    if not isinstance(data, Mapping) or data.get("format") != "ossia shards":
        raise _damaged(path, "it is not an index of shards")
    if data.get("version") != VERSION:
        raise DataError(
            f"{path} is of version {data.get('version')}, this program reads {VERSION}: tokenize "
            "again"
        )
    try:
        vocabulary = Vocabulary(**data["vocabulary"])
        bytes.fromhex(vocabulary.fingerprint)
        files = tuple(ShardFile(**shard) for shard in data["shards"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"something is missing or wrong in it ({error})") from error
    return vocabulary, files


def _check_header(path: Path, shard: ShardFile, vocabulary: Vocabulary) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(HEADER.size)
    except OSError as error:
        raise DataError(
            f"{path} is in the index, but cannot be read ({error.strerror}): restore the file, or "
            "tokenize again"
        ) from error
    if size != shard.bytes:
        raise _damaged(path, f"it has {size} bytes instead of {shard.bytes}")
    if header[: len(MAGIC)] != MAGIC:
        raise _damaged(path, "it does not begin as a shard does")
    if header[-32:] != bytes.fromhex(vocabulary.fingerprint):
        raise DataError(
            f"{path} was made with another tokenizer than its index says: tokenize again"
        )
    padding = -(shard.tokens * vocabulary.dtype.itemsize) % 8
    wanted = (
        HEADER.size + shard.tokens * vocabulary.dtype.itemsize + padding + 8 * (shard.documents + 1)
    )
    if header != _header(vocabulary, shard.documents, shard.tokens) or size != wanted:
        raise _damaged(path, "its header does not agree with the index")


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path} is damaged: {what}. Restore the file from a copy, or tokenize the text again"
    )
