"""Logs are caught as pytest itself catches them."""

from __future__ import annotations

import logging

import pytest
from _pytest.logging import LogCaptureHandler
from quick_logs import Catching, _Catching

LOUD, DEAF = logging.getLogger("ossia.tests.loud"), logging.getLogger("ossia.tests.deaf")
logging.getLogger("ossia.tests.never.asked.for")  # leaves placeholders above it
DEAF.propagate = False


@pytest.mark.parametrize("catching", [_Catching, Catching])
@pytest.mark.parametrize("level", [None, logging.INFO])
def test_what_is_caught(catching: type[_Catching], level: int | None) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers), list(DEAF.handlers)
    with (
        catching(LogCaptureHandler(), level=level) as outer,
        catching(LogCaptureHandler()) as inner,
    ):
        for logger in (LOUD, DEAF):
            logger.warning("from %s", logger.name)
            logger.info("at a level")
    texts = ["from ossia.tests.loud", "from ossia.tests.deaf"]
    if level is not None:
        texts = [texts[0], "at a level", texts[1], "at a level"]
    for handler in (outer, inner):
        assert [record.getMessage() for record in handler.records] == texts
    assert (root.level, root.handlers, DEAF.handlers) == before
    LOUD.warning("later")
    assert len(inner.records) == len(texts)


def test_it_is_what_tests_have(caplog: pytest.LogCaptureFixture) -> None:
    DEAF.warning("heard")
    assert caplog.messages == ["heard"]
    assert any(isinstance(one, LogCaptureHandler) for one in DEAF.handlers)
