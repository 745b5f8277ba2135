"""A folder that paths cannot lead out of: every part of a path is opened below the one before, and
no symbolic link is followed.

Knows the file system; nothing of patches. The folder is opened once, so it does not matter what its
own name comes to mean; what is replaced by a link between two steps is refused at the second.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TypeAlias

from ossia.errors import PatchError

MOST_BYTES = 10 << 20  # of a file
MOST_PATH = 4096  # characters
MOST_NAMES = 10_000  # of a folder, among which a similar one is looked for
FORBIDDEN = (".git",)  # its hooks and settings are programs that somebody else runs
OPENS_BELOW = os.open in os.supports_dir_fd  # not on Windows, which lacks the flags, too
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | NO_LINK
Parts: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """A file as it was read. `stamp` changes when the file does."""

    data: bytes
    mode: int
    owner: tuple[int, int]
    stamp: tuple[int, ...]


def parts_of(path: str) -> Parts:
    """Raises PatchError for a path that is not one below the folder."""
    wrong = _wrong_with(path)
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if wrong is None and not parts:
        wrong = "names no file"
    if wrong is None and ".." in parts:
        wrong = "leads out of the folder: use a path without `..`"
    if wrong is None and any(part.casefold() in FORBIDDEN for part in parts):
        wrong = "is inside of `.git`, which patches may not change"
    if wrong is not None:
        raise PatchError(f"{path[:200]!r} {wrong}")
    return parts


def _wrong_with(path: str) -> str | None:
    if path.startswith("/"):
        return "is absolute: use a path relative to the folder"
    if path.endswith("/"):
        return "names a folder"
    if len(path) > MOST_PATH:
        return f"is longer than {MOST_PATH} characters"
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        return "has control characters"
    return None


class Jail:
    """Raises PatchError when the folder cannot be opened, and from its methods."""

    def __init__(self, root: Path | str) -> None:
        if not OPENS_BELOW:
            raise PatchError(
                "apply_patch needs a system that opens files below a folder: Linux, macOS"
            )
        try:
            self._root = os.open(root, _FOLDER)
        except OSError as error:
            raise PatchError(f"{root}: cannot be opened as a folder: {error.strerror}") from error

    def close(self) -> None:
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def __del__(self) -> None:
        if hasattr(self, "_root"):
            self.close()

    @contextmanager
    def folder_of(self, parts: Parts, *, made: list[Parts] | None = None) -> Iterator[int]:
        """A descriptor of the folder that the path's last part is in. Folders that are missing are
        made if `made` is a list, which is told of them.
        """
        held = os.dup(self._root)
        try:
            for depth, name in enumerate(parts[:-1], 1):
                below = self._enter(held, parts[:depth], name, made)
                os.close(held)
                held = below
            yield held
        finally:
            os.close(held)

    def _enter(self, held: int, parts: Parts, name: str, made: list[Parts] | None) -> int:
        with _named(parts):
            try:
                return os.open(name, _FOLDER | NO_LINK, dir_fd=held)
            except FileNotFoundError:
                if made is None:
                    raise
            except OSError:
                if _kind(held, name) == "a folder":
                    raise
                raise PatchError(f"{_shown(parts)} is {_kind(held, name)}, not a folder") from None
            try:
                os.mkdir(name, dir_fd=held)
                made.append(parts)
            except FileExistsError:
                pass  # made by another at the same time
            return os.open(name, _FOLDER | NO_LINK, dir_fd=held)

    def kind(self, parts: Parts) -> str | None:
        """What stands there: "a file", "a folder", "a symbolic link", ...; None: nothing."""
        try:
            with self.folder_of(parts) as folder, _named(parts):
                return _kind(folder, parts[-1])
        except FileNotFoundError:
            return None

    def read(self, parts: Parts) -> Found:
        try:
            with self.folder_of(parts) as folder, _named(parts):
                return _read(folder, parts)
        except FileNotFoundError:
            raise PatchError(f"there is no file {_shown(parts)}{self._similar(parts)}") from None

    def _similar(self, parts: Parts) -> str:
        try:
            with self.folder_of(parts) as folder:
                names = os.listdir(folder)[:MOST_NAMES]
        except (OSError, PatchError):
            return ": its folder is missing"
        near = get_close_matches(parts[-1], [name for name in names if name.isprintable()], 1)
        return f"; there is {_shown((*parts[:-1], near[0]))}" if near else ""


def stamp_of(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _shown(parts: Parts) -> str:
    return "/".join(parts)


def _kind(folder: int, name: str) -> str | None:
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    kinds = (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((said for is_kind, said in kinds if is_kind(mode)), "a device")


def _read(folder: int, parts: Parts) -> Found:
    """What is no file is not even opened, which some devices would notice; what becomes something
    else meanwhile does not make us wait.
    """
    name = parts[-1]
    kind = _kind(folder, name)
    if kind is None:
        raise FileNotFoundError
    if kind != "a file":
        raise PatchError(f"{_shown(parts)} is {kind}, not a file")
    with open(os.open(name, _FILE, dir_fd=folder), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise PatchError(f"{_shown(parts)} is no longer a file")
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise PatchError(f"{_shown(parts)} has more than {MOST_BYTES:,} bytes")
    owner = (found.st_uid, found.st_gid)
    return Found(data, stat.S_IMODE(found.st_mode), owner, stamp_of(found))


@contextmanager
def _named(parts: Parts) -> Iterator[None]:
    """What the system refuses is an error about this path."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PatchError(f"{_shown(parts)}: {error.strerror or error}") from error
