"""One Chromium for all tests of the page: each opens a profile of its own in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pages import CHROMIUM, OPTIONS, playwright


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield running
        running.close()
