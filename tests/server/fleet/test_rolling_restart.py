"""Two replicas are replaced, one after the other, under 64 streams: nobody loses one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from fleet_processes import Crowd, Replica, replicas
from front import nginx, router

PEOPLE = 64
TOKENS = 48


def wait_for_work(replica: Replica) -> None:
    """Until the front sends it some."""
    while not replica.streaming():
        time.sleep(0.05)


Front = Callable[[str, list[int]], AbstractContextManager[int]]


def in_turn(program: str, behind: list[int]) -> AbstractContextManager[int]:
    return router(program, "round_robin", behind)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "front"), [("nginx", nginx), ("vllm-router", in_turn)])
def test_no_stream_is_lost(name: str, front: Front) -> None:
    program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip(f"{name} is not installed (nginx: apt-get install nginx-light)")
    with (
        replicas(2, "--drain", "120") as both,
        front(program, [one.port for one in both]) as port,
    ):
        with Crowd(port, PEOPLE, TOKENS) as crowd:
            for one in both:
                wait_for_work(one)
                assert one.stop() == 0, one.said()[-3000:]
                assert "stopping: " in one.said()  # there were answers that it had to end
                one.start()
                wait_for_work(one)
        assert crowd.lost == []
        assert crowd.whole > PEOPLE
        print(f"{name}: {crowd.whole} streams, none lost")
