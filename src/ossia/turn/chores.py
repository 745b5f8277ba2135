"""Work that must not hold up an engine: each piece in a thread of its own, with a time limit.

Knows threads; nothing of turns. What hangs is given up, not ended: its thread is left behind, and
does not keep the process alive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

LONGEST = 3600.0  # seconds that a queue is waited for at once; some longer waits overflow


@dataclass(frozen=True)
class Done:
    """A piece of work that is over, under the `key` that it was started with. `error`: what it
    raised; a TimeoutError if it was given up.
    """

    key: int
    value: Any = None
    error: BaseException | None = None


class Chores:
    """`start` pieces of work, and collect what is over with `done`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._over: SimpleQueue[tuple[int, Done]] = SimpleQueue()
        self._running: dict[int, tuple[int, float]] = {}  # number -> key and deadline
        self._count = 0

    def __len__(self) -> int:
        return len(self._running)

    def start(self, key: int, work: Callable[[], Any], seconds: float) -> None:
        number = self._count
        self._count += 1
        self._running[number] = (key, self._clock() + seconds)
        thread = threading.Thread(target=self._do, args=(number, key, work), daemon=True)
        thread.start()

    def done(self, *, wait: bool) -> list[Done]:
        """What is over by now. `wait`: until there is something, if anything runs."""
        found = self._taken()
        while wait and not found and self._running:
            deadline = min(deadline for _, deadline in self._running.values())
            seconds = max(0.0, deadline - self._clock())
            try:
                found = self._known(self._over.get(timeout=min(seconds, LONGEST)))
            except Empty:  # the deadline
                found = self._overdue()
        return found or self._overdue()

    def _taken(self) -> list[Done]:
        found: list[Done] = []
        while True:
            try:
                found += self._known(self._over.get_nowait())
            except Empty:
                return found

    def _known(self, over: tuple[int, Done]) -> list[Done]:
        """Nothing, if it had been given up."""
        number, done = over
        return [] if self._running.pop(number, None) is None else [done]

    def _overdue(self) -> list[Done]:
        now = self._clock()
        late = [number for number, (_, deadline) in self._running.items() if deadline <= now]
        keys = [self._running.pop(number)[0] for number in late]
        return [Done(key, error=TimeoutError("it took too long")) for key in keys]

    def _do(self, number: int, key: int, work: Callable[[], Any]) -> None:
        try:
            done = Done(key, work())
        except BaseException as error:  # SystemExit too: nobody else is told of it here
            done = Done(key, error=error)
        self._over.put((number, done))
