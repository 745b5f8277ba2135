"""Terminals that tests of commands start, and that end with them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from pseudo_terminal import Terminal


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    started: list[Terminal] = []
    yield started
    for terminal in started:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.handle)
