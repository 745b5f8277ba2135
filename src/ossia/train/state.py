"""The resumable state of a run: everything that decides what comes next. Not a released checkpoint.

One torch file, written under a temporary name and renamed, so that a kill or a full disk at any
moment leaves the old one or the new. Knows files and dictionaries of tensors; what they mean is the
trainer's.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ossia import files
from ossia.errors import TrainingError
from ossia.train.settings import under_todays_names

STATE = "state.pt"
SHARDED = "state.json"  # of several processes: parallel/state.py
State = dict[str, Any]
Path_ = tuple[Any, ...]


class Saver:
    """`folder/state.pt`, read at once and written by a thread of its own.

    An error of that thread is raised by what is asked next: `check`, `write` or `wait`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / STATE
        self._pool = ThreadPoolExecutor(1, "state")
        self._writing: Future[None] | None = None

    def load(self, identity: dict[str, Any]) -> State | None:
        """As `load_state`; also raises `TrainingError` if several processes have left their state
        here.
        """
        if self.path.with_name(SHARDED).exists():
            raise TrainingError(
                f"{self.path.parent} holds the state of a run in several processes ({SHARDED}), "
                "which one alone cannot go on from: set parallel (its sizes may be 1) and start "
                "it with torchrun, or use another folder"
            )
        return load_state(self.path, identity)

    def write(self, state: State) -> None:
        """Begin to write `state`, whose tensors nobody may change from here on (see `copied`)."""
        self.wait()
        self._writing = self._pool.submit(save_state, self.path, state)

    def check(self) -> None:
        """Raise the error of a write that failed meanwhile."""
        if self._writing is not None and self._writing.done():
            self._finish()

    def wait(self) -> None:
        """Until what was begun is on the disk."""
        self._finish()

    def _finish(self) -> None:
        writing = self._writing
        self._writing = None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        self._pool.shutdown()


def changed(value: Any, change: Callable[[Path_, Any], Any], path: Path_ = ()) -> Any:
    """`value` with `change(path, part)` in the place of every part of it, from outside in; what is
    changed is not looked into. A path is made of keys and places.
    """
    new = change(path, value)
    if new is not value:
        return new
    if isinstance(value, dict):
        return {key: changed(part, change, (*path, key)) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [changed(part, change, (*path, n)) for n, part in enumerate(value)]
        return type(value)(parts)
    return value


def copied(value: Any) -> Any:
    """`value` with every tensor in it copied to memory of its own, on the CPU."""

    def copy(path: Path_, part: Any) -> Any:
        return part.detach().to("cpu", copy=True) if isinstance(part, Tensor) else part

    return changed(value, copy)


def save_state(path: Path, state: State) -> None:
    """Replace `path`. Raises `TrainingError` with the bytes that were needed if they cannot be
    written; what was at `path` is then still there.
    """
    with replacing(path, lambda: _bytes_of(state)) as file:
        torch.save(state, file)


def load_state(path: Path, identity: dict[str, Any]) -> State | None:
    """The state at `path`, or None if there is none. Raises `TrainingError` if it is of another run
    or unreadable.
    """
    if not path.exists():
        return None
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        why = f" ({error.strerror})" if isinstance(error, OSError) else ""
        raise TrainingError(
            f"{path} cannot be read{why}; if it is damaged, delete it to start again"
        ) from error
    check_identity(path, state.get("identity", {}), identity)
    return state


def check_identity(path: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises `TrainingError` if the state at `path` is of another run; it names what differs."""
    stored = under_todays_names(stored)
    wanted = json.loads(json.dumps(wanted))
    changed = [
        f"{name} was {stored.get(name)!r} and is {wanted.get(name)!r}"
        for name in sorted(stored.keys() | wanted.keys())
        if stored.get(name) != wanted.get(name)
    ]
    if changed:
        raise TrainingError(
            f"{path} is of another run: {'; '.join(changed)}; use another folder, or delete it to "
            "start again"
        )


class _Watched:
    """A file that remembers which error a write met: torch.save hides it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


@contextmanager
def replacing(path: Path, needed: Callable[[], int]) -> Iterator[Any]:
    """A binary file to fill, which becomes `path` if the body succeeds and vanishes if it does not.

    Raises `TrainingError` if the system refuses a write, with the `needed()` bytes of the whole.
    """
    watched: _Watched | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path, sole_writer=True) as file:
            watched = _Watched(file)
            yield watched
    except OSError as error:
        raise TrainingError(_no_room(path, error, needed())) from error
    except RuntimeError as error:
        if watched is None or watched.error is None:
            raise
        raise TrainingError(_no_room(path, watched.error, needed())) from error


def _no_room(path: Path, reason: OSError, needed: int) -> str:
    try:
        free = f"{shutil.disk_usage(path.parent).free:,} are free there"
    except OSError:
        free = "how many are free there is unknown"
    kept = f"there was no {path.name} yet"
    if path.exists():
        kept = f"the {path.name} from before is untouched"
    return (
        f"{path}: cannot be written ({reason.strerror}): {needed:,} bytes are needed, {free}; "
        f"{kept}. Make room and start the run again: it goes on from its last state"
    )


def write_whole(path: Path, data: bytes) -> None:
    """As `replacing`."""
    with replacing(path, lambda: len(data)) as file:
        file.write(data)


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.count += size
        return size

    def flush(self) -> None:
        pass


def _bytes_of(state: State) -> int:
    counter = _Counter()
    torch.save(state, counter)  # type: ignore[arg-type]
    return counter.count
