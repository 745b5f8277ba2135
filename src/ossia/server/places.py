"""Places where costly work is done: so many at the same time, and callers in turns.

Knows whose a piece of work is and when it came; nothing of what is done. The order is that of
answers (`engine/turns.py`). Work that takes long gives its place back now and then, and asks again.
Some work cannot, so no caller has all places at once: whoever comes next would wait for its end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from ossia.engine.turns import Turns
from ossia.server.access import Whose

_ids = count()


@dataclass(eq=False)
class _Guest:
    """Work that has a place, or waits for one."""

    caller: str
    may_begin: asyncio.Future[None]
    id: int = field(default_factory=lambda: next(_ids))
    is_batch: bool = False
    priority: int = 0


class Places:
    """Of one event loop. Where there are several, one caller has at most all but one, and so has
    all batch work together.
    """

    def __init__(self, number: int) -> None:
        self.free = number
        self._most = max(1, number - 1)  # of a caller
        self._taken: Counter[str] = Counter()  # by caller
        self._taken_batch = 0
        self._turns = Turns()
        self._waiting: list[_Guest] = []
        self._step = 0  # how often a place was given back

    @asynccontextmanager
    async def place(self, whose: Whose) -> AsyncIterator[None]:
        """For a piece of work of this caller's, when it is its turn."""
        caller = whose.caller
        may_begin = asyncio.get_running_loop().create_future()
        guest = _Guest(caller, may_begin, is_batch=whose.is_batch)
        self._turns.enter(guest, self._step)
        self._waiting.append(guest)
        try:
            self._admit()
            await guest.may_begin
            yield
        finally:
            self._turns.leave(guest)
            if guest in self._waiting:
                self._waiting.remove(guest)
            else:
                self._give_back(guest)
            self._step += 1
            self._admit()

    def is_wanted(self, whose: Whose) -> bool:
        """Whether anybody else waits for a place that may have one. Any thread may ask."""
        return any(
            guest.caller != whose.caller
            and guest.is_batch <= whose.is_batch
            and self._may_have(guest)
            for guest in tuple(self._waiting)
        )

    def _admit(self) -> None:
        self._turns.settle(self._step)
        while self.free:
            able = [guest for guest in self._waiting if self._may_have(guest)]
            if not able:
                return
            first = min(able, key=self._turns.rank)
            self._waiting.remove(first)
            self._take(first)
            if not first.may_begin.done():
                first.may_begin.set_result(None)

    def _may_have(self, guest: _Guest) -> bool:
        if guest.is_batch and self._taken_batch >= self._most:
            return False
        return self._taken[guest.caller] < self._most

    def _take(self, guest: _Guest) -> None:
        self.free -= 1
        self._taken[guest.caller] += 1
        self._taken_batch += guest.is_batch

    def _give_back(self, guest: _Guest) -> None:
        self.free += 1
        self._taken_batch -= guest.is_batch
        self._taken[guest.caller] -= 1
        if not self._taken[guest.caller]:
            del self._taken[guest.caller]  # callers come and go
