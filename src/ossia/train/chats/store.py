"""Rendered examples in one mapped file, and the endless, shuffled stream of them that training
reads.

A safetensors file: `ids` of all examples end to end, `mask` beside them, `ends` of the examples.
What stands at place n of the stream is a function of (file, seed, n), so a resumed run sees the
same examples in the same order.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ossia.checkpoint.mapped import MappedFile
from ossia.data.packing import Example, State, pack
from ossia.data.shuffle import permuted
from ossia.errors import DataError
from ossia.train.state import write_whole

Numbers = NDArray[Any]
File = tuple[Numbers, Numbers, Numbers]  # ids, mask, ends
ORDER_AT_ONCE = 1 << 12  # places of the shuffled order worked out together


class Collector:
    """Examples on their way into a file: five bytes of memory a token."""

    def __init__(self) -> None:
        self.ids = array("i")
        self.mask = bytearray()
        self.ends = array("q")

    def add(self, example: Example) -> None:
        self.ids.extend(example.ids)
        self.mask.extend(example.mask)
        self.ends.append(len(self.ids))

    def write(self, path: Path) -> None:
        """All of them, or nothing. Raises `TrainingError` if the disk is full."""
        tensors: dict[str, Numbers] = {
            "ids": np.frombuffer(self.ids, np.int32),
            "mask": np.frombuffer(self.mask, np.uint8),
            "ends": np.frombuffer(self.ends, np.int64),
        }
        data = safetensors.numpy.save(tensors, {"format": "ossia-examples"})
        write_whole(path, data)


@dataclass(frozen=True)
class ChatExamples:
    """The examples in a file: an `ExamplesFrom` that shuffles them anew in every epoch and never
    ends.
    """

    path: Path
    seed: int = 0

    def __len__(self) -> int:
        return len(self._file()[2])

    def each(self) -> Iterator[Example]:
        """Every example once, in the order of the file."""
        file = self._file()
        for index in range(len(file[2])):
            yield _at(file, index)

    def __call__(self, state: State = None) -> Iterator[tuple[Example, State]]:
        """`state` counts the examples taken. Raises `DataError` for any other state."""
        file = self._file()
        count = len(file[2])
        if not count:
            raise DataError(f"{self.path}: holds no examples")
        if state is not None and (not isinstance(state, int) or state < 0):
            raise DataError(f"{self.path}: a stream of examples cannot go on from {state!r}")
        for index, place in self._order(state or 0, count):
            yield _at(file, index), place

    def _order(self, start: int, count: int) -> Iterator[tuple[int, int]]:
        """(index of an example, place of the one after it in the stream), from place `start` on."""
        while True:
            epoch, first = divmod(start, count)
            last = min(count, first + ORDER_AT_ONCE)
            order = permuted(np.arange(first, last), count, f"{self.seed}:{epoch}")
            for index in order.tolist():
                start += 1
                yield index, start

    def steps(self, epochs: float, tokens_per_step: int, longest: int) -> int:
        """How many packed batches hold `epochs` passes over the examples; 1 at least."""
        wanted = round(epochs * len(self))
        for steps, (_, state) in enumerate(pack(self(), tokens_per_step, longest), 1):
            if state >= wanted:
                return steps
        raise AssertionError("the stream of examples never ends")

    def _file(self) -> File:
        file = MappedFile(self.path)
        if set(file.entries) != {"ids", "mask", "ends"}:
            found = ", ".join(file.entries)
            raise DataError(f"{self.path}: holds {found}, not examples of chats")
        mask = file.tensor("mask").numpy()
        ids = file.tensor("ids").numpy()
        ends = file.tensor("ends").numpy()
        return ids, mask.view(np.bool_), ends


def _at(file: File, index: int) -> Example:
    ids, mask, ends = file
    begin = int(ends[index - 1]) if index else 0
    end = int(ends[index])
    return Example(ids[begin:end], mask[begin:end])
