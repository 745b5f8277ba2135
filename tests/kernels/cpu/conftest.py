"""The compiled kernels for the tests of this folder, on every instruction set that this CPU
offers.
"""

from __future__ import annotations

import ctypes
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from amounts import thorough
from emulated_kernels import Emulated

from ossia.kernels.cpu.build import isa_flags
from ossia.kernels.cpu.library import library, offered, open_library


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kernel-library", help="test this build of the kernels instead of the package's own"
    )
    parser.addoption(
        "--kernel-program", help="test the kernels that this command runs (test_emulated.py)"
    )


@pytest.fixture(scope="session")
def kernels(pytestconfig: pytest.Config) -> Iterator[ctypes.CDLL]:
    if program := pytestconfig.getoption("--kernel-program", None):
        with Emulated(shlex.split(program)) as emulated:
            yield cast(ctypes.CDLL, emulated)
        return
    path = pytestconfig.getoption("--kernel-library", None)
    found = open_library(Path(path)) if path else library()
    if isinstance(found, str):
        pytest.skip(found)
    yield found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """By default without the instruction sets that a module's ALIKE names: for what it tests, their
    code is another's, compiled with another flag.
    """
    if "isa" in metafunc.fixturenames:
        alike = () if thorough() else getattr(metafunc.module, "ALIKE", ())
        emulated = metafunc.config.getoption("--kernel-program", None)
        rows = isa_flags("arm64" if emulated else None)
        metafunc.parametrize("isa", [row for row in rows if row not in alike], indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest, kernels: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    """The kernels, working with one instruction set; afterwards again with the best, on all
    threads.
    """
    if request.param not in offered(kernels):
        pytest.skip(f"this CPU has no {request.param}")
    threads = kernels.ossia_threads()
    kernels.ossia_choose(request.param.encode())
    yield kernels
    kernels.ossia_choose(offered(kernels)[0].encode())
    kernels.ossia_set_threads(threads)
