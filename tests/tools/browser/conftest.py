"""What holds for every test of the browser."""

from __future__ import annotations

import pytest

from ossia.tools.browser import documents


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take long to start the program that reads a page."""
    monkeypatch.setattr(documents, "SECONDS", 600.0)
