"""Files that callers have sent, to be put into containers later: on disk, each its caller's own,
until they expire.

A file is two: its bytes, and after them what is known of it, so that half a file is none. Knows
folders; nothing of the wire.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from pydantic import ConfigDict, TypeAdapter

from ossia.errors import ContainerError
from ossia.files import replacing, write_json

ID = re.compile(r"file-[0-9a-f]{32}")
ABOUT = ".json"
DATA = ".data"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Upload:
    """`created`, `expires`: seconds since 1970."""

    id: str
    caller: str
    name: str
    purpose: str
    bytes: int
    created: float
    expires: float

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)


KEPT = TypeAdapter(Upload)  # what is on the disk may be damaged


@dataclass(frozen=True)
class UploadRules:
    """`quota`: bytes of a caller's files; `files`: how many. `most`: bytes of all callers'.
    `expires_after`: seconds; a file may be given fewer.
    """

    quota: int = 256 << 20
    files: int = 1000
    most: int = 2 << 30
    expires_after: float = 30 * 86400.0


class Uploads:
    """`root`: the folder that keeps them. May be used by many threads."""

    def __init__(
        self,
        root: Path,
        rules: UploadRules | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = root
        self.rules = rules or UploadRules()
        self.clock = clock
        self.mark = ""  # hex digits that new ids begin with
        self._lock = threading.Lock()
        self._known: dict[str, Upload] = {}
        self._coming: dict[str, Upload] = {}  # that are being written
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._read()

    def add(
        self,
        caller: str,
        name: str,
        purpose: str,
        content: IO[bytes],
        expires_after: float | None = None,
    ) -> Upload:
        """Raises `ContainerError` for more than the caller, or all, may keep; then nothing is."""
        now = self.clock()
        seconds = self.rules.expires_after
        if expires_after is not None:
            seconds = min(seconds, expires_after)
        digits = os.urandom(16).hex()
        id = f"file-{self.mark}{digits[len(self.mark) :]}"
        size = content.seek(0, os.SEEK_END)
        content.seek(0)
        made = Upload(
            id,
            caller,
            name,
            purpose,
            size,
            now,
            now + seconds,
        )
        self.put(made, content)
        return made

    def put(self, made: Upload, content: IO[bytes]) -> None:
        """One that has its id already, such as a copy of another server's. As `add`."""
        with self._lock:
            self._sweep()
            self._check_room(made.caller, made.bytes)
            self._coming[made.id] = made
        try:
            self._write(made, content)
            with self._lock:
                self._known[made.id] = made
        finally:
            with self._lock:
                del self._coming[made.id]

    def of_caller(self, caller: str) -> list[Upload]:
        """The oldest first."""
        with self._lock:
            self._sweep()
            own = [each for each in self._known.values() if each.caller == caller]
        return sorted(own, key=lambda each: (each.created, each.id))

    def get(self, caller: str, id: str) -> Upload:
        """Raises `ContainerError` for one that is unknown, expired or another caller's."""
        with self._lock:
            self._sweep()
            found = self._known.get(id)
        if found is None or found.caller != caller:
            raise ContainerError(f"there is no file {id[:60]!r}", "file_id", "not_found")
        return found

    def has(self, id: str) -> bool:
        """Whether it is here, whoever's it is."""
        with self._lock:
            self._sweep()
            return id in self._known

    def open(self, upload: Upload) -> IO[bytes]:
        """Raises `ContainerError` for one that has been deleted meanwhile."""
        try:
            return self._path(upload.id, DATA).open("rb")
        except OSError as error:
            raise ContainerError(
                f"there is no file {upload.id!r} any more", "file_id", "not_found"
            ) from error

    def delete(self, caller: str, id: str) -> None:
        """Raises `ContainerError`, as `get` does."""
        found = self.get(caller, id)
        with self._lock:
            self._remove(found)

    def drop(self, caller: str, id: str) -> None:
        """It was deleted: nothing, if it is not here."""
        with self._lock:
            found = self._known.get(id)
            if found is not None and found.caller == caller:
                self._remove(found)

    def sweep(self) -> None:
        """Remove those that have expired."""
        with self._lock:
            self._sweep()

    def _check_room(self, caller: str, size: int) -> None:
        known = [*self._known.values(), *self._coming.values()]
        own = [each for each in known if each.caller == caller]
        if len(own) >= self.rules.files:
            why = f"there are {len(own)} files already: delete some, or wait until they expire"
            raise ContainerError(why, "file", "too_many")
        left = self.rules.quota - sum(each.bytes for each in own)
        left_of_all = self.rules.most - sum(each.bytes for each in known)
        room = max(0, min(left, left_of_all))
        if size > room:
            why = f"the file has {size} bytes, and there is room for {room}: delete others first"
            raise ContainerError(why, "file", "too_large")

    def _write(self, upload: Upload, content: IO[bytes]) -> None:
        try:
            with replacing(self._path(upload.id, DATA), sole_writer=True) as file:
                shutil.copyfileobj(content, file, CHUNK)
            write_json(self._path(upload.id, ABOUT), asdict(upload), sole_writer=True)
        except BaseException:
            self._remove(upload)
            raise

    def _path(self, id: str, suffix: str) -> Path:
        return self.root / f"{id}{suffix}"

    def _sweep(self) -> None:
        now = self.clock()
        for each in [one for one in self._known.values() if one.expires <= now]:
            self._remove(each)

    def _remove(self, upload: Upload) -> None:
        self._known.pop(upload.id, None)
        for suffix in (ABOUT, DATA):
            self._path(upload.id, suffix).unlink(missing_ok=True)

    def _read(self) -> None:
        """Those of an earlier process. What is no whole file of ours is removed if it has our name,
        and left alone otherwise.
        """
        for path in self.root.iterdir():
            id = path.name.partition(".")[0]
            if path.name != f"{id}{ABOUT}" or not ID.fullmatch(id):
                continue
            with contextlib.suppress(OSError, ValueError):
                kept = KEPT.validate_json(path.read_bytes(), strict=True)
                size = self._path(id, DATA).stat().st_size
                self._known[id] = replace(kept, id=id, bytes=size)
        for path in self.root.iterdir():
            id = path.name.partition(".")[0]
            if ID.fullmatch(id) and id not in self._known:
                path.unlink(missing_ok=True)
