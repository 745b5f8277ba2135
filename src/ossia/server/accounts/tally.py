"""What one caller has used: sums since the start, what of them is not written down yet, and how
much of a day's tokens is left.

Knows numbers and clocks; nothing of requests or of databases.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from math import inf

from ossia.turn.events import Usage

DAY = 86_400  # seconds


@dataclass
class Used:
    """Tokens of prompts, how many of these were cached, tokens of answers, and calls of tools."""

    prompt: int = 0
    cached: int = 0
    output: int = 0
    calls: int = 0

    def add(self, usage: Usage) -> None:
        self.prompt += usage.prompt
        self.cached += usage.cached
        self.output += usage.completion

    def __sub__(self, other: Used) -> Used:
        return Used(
            self.prompt - other.prompt,
            self.cached - other.cached,
            self.output - other.output,
            self.calls - other.calls,
        )

    @property
    def tokens(self) -> int:
        return self.prompt + self.output

    def copy(self) -> Used:
        return Used(self.prompt, self.cached, self.output, self.calls)


KINDS = tuple(each.name for each in fields(Used))


@dataclass
class Tally:
    """`used`: since the start, which never falls. `written`: what of it is in the store. `since`:
    when the first request began of whose use something may not be written, on the store's clock.
    """

    used: Used = field(default_factory=Used)
    written: Used = field(default_factory=Used)
    since: float = inf

    @property
    def unwritten(self) -> Used:
        return self.used - self.written

    def spent_since(self, begun: float | None) -> None:
        """What is added now is of a request that began then; None: nobody knows when."""
        self.since = min(self.since, begun or 0.0)

    def wrote(self, used: Used) -> None:
        """More may have been used meanwhile."""
        self.written = used
        if used == self.used:
            self.since = inf


class DayTokens:
    """Tokens of the day, which begins at midnight UTC. `per_day` None: no limit. What other
    servers, or an earlier process, have counted is not known before `told`.
    """

    def __init__(self, per_day: int | None, clock: Callable[[], float] = time.time) -> None:
        self.per_day = per_day
        self.clock = clock
        self.is_known = False
        self._day = self.day
        self._spent = 0

    @property
    def day(self) -> int:
        """Days since 1970."""
        return int(self.clock() // DAY)

    @property
    def spent(self) -> int:
        """What an answer spends that begins before midnight and ends after it, and nobody asks in
        between, belongs to the day before.
        """
        if self.day != self._day:
            self._day = self.day
            self._spent = 0
        return self._spent

    def spend(self, tokens: int) -> None:
        self._spent += tokens

    def told(self, day: int, tokens: int) -> None:
        """All that was spent on a day, here and elsewhere."""
        self.is_known = True
        if day == self.day:
            self._day = day
            self._spent = tokens

    @property
    def is_used_up(self) -> bool:
        return self.per_day is not None and self.spent >= self.per_day

    @property
    def seconds_left(self) -> int:
        """Until midnight."""
        return DAY - int(self.clock()) % DAY
