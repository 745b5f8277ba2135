"""Files of a request that belong into the container of its code: those attached to messages, and
those that its declaration names.

A file is put there once in a container's life, however often clients send it again; what code has
made of it stays. Another file of the same name is refused, not put over it. Knows uploads and
containers; nothing of items.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO

from ossia.errors import ContainerError
from ossia.server.hosted.uploads import Upload, Uploads
from ossia.server.wire.documents import Sent
from ossia.tools import SessionKey
from ossia.tools.containers import Container, Containers, file_name

FOLDER = "/mnt/data/"
MOST_READ = 32 << 20  # bytes of files that messages name by their ids


@dataclass(frozen=True)
class Attachment:
    """`mark`: by which the same file is known when it is sent again. `path`: in the container."""

    mark: str
    path: str
    content: bytes | Upload = field(repr=False)


@dataclass
class Attached:
    """Of one request of a caller. `uploads` None: files cannot be named by ids here. `files`:
    whether code runs, so that attached files are put where it finds them.
    """

    caller: str = ""
    uploads: Uploads | None = None
    files: bool = False
    made: dict[str, Attachment] = field(default_factory=dict)
    left: int = MOST_READ

    def named(self, id: str) -> tuple[str, bytes]:
        """Name and bytes of an upload. A few bytes of a request must not stand for any number of
        long files. Raises `ContainerError`.
        """
        if self.uploads is None:
            why = "files cannot be named by ids where no code runs: send the file itself, as base64"
            raise ContainerError(why, "file_id", "not_found")
        found = self.uploads.get(self.caller, id)
        self.left -= found.bytes
        if self.left < 0:
            why = f"files that messages name may have {MOST_READ >> 20} MiB together"
            raise ContainerError(why, "file_id", "too_large")
        with self.uploads.open(found) as file:
            return found.name, file.read()

    def put(self, file: Sent) -> str | None:
        """Where code will find it; None where no code runs."""
        if not self.files:
            return None
        if file.id and self.uploads is not None:
            return FOLDER + self._add(file.id, file.name, self.uploads.get(self.caller, file.id))
        mark = f"{hashlib.sha256(file.data).hexdigest()} {file.name}"
        return FOLDER + self._add(mark, file.name, file.data)

    def put_uploads(self, ids: Iterable[str]) -> None:
        """Raises `ContainerError`."""
        assert self.uploads is not None
        for id in ids:
            found = self.uploads.get(self.caller, id)
            self._add(id, found.name, found)

    def _add(self, mark: str, name: str, content: bytes | Upload) -> str:
        known = self.made.get(mark)
        if known is None:
            taken = {each.path for each in self.made.values()}
            known = Attachment(mark, _free_name(file_name(name), taken), content)
            self.made[mark] = known
        return known.path

    async def fill(self, containers: Containers, key: SessionKey) -> None:
        """Puts what is not there yet into the session's container, made if there is none; done
        once. Raises `ContainerError`.
        """
        if self.made:
            await asyncio.to_thread(self._fill, containers, key)
            self.made = {}  # an answer may take long

    def _fill(self, containers: Containers, key: SessionKey) -> None:
        container = containers.of(key.caller, key.container or key.conversation)
        for each in self.made.values():
            self._write(containers, container, each)

    def _write(self, containers: Containers, container: Container, given: Attachment) -> None:
        if given.mark in container.given:
            return
        if self._is_another(container, given):
            raise ContainerError(
                f"the container has another file {given.path!r} already, from an earlier message "
                "or made by code: attach this one under another name",
                "file",
                "name_taken",
            )
        with self._opened(given.content) as file:
            containers.write(container, given.path, file, given.mark)

    def _is_another(self, container: Container, given: Attachment) -> bool:
        """Whether something else stands where it would be put."""
        if all(given.path != known.path for known in container.area.files()):
            return False
        with container.area.open(given.path) as there, self._opened(given.content) as new:
            return _digest(there) != _digest(new)

    def _opened(self, content: bytes | Upload) -> IO[bytes]:
        if isinstance(content, bytes):
            return BytesIO(content)
        assert self.uploads is not None
        return self.uploads.open(content)


def _digest(file: IO[bytes]) -> bytes:
    found = hashlib.sha256()
    while piece := file.read(1 << 20):
        found.update(piece)
    return found.digest()


def _free_name(name: str, taken: set[str]) -> str:
    """`a.csv`, then `a-2.csv`."""
    stem, dot, kind = name.rpartition(".")
    if not stem:
        stem = name
        dot = ""
        kind = ""
    found = name
    number = 1
    while found in taken:
        number += 1
        found = f"{stem}-{number}{dot}{kind}"
    return found
