"""Whose turn it is: the rank of every request among those of all callers, and equal shares.

Knows who came when, and for whom; nothing of pages, of tokens or of what is scheduled. Answers take
turns by it, and so does what else is costly (`server/places.py`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Protocol

AGEING = 256  # steps
Rank = tuple[int, int, int, int]  # smaller is served first; no two are equal


class InLine(Protocol):
    """What takes its turn: an engine's request, or other work."""

    @property
    def id(self) -> int: ...
    @property
    def caller(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def is_batch(self) -> bool: ...


@dataclass(slots=True)
class _Place:
    """`level`: 1 of batch work, else 0. `line` orders the requests of one caller. `turn`: how many
    of them come before this one, and `since`: the step in which it came to that turn.
    """

    level: int
    line: tuple[int, int]
    since: int
    turn: int = 0


class Turns:
    """A line for each caller. The first of all lines come before the second of any; those of the
    same turn by the step in which they came to it, so that whoever has just had a turn goes behind
    the others. Priorities count inside a line: no caller overtakes another by naming a number.
    Batch work is behind everything else, as long as there is anything else.
    """

    def __init__(self) -> None:
        self._lines: dict[str, list[InLine]] = {}
        self._places: dict[int, _Place] = {}
        self._arrivals = count()
        self._are_mixed = False  # whether ranks are those of several callers
        self._has_changed = False

    @property
    def are_several(self) -> bool:
        return len(self._lines) > 1

    def enter(self, request: InLine, step: int) -> None:
        aged = step + AGEING * request.priority
        place = _Place(int(request.is_batch), (aged, next(self._arrivals)), step)
        self._places[request.id] = place
        line = self._lines.setdefault(request.caller, [])
        insort(line, request, key=self._in_line)
        place.turn = len(line) - 1
        self._has_changed = True

    def leave(self, request: InLine) -> None:
        line = self._lines[request.caller]
        del line[bisect_left(line, self._in_line(request), key=self._in_line)]
        if not line:
            del self._lines[request.caller]
        del self._places[request.id]
        self._has_changed = True

    def _in_line(self, request: InLine) -> tuple[int, int]:
        return self._places[request.id].line

    def __contains__(self, request: InLine) -> bool:
        return request.id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def rank(self, request: InLine) -> Rank:
        place = self._places[request.id]
        if self._are_mixed:
            return (place.level, place.turn, place.since, place.line[1])
        return (place.level, 0, *place.line)

    def settle(self, step: int) -> bool:
        """Whether the order of requests may be another than at the last call. Ranks change here
        only; with one caller they never do.
        """
        is_settled = not self._has_changed
        self._has_changed = False
        if is_settled or not (self.are_several or self._are_mixed):
            return False
        self._are_mixed = self.are_several
        for line in self._lines.values():
            for turn, request in enumerate(line):
                place = self._places[request.id]
                if turn < place.turn:
                    place.since = step
                place.turn = turn
        return True


def shares(wanted: Mapping[str, int], room: int) -> dict[str, int]:
    """Of `room`, to each caller what it wants or an equal share of what those leave that want
    less.
    """
    found: dict[str, int] = {}
    for caller, want in sorted(wanted.items(), key=lambda item: item[1]):
        share = -(-room // (len(wanted) - len(found)))
        found[caller] = min(want, share)
        room -= found[caller]
    return found
