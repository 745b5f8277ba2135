"""What holds for every test: no network, few threads, known seeds, slow and GPU tests where they
can run.

Imports neither torch nor any part of the package, so that the tests of torch-free modules stay
torch-free.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import amounts
import pytest
import warm_python
from hypothesis import settings
from measured import Measured
from one_report import OneReport
from quick_logs import attach_quickly

# Read by libraries when they are imported, so set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests are small, and a worker of xdist's has one core, whatever it inherits: what it was started
# by has said here how many itself has.
for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ[threads] = "1"
    os.environ.setdefault(threads, str(min(2, os.cpu_count() or 1)))
# spinning threads starve each other on a busy machine
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Triton reads this when it is imported, by whatever: without a GPU its kernels can only be
# interpreted.
if not os.path.exists("/proc/driver/nvidia/version"):
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell starts what it puts in the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests make many small objects and little garbage: looked for as often as by default, it takes a
# tenth of the time.
GARBAGE = (20_000, 20, 20)
LOOPBACK = ("127.", "::1", "localhost")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run tests marked slow too")
    parser.addoption(
        "--thorough", action="store_true", help="full amounts of examples, with fresh seeds too"
    )
    parser.addoption(
        "--clients",
        action="store_true",
        help="run other programs against the server; installs them",
    )
    parser.addoption(
        "--limit",
        type=float,
        default=8.0,
        help="processor seconds of a test that is not slow, if not --thorough",
    )
    parser.addoption("--measured", help="write the processor seconds of every test to this file")


def pytest_configure(config: pytest.Config) -> None:
    limit = config.getoption("--limit")
    if config.getoption("--thorough"):
        amounts.begin_thorough()
        limit = float("inf")
    config.pluginmanager.register(Measured(limit, config.getoption("--measured")))
    if "PYTEST_XDIST_WORKER" in os.environ and config.getoption("durations") is None:
        config.pluginmanager.register(OneReport())
    attach_quickly()
    if not amounts.thorough():
        settings.register_profile("quick", max_examples=amounts.examples(100), derandomize=True)
        settings.load_profile("quick")


def pytest_report_header() -> str:
    return amounts.described()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow and GPU tests that cannot run now are skipped with a reason, which the summary
    repeats.
    """
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if item.get_closest_marker("gpu") and not has_cuda():
            item.add_marker(pytest.mark.skip(reason="gpu: torch sees no CUDA device"))


def pytest_collection() -> None:
    """What is made from now on stays: modules and the tests themselves, millions of objects. To
    look for garbage among them again and again takes a sixth of the time.
    """
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    gc.enable()


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """A connection or a name look-up that leaves this machine fails the test, whatever catches
    exceptions.
    """
    connect, connect_ex, getaddrinfo = (
        socket.socket.connect,
        socket.socket.connect_ex,
        socket.getaddrinfo,
    )

    def refuse(what: object) -> NoReturn:
        pytest.fail(f"tests may not use the network, but this one tried to reach {what!r}")

    def is_local(address: Any) -> bool:
        # a path is a unix socket's
        return isinstance(address, str | bytes) or str(address[0]).startswith(LOOPBACK)

    def guarded_connect(self: socket.socket, address: Any) -> None:
        return connect(self, address) if is_local(address) else refuse(address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        return connect_ex(self, address) if is_local(address) else refuse(address)

    def guarded_getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        return (
            getaddrinfo(host, *args, **options)
            if host is None or is_local((host,))
            else refuse(host)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered of this machine for the user neither serves tests nor is written by
    them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def warm_python_ends() -> Iterator[None]:
    """What it cost is counted, as the fixture's."""
    yield
    warm_python.end()


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The same random numbers for a test, whichever tests ran before it."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        # torch.manual_seed also formats the stack, for a GPU that is not there: 0.5 ms a test
        sys.modules["torch"].default_generator.manual_seed(0)
