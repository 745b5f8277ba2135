"""What is counted, for Prometheus. Stub to be filled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ossia.server.events import AnswerEvent
from ossia.server.worker import EngineWorker


class Book:
    """Of one answer."""

    def event(self, event: AnswerEvent) -> None: ...


class Metrics:
    def __init__(self, worker: EngineWorker) -> None:
        self.worker = worker

    @contextmanager
    def answering(self) -> Iterator[Book]:
        yield Book()
