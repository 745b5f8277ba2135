"""The resumable state of a run on several processes: torch's distributed checkpoints (DCP), and
which is the last one.

Every process writes what it holds, side by side, while training goes on. Any number of processes,
cut in any way, can read it again. `state-<step>/` is one state: DCP's files, and `rest.pt` with all
that is not a tensor. A state counts once `state.json` names it, which happens in one rename
when all processes have written: a kill at any moment leaves the old one or the new. All processes
must see the same folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from ossia.errors import TrainingError
from ossia.train.state import (
    SHARDED,
    STATE,
    Path_,
    Saver,
    State,
    changed,
    check_identity,
    replacing,
    write_whole,
)

POINTER = SHARDED
REST = "rest.pt"
UNREADABLE = (OSError, RuntimeError, EOFError, KeyError, UnpicklingError, CheckpointException)
HELD = "tensor"  # in `rest.pt`, (HELD, name) stands for a tensor among DCP's files

Tensors = dict[str, Tensor]
# Which parameter the tensor at a path of the worker's state is cut as; None: it is whole
# everywhere.
Like = Callable[[Path_], Tensor | None]


class ShardedSaver(Saver):
    """The saver of one process among several. Making one, and its methods but `check` and
    `close`, are collective: all processes call them in the same order.
    """

    def __init__(self, folder: Path, like: Like) -> None:
        super().__init__(folder)
        self.path = folder / POINTER
        self._like = like
        self._group = dist.new_group(backend="gloo")  # of its own: training goes on while it waits

    def load(self, identity: State) -> State | None:
        """The state that `state.json` names, or None if there is none. Removes what a killed run
        left half written.

        Raises `TrainingError` if it is of another run or unreadable.
        """
        pointer = self._pointer()
        if dist.get_rank() == 0:
            self._remove_all_but(pointer["folder"] if pointer else None)
        dist.barrier(self._group)
        if pointer is None:
            if (self.path.parent / STATE).exists():
                raise TrainingError(
                    f"{self.path.parent} holds the state of a run in one process ({STATE}), which "
                    "several cannot go on from: leave parallel out, or use another folder"
                )
            return None
        check_identity(self.path, pointer["identity"], identity)
        return self._read(self.path.parent / pointer["folder"])

    def write(self, state: State) -> None:
        """Begin to write `state`, whose tensors nobody may change from here on (see
        `state.copied`).
        """
        self.wait()
        rest, tensors = _taken_apart(state)
        end = "-end" if state.get("finished") else ""
        name = f"state-{state['step']:08}{end}"
        before = self._pointer()
        if before is not None and before["folder"] == name:
            name += "-again"
        folder = self.path.parent / name
        saving = self._begin_saving(tensors, folder) if tensors else None
        self._writing = self._pool.submit(self._publish, saving, folder, rest)

    def _remove_all_but(self, kept: str | None) -> None:
        for folder in self.path.parent.glob("state-*"):
            if folder.is_dir() and folder.name != kept:
                shutil.rmtree(folder)

    def _begin_saving(self, tensors: Tensors, folder: Path) -> Future[Any]:
        saving = async_save(
            tensors,
            storage_writer=FileSystemWriter(folder, sync_files=True),
            process_group=self._group,
            async_stager=_Staged(),
        )
        return cast("Future[Any]", saving)

    def wait(self) -> None:
        """Until what was begun is on the disk, from all processes, and counts."""
        self._finish()
        dist.barrier(self._group)

    def close(self) -> None:
        try:
            self._finish()
        finally:
            super().close()

    def _publish(self, saving: Future[Any] | None, folder: Path, rest: Any) -> None:
        """Once all processes have written: let the new state count, and remove the one before."""
        try:
            if saving is not None:
                saving.result()
        except CheckpointException as error:
            failures = error.failures.items()
            reasons = "; ".join(map(_reason, failures))
            raise TrainingError(
                f"{folder}: cannot be written ({reasons}); the state before is untouched. "
                "Make room and start the run again: it goes on from its last state"
            ) from error
        if dist.get_rank() != 0:
            return
        before = self._pointer()
        with replacing(folder / REST, lambda: 1 << 20) as file:
            torch.save(rest, file)
        pointer = {"folder": folder.name, "identity": rest["identity"]}
        text = json.dumps(pointer, indent=2) + "\n"
        write_whole(self.path, text.encode())
        if before is not None and before["folder"] != folder.name:
            shutil.rmtree(self.path.parent / before["folder"])

    def _pointer(self) -> State | None:
        if not self.path.exists():
            return None
        try:
            pointer: State = json.loads(self.path.read_text())
            return pointer
        except ValueError as error:
            raise TrainingError(
                f"{self.path} cannot be read ({error}); delete it to start again"
            ) from error

    def _read(self, folder: Path) -> State:
        try:
            rest = torch.load(folder / REST, weights_only=True)
            tensors: Tensors = {}
            if (folder / ".metadata").exists():
                tensors = self._templates(folder)
                reader = FileSystemReader(folder)
                load(tensors, storage_reader=reader, process_group=self._group)
            return _put_together(rest, tensors)
        except UNREADABLE as error:
            raise TrainingError(
                f"{folder} cannot be read ({error}); delete {self.path} to start again"
            ) from error

    def _templates(self, folder: Path) -> Tensors:
        """Tensors to read into, cut as the parameters that they belong to are cut now."""
        out: Tensors = {}
        metadata = FileSystemReader(folder).read_metadata()
        for name, stored in metadata.state_dict_metadata.items():
            assert isinstance(stored, TensorStorageMetadata)
            path = tuple(json.loads(name))
            dtype = stored.properties.dtype
            like = None
            if path[0] == "worker":
                like = self._like(path[1:])
            if like is not None and like.shape == stored.size:
                out[name] = torch.zeros_like(like.detach(), dtype=dtype)
            else:
                out[name] = torch.zeros(stored.size, dtype=dtype)
        return out


class _Staged(AsyncStager):
    """The state is a copy already."""

    _synchronize_after_execute = False

    def stage(self, state_dict: Any) -> Any:
        return state_dict

    def synchronize_staging(self) -> None:
        return None

    def close(self) -> None:
        return None


def _taken_apart(state: State) -> tuple[State, Tensors]:
    """The state with (HELD, name) in the place of each tensor, and the tensors by name: their path,
    as JSON.
    """
    tensors: Tensors = {}

    def take(path: Path_, part: Any) -> Any:
        if not isinstance(part, Tensor):
            return part
        name = json.dumps(path)
        tensors[name] = part
        return (HELD, name)

    return changed(state, take), tensors


def _put_together(state: State, tensors: Tensors) -> State:
    def put(path: Path_, part: Any) -> Any:
        if isinstance(part, tuple) and part[:1] == (HELD,):
            return tensors[part[1]]
        return part

    whole: State = changed(state, put)
    return whole


def _reason(failure: tuple[int, Any]) -> str:
    rank, (error, _) = failure
    return f"process {rank}: {error}"
