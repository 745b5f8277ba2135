"""Moves weights from the mapped file into memory, packed as the kernels like them, while answers
already flow.

Weight by weight, in the order in which a forward reads them: pack into huge-page memory, tell the
kernels, give the file's pages back, piece by piece. So the resident size stays below one copy plus
a piece for each thread, or plus one weight if answers flow and memory is scarce. Kernels give
the same bits from either form, so it does not matter when this happens. Knows weights as
`Packable`; knows which tensors are mapped files.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from ossia.kernels.cpu import Packable
from ossia.kernels.cpu.memory import fetch_file_pages, forget_file_pages, huge, is_scarce

log = logging.getLogger(__name__)
Progress = Callable[[int, int], object]
Spread = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]  # like `map`
PATIENCE = 5.0  # seconds
CACHE_LINE = 64  # bytes


class _Ending(Exception):
    """The process ends: nobody is left to answer, and nothing failed."""


class Promotion:
    """Packs `weights`, once `run` or `start` is called. `mapped` says whether a tensor is a view of
    a mapped file whose pages may be given back; `others` are views that remain in use and are read
    from the file.
    """

    def __init__(
        self,
        weights: Sequence[Packable],
        mapped: Callable[[Tensor], bool],
        others: Sequence[Tensor] = (),
    ) -> None:
        self._mapped = mapped
        self._weights = [(weight, [t for t in weight.published if mapped(t)]) for weight in weights]
        self._others = [tensor for tensor in others if mapped(tensor)]
        self.bytes_total = sum(weight.packed_bytes for weight in weights)
        self.bytes_done = 0
        # one piece, so that all of it is huge pages
        self.memory = huge(sum(_room(weight) for weight in weights))
        self._rest = self.memory
        self.error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._after = threading.Event()
        self._is_ending = False

    def start(self, after: threading.Event) -> None:
        """Pack in a thread of its own, which ends with the process, once `after` is set or PATIENCE
        is over: the first answer should not have to share the cores.
        """
        self._after = after
        self._thread = threading.Thread(target=self._quietly, name="ossia-promotion", daemon=True)
        atexit.register(self._end)
        self._thread.start()

    def run(self, threads: int = 1, progress: Progress = lambda done, total: None) -> None:
        """Pack in this thread, or in `threads` others. `progress` is called with the bytes packed
        and their total.
        """
        if threads == 1:
            self._move_all(map, progress)
        else:
            with ThreadPoolExecutor(threads) as workers:
                self._move_all(workers.map, progress)
        for tensor in self._others:  # packing may have pushed them out of the system's cache
            fetch_file_pages(tensor)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether packing ends within `timeout` seconds. If it fails, `error` is the exception."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self._weights or self.error is not None

    def _end(self) -> None:
        """Python ends. A thread that is inside torch by then would take the process down with it;
        this one comes out after the piece that it is at.
        """
        assert self._thread is not None
        self._is_ending = True
        self._after.set()
        self._thread.join()

    def _quietly(self) -> None:
        try:
            self._after.wait(PATIENCE)
            self.run()
        except _Ending:
            pass
        except Exception as error:  # answers continue from the file
            self.error = error
            log.warning("weights stay in the file, answers come more slowly: %s", error)
        atexit.unregister(self._end)

    def _move_all(self, spread: Spread, progress: Progress) -> None:
        while self._weights:
            self._move(*self._weights[0], spread)
            progress(self.bytes_done, self.bytes_total)

    def _move(self, weight: Packable, mapped: Sequence[Tensor], spread: Spread) -> None:
        memory = self._rest[: weight.packed_bytes]
        list(spread(lambda piece: self._pack(weight, piece, memory), range(weight.pieces)))
        weight.use(memory)
        for tensor in mapped:
            forget_file_pages(tensor, self._is_scarce())
        self._weights.pop(0)
        self._rest = self._rest[_room(weight) :]
        self.bytes_done += weight.packed_bytes

    def _pack(self, weight: Packable, piece: int, memory: Tensor) -> None:
        if self._is_ending:
            raise _Ending
        weight.pack(piece, memory)
        scarce = self._is_scarce()
        # an answer in progress would read them from disk again
        if self._thread is not None and scarce:
            return
        for tensor in weight.sources(piece):
            if self._mapped(tensor):
                forget_file_pages(tensor, scarce)

    def _is_scarce(self) -> bool:
        """Whether there is too little for what is still to be packed, and for its pages in the
        file, which the system should keep until then.
        """
        return is_scarce(2 * (self.bytes_total - self.bytes_done))


def _room(weight: Packable) -> int:
    return -(-weight.packed_bytes // CACHE_LINE) * CACHE_LINE
