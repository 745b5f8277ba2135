"""A folder that hostile code writes into, and how it is read, measured, filled and removed safely.

No symbolic link is ever followed, no name is trusted: every step of a path is opened from the
folder above it. Code may change the folder at any moment. Knows files only.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ossia.errors import ContainerError

LONGEST_PART = 255  # bytes of a name
DEEPEST = 32  # folders inside folders that are looked into
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
CHUNK = 1 << 20
BLOCK = 512  # bytes, of st_blocks


@dataclass(frozen=True)
class AreaFile:
    """`path`: from the area's top. `modified`: seconds since 1970."""

    path: str
    bytes: int
    modified: float


@dataclass(frozen=True)
class Usage:
    """`entries`: files, folders and links; those too deep to be looked into count as very many."""

    bytes: int
    entries: int


@dataclass(frozen=True)
class Area:
    """`owner`: the user that the files belong to, if it is not us."""

    path: Path
    owner: int | None = None

    def make(self) -> None:
        self.path.mkdir(mode=0o700)
        if self.owner is not None:
            os.chown(self.path, self.owner, self.owner)

    def usage(self, most: int = 1 << 20) -> Usage:
        """What it takes on the disk. Stops to look behind `most` entries."""
        size = 0
        entries = 0
        for path, found in self._walk():
            size += found.st_blocks * BLOCK
            entries += 1
            if path.count("/") >= DEEPEST:
                entries += most
            if entries > most:
                break
        return Usage(size, entries)

    def files(self, most: int = 10_000) -> list[AreaFile]:
        """The regular files, by path; no more than `most`."""
        made = []
        for path, found in self._walk():
            if stat.S_ISREG(found.st_mode):
                made.append(AreaFile(path, found.st_size, found.st_mtime))
            if len(made) >= most:
                break
        return sorted(made, key=lambda file: file.path)

    def open(self, path: str) -> IO[bytes]:
        """A regular file, to read. Raises `ContainerError`."""
        folders, name = _parts(path)
        try:
            with self._folder(folders) as folder:
                descriptor = os.open(name, READ, dir_fd=folder)
        except OSError as error:
            raise _cannot("read", path, error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ContainerError(f"{path!r} is not a file", "path")
        return open(descriptor, "rb")

    def write(self, path: str, content: IO[bytes], most: int) -> AreaFile:
        """A new file, or a new content of one. Raises `ContainerError`, also for over `most` bytes;
        then nothing has changed.
        """
        folders, name = _parts(path)
        temporary = f".{os.urandom(8).hex()}.tmp"
        try:
            with self._folder(folders, make=True) as folder:
                descriptor = os.open(temporary, CREATE, 0o600, dir_fd=folder)
                try:
                    with open(descriptor, "wb") as file:
                        self._fill(file, content, most)
                        found = os.fstat(file.fileno())
                    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(temporary, dir_fd=folder)
                    raise
        except OSError as error:
            raise _cannot("write", path, error) from error
        return AreaFile("/".join([*folders, name]), found.st_size, found.st_mtime)

    def _fill(self, file: IO[bytes], content: IO[bytes], most: int) -> None:
        left = most
        while data := content.read(CHUNK):
            left -= len(data)
            if left < 0:
                raise ContainerError(f"the file has more than {most} bytes", "file", "too_large")
            file.write(data)
        if self.owner is not None:
            os.fchown(file.fileno(), self.owner, self.owner)
        file.flush()

    def remove(self, path: str) -> None:
        """A file or a link. Raises `ContainerError`."""
        folders, name = _parts(path)
        try:
            with self._folder(folders) as folder:
                os.unlink(name, dir_fd=folder)
        except OSError as error:
            raise _cannot("delete", path, error) from error

    def remove_newest(self, most: int) -> None:
        """Delete the files that were written last, until it takes at most `most` bytes."""
        size = self.usage().bytes
        for file in sorted(self.files(), key=lambda file: -file.modified):
            if size <= most:
                return
            with contextlib.suppress(ContainerError):
                self.remove(file.path)
                size -= file.bytes

    def destroy(self) -> None:
        """With everything in it. Nothing may run in it any more."""
        try:
            top = _open_folder(str(self.path), None)
        except FileNotFoundError:
            return
        try:
            while names := os.listdir(top):
                for name in names:
                    _take_away(name, top)
        finally:
            os.close(top)
        os.rmdir(self.path)

    @contextlib.contextmanager
    def _folder(self, folders: list[str], *, make: bool = False) -> Iterator[int]:
        """A descriptor of the folder that these names lead to."""
        here = os.open(self.path, FOLDER)
        try:
            for name in folders:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=here)
                        self._give(name, here)
                below = os.open(name, FOLDER, dir_fd=here)
                os.close(here)
                here = below
            yield here
        finally:
            os.close(here)

    def _give(self, name: str, folder: int) -> None:
        if self.owner is not None:
            os.chown(name, self.owner, self.owner, dir_fd=folder, follow_symlinks=False)

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        with contextlib.suppress(OSError):
            top = os.open(self.path, FOLDER)
            yield from _entries(top, "", 0)


def _entries(folder: int, before: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    """Paths below a folder, whose descriptor is closed. What vanishes meanwhile is passed over."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                    path = before + os.fsencode(entry.name).decode(errors="replace")
                    yield path, found
                    if not stat.S_ISDIR(found.st_mode) or depth >= DEEPEST:
                        continue
                    below = os.open(entry.name, FOLDER, dir_fd=folder)
                except OSError:
                    continue
                yield from _entries(below, f"{path}/", depth + 1)
    finally:
        os.close(folder)


def _parts(path: str) -> tuple[list[str], str]:
    """The folders and the name. Raises `ContainerError` for a path that leaves the area."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    wrong = ".." in parts or "\0" in path or not parts or len(parts) > DEEPEST
    if wrong or any(_length(part) > LONGEST_PART for part in parts):
        raise ContainerError(f"{path[:200]!r} is not a path in the container", "path")
    return parts[:-1], parts[-1]


def _length(name: str) -> int:
    """In bytes. Half a character is in no name that we write."""
    try:
        return len(name.encode())
    except UnicodeEncodeError:
        return LONGEST_PART + 1


def _cannot(what: str, path: str, error: OSError) -> ContainerError:
    code = "not_found" if isinstance(error, FileNotFoundError) else None
    return ContainerError(f"cannot {what} {path[:200]!r}: {error.strerror}", "path", code)


def _open_folder(name: str, above: int | None) -> int:
    """Also one whose permissions keep everybody out."""
    try:
        return os.open(name, FOLDER, dir_fd=above)
    except PermissionError:
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=above)
        try:
            os.chmod(f"/proc/self/fd/{held}", 0o700)
        finally:
            os.close(held)
        return os.open(name, FOLDER, dir_fd=above)


def _take_away(name: str, top: int) -> None:
    """Remove an entry. The folders in a folder are moved to the top first: so deep ones need
    neither long paths nor a deep stack.
    """
    if not stat.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=top)
        return
    folder = _open_folder(name, top)
    try:
        os.fchmod(folder, 0o700)
        for child in os.listdir(folder):
            if not stat.S_ISDIR(os.stat(child, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(child, dir_fd=folder)
                continue
            below = _open_folder(child, folder)
            try:
                os.fchmod(below, 0o700)  # its `..` is about to change
            finally:
                os.close(below)
            os.rename(child, f".{os.urandom(8).hex()}", src_dir_fd=folder, dst_dir_fd=top)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)
