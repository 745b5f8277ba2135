"""Three times a test pytest attaches two handlers to every logger that passes nothing on, and
detaches them. torch has dozens of such loggers, and there are a thousand others to be looked at:
here that takes one pass and one lock.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

import _pytest.logging

_Catching = _pytest.logging.catching_logs


def attach_quickly() -> None:
    """From now on."""
    _pytest.logging.catching_logs = Catching


class Catching(_Catching[Any]):
    """Does what its base does."""

    __slots__ = ()

    def __enter__(self) -> Any:
        if self.level is not None:
            return super().__enter__()
        root = logging.getLogger()
        known = list(root.manager.loggerDict.values())  # with placeholders, which have no such flag
        self.attached_loggers = [root, *(x for x in known if not getattr(x, "propagate", True))]
        with logging._lock:
            for logger in self.attached_loggers:
                if self.handler not in logger.handlers:
                    logger.handlers.append(self.handler)
        return self.handler

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.level is not None:
            super().__exit__(kind, error, trace)
            return
        with logging._lock:
            for logger in self.attached_loggers:
                if self.handler in logger.handlers:
                    logger.handlers.remove(self.handler)
        self.attached_loggers = []
