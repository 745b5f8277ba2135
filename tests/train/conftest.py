"""What two processes have done, once for all tests that ask."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared_folders import made_once
from two_processes import do_all


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each task that two processes have done."""
    return made_once(tmp_path_factory, "two", do_all)
