"""Files that change in one step: a reader finds the old file or the new one, never a part of one.

The new bytes are written to a name in the same folder, brought to the disk, and renamed. So a full
disk, Ctrl-C, a kill or a power cut leaves what was there before. Knows the file system, and nothing
of what files hold. Wraps no error: callers know what to tell a user about an `OSError`.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

BUFFER = 1 << 20  # bytes


@contextmanager
def beside(path: Path, *, sole_writer: bool = False) -> Iterator[Path]:
    """A name in the folder of `path` for a file that is to become `path`. If it still exists at the
    end, it is removed.

    The name is a new one every time, so that two writers of `path` never write into one file. A
    caller that holds a lock, or owns the folder, says `sole_writer`: then the name is always the
    same, and what a killed writer left is overwritten by the next instead of filling the disk.
    """
    name = f".{path.name}.{os.urandom(4).hex()}.tmp"
    if sole_writer:
        name = f"{path.name}.tmp"
    temporary = path.with_name(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, *, sole_writer: bool = False) -> Iterator[IO[bytes]]:
    """A binary file to fill. It becomes `path` if the body succeeds, and vanishes if it fails.

    A file that is replaced passes on its permissions; a symbolic link is replaced itself, not the
    file that it names. Raises `OSError` as the system gives it.
    """
    mode = _mode_of(path)
    with beside(path, sole_writer=sole_writer) as temporary:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb", buffering=BUFFER, opener=_opener(mode)) as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)  # the umask may have taken some of it
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _mode_of(path: Path) -> int | None:
    """The permissions of a regular file; None if there is none."""
    try:
        found = path.lstat().st_mode
    except FileNotFoundError:
        return None
    return stat.S_IMODE(found) if stat.S_ISREG(found) else None


def _opener(mode: int | None) -> Callable[[str, int], int]:
    """Makes a file with these permissions, so that a secret is never readable, not even briefly."""
    return partial(os.open, mode=0o666 if mode is None else mode)


def replace_file(path: Path, content: str | bytes, *, sole_writer: bool = False) -> None:
    """Write `content`, text as UTF-8. Raises `OSError`."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, sole_writer=sole_writer) as file:
        file.write(data)


def write_json(path: Path, value: Any, *, indent: int = 1, sole_writer: bool = False) -> None:
    """Write `value` as JSON in ASCII, with a line break at the end. Raises `OSError`."""
    text = json.dumps(value, indent=indent)
    replace_file(path, text + "\n", sole_writer=sole_writer)
