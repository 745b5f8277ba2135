"""Decides what the next batch holds. Plain Python: decisions only, no tensors.

Running sequences go first, one token each; what is left of the token budget goes to prompts, in chunks, oldest first.
When the cache runs out, the youngest running sequence gives its pages back and starts again later.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ossia.engine.pages import PageTables
from ossia.engine.request import Request


@dataclass(frozen=True)
class Work:
    """`count` tokens of a request, from position `request.computed` on."""

    request: Request
    count: int

    @property
    def samples(self) -> bool:
        """Whether this reaches the last known token, so that the next one can be drawn."""
        return self.count == self.request.waiting_tokens


class Scheduler:
    def __init__(self, tables: PageTables, max_batch_tokens: int, max_running: int) -> None:
        self.tables = tables
        self.max_batch_tokens, self.max_running = max_batch_tokens, max_running
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def schedule(self) -> list[Work]:
        """The next batch, with its pages allocated. Never empty while there is work."""
        budget = self.max_batch_tokens
        batch: list[Work] = []
        for request in sorted(self.running, key=lambda r: r.waiting_tokens > 1):
            if budget == 0 or request not in self.running:
                continue
            count = min(request.waiting_tokens, budget)
            if self._make_room(request, request.computed + count, batch):
                batch.append(Work(request, count))
                budget -= count
        while self.waiting and budget > 0 and len(self.running) < self.max_running:
            request = self.waiting[0]
            count = min(request.waiting_tokens, budget)
            if not self.tables.can_grow(request.id, count):
                break
            self.tables.grow(request.id, count)
            self.running.append(self.waiting.popleft())
            batch.append(Work(request, count))
            budget -= count
        assert batch or not self.has_work(), "nothing can run although there is work"
        return batch

    def advance(self, work: Work) -> None:
        """The model has seen this work's tokens."""
        work.request.computed += work.count
        self.tables.forget_behind_windows(work.request.id, work.request.computed)

    def finish(self, request: Request) -> None:
        self.tables.release(request.id)
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)

    def _make_room(self, request: Request, end: int, batch: list[Work]) -> bool:
        """Grow `request` to `end` positions, at the cost of younger sequences that are not in the batch yet."""
        scheduled = {work.request.id for work in batch}
        while not self.tables.can_grow(request.id, end):
            victim = next(r for r in reversed(self.running) if r.id not in scheduled)
            self._preempt(victim)
            if victim is request:
                return False
        self.tables.grow(request.id, end)
        return True

    def _preempt(self, request: Request) -> None:
        self.tables.release(request.id)
        self.running.remove(request)
        request.computed = 0
        self.waiting.appendleft(request)
