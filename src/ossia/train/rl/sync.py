"""Weights on their way from the process that learns to those that sample: what is sent, how, and
how both sides know that it has arrived.

    store       in an object store that the processes of a machine share
    folder      as a distributed checkpoint (DCP) that all machines can read
    broadcast   from memory to memory, by NCCL between GPUs, else by gloo

What is trained is sent, and nothing else: with LoRA the low-rank changes alone. Knows tensors by
name; no model, no samples, and no Ray.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from ossia.errors import TrainingError

PATIENCE = timedelta(seconds=120)  # for the others of a broadcast
torch_distributed: Any = dist  # exports more than it declares
Named = Mapping[str, Tensor]


def checksum(named: Named) -> str:
    """Of names, shapes and bits: weights that sample differently have different ones."""
    digest = hashlib.sha256()
    for name in sorted(named):
        value = named[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        bits: Any = value.reshape(-1).view(torch.uint8).numpy()
        digest.update(bits)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Parcel:
    """What a receiver is told of new weights. `folder`: where they are; or `group`, a meeting place
    of all receivers and the sender: its host, port and name, this receiver's rank, how many they
    are; or neither, where they come as bytes.
    """

    version: int
    folder: Path | None = None
    group: tuple[str, int, str, int, int] | None = None


@torch.no_grad()
def receive(parcel: Parcel, into: Named, data: bytes | None = None) -> None:
    """Put the weights of a parcel into these tensors. `data`: `packed`, where they come as bytes.
    Raises `TrainingError` if they are others by name or shape.
    """
    if parcel.group is not None:
        group = _joined(parcel.group, into)
        for name in sorted(into):
            _broadcast(group, into[name])
        return
    found = dict(_read(parcel, into, data))
    _check(found, into)
    for name, value in found.items():
        into[name].copy_(value)


def _read(parcel: Parcel, into: Named, data: bytes | None) -> Named:
    if parcel.folder is None:
        assert data is not None
        return safetensors.torch.load(data)
    found = {name: torch.empty_like(value) for name, value in into.items()}
    with _by_itself():
        load(found, checkpoint_id=parcel.folder, no_dist=True)
    return found


def _check(found: Named, into: Named) -> None:
    for name in sorted(found.keys() | into.keys()):
        wanted = tuple(into[name].shape) if name in into else None
        shape = tuple(found[name].shape) if name in found else None
        if shape != wanted:
            raise TrainingError(
                f"an actor has other weights than it is sent: {name} is {wanted} there and {shape} "
                "here; both must have the same model, settings and version of ossia"
            )


def packed(named: Named) -> bytes:
    """For an object store."""
    return safetensors.torch.save({name: _plain(value) for name, value in named.items()})


def _plain(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous()


# ---- a folder that all machines see ----


def write(named: Named, folder: Path) -> None:
    """As a distributed checkpoint, in place of what was there."""
    if folder.exists():
        shutil.rmtree(folder)
    state: dict[str, Any] = {name: value.detach() for name, value in named.items()}
    with _by_itself():
        save(state, checkpoint_id=folder, no_dist=True)


@contextmanager
def _by_itself() -> Iterator[None]:
    """One process writes or reads alone, as it is meant to, of which DCP warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


# ---- a broadcast ----


class Meeting:
    """Where the sender and its receivers meet for broadcasts. Each has a name of its own, so that
    one that broke off leaves nothing behind.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self._store = torch_distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False)
        self._count = 0

    def groups(self, receivers: int) -> list[tuple[str, int, str, int, int]]:
        """The next one, for each receiver."""
        self._count += 1
        size = receivers + 1
        port = self._store.port
        return [(self.host, port, str(self._count), rank, size) for rank in range(1, size)]

    def send(self, named: Named, receivers: int) -> None:
        """While all receivers of the last groups `receive`. Raises `RuntimeError` if one does not
        come.
        """
        store = torch_distributed.PrefixStore(str(self._count), self._store)
        group = _group(store, 0, receivers + 1, named)
        for name in sorted(named):
            _broadcast(group, named[name].detach().contiguous())


def _joined(group: tuple[str, int, str, int, int], into: Named) -> Any:
    host, port, name, rank, size = group
    store = torch_distributed.TCPStore(
        host, port, is_master=False, wait_for_workers=False, timeout=PATIENCE
    )
    return _group(torch_distributed.PrefixStore(name, store), rank, size, into)


def _group(store: Any, rank: int, size: int, named: Named) -> Any:
    """A process group beside torch's own, which only processes of one launch can have. NCCL's where
    the weights are on GPUs.
    """
    if any(value.is_cuda for value in named.values()):
        options = dist.ProcessGroupNCCL.Options()
        return dist.ProcessGroupNCCL(store, rank, size, options)
    return dist.ProcessGroupGloo(store, rank, size, PATIENCE)


def _broadcast(group: Any, value: Tensor) -> None:
    options = dist.BroadcastOptions()
    options.rootRank = 0
    group.broadcast([value.detach()], options).wait()
