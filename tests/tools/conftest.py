"""The tool python, one for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from python_tools import Notebook, python_tool

from ossia.tools.python import Python


@pytest.fixture(scope="module")
def shared() -> Iterator[Python]:
    with python_tool() as tool:
        yield tool


@pytest.fixture
def cell(shared: Python) -> Notebook:
    return Notebook(shared)
