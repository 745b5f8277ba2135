"""Two replicas are replaced, one after the other, under 64 streams: nobody loses one."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from fleet_processes import Crowd, Replica, replicas
from front import nginx, router

PEOPLE = 64
TOKENS = 48
BESIDE = Path(sys.executable).parent


def program(name: str) -> str:
    found = shutil.which(name, path=f"{BESIDE}:/usr/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def through_router(ports: list[int]) -> AbstractContextManager[int]:
    return router(program("vllm-router"), "round_robin", ports)


def through_nginx(ports: list[int]) -> AbstractContextManager[int]:
    return nginx(program("nginx"), ports)


def wait_for_work(replica: Replica) -> None:
    """Until the front sends it some."""
    while not replica.streaming():
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("front", [through_router, through_nginx])
def test_no_stream_is_lost(front: Callable[[list[int]], AbstractContextManager[int]]) -> None:
    with replicas(2, "--drain", "120") as both, front([one.port for one in both]) as port:
        with Crowd(port, PEOPLE, TOKENS) as crowd:
            for one in both:
                wait_for_work(one)
                assert one.stop() == 0, one.said()[-3000:]
                assert "stopping: " in one.said()  # there were answers that it had to end
                one.start()
                wait_for_work(one)
        assert crowd.lost == []
        assert crowd.whole > PEOPLE
        print(f"{crowd.whole} streams, none lost")
