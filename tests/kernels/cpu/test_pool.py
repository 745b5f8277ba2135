"""The thread pool under stress: calls from several threads, more threads than cores, other numbers
of them, forks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ossia.kernels.cpu.build import COMMON, HERE, compiler

STRESS = Path(__file__).with_name("pool_stress.cpp")
CALLS = "1000"
TSAN = ("-fsanitize=thread", "-g")
BUILDS = {
    "plain": (),
    "thread sanitizer": TSAN,
    "without futex": (*TSAN, "-U__linux__"),  # std::atomic's own way to sleep, as on macOS
}


@pytest.mark.parametrize(
    "build", ["plain", "thread sanitizer", pytest.param("without futex", marks=pytest.mark.slow)]
)
def test_every_task_is_done_once(build: str, tmp_path: Path) -> None:
    cxx = compiler()
    if cxx is None:
        pytest.skip("no C++ compiler")
    flags = [*COMMON, "-O1", *BUILDS[build], f"-I{HERE}"]
    program = str(tmp_path / "stress")
    made = run(cxx, *flags, str(HERE / "pool.cpp"), str(STRESS), "-o", program)
    if made.returncode and build != "plain":
        pytest.skip(f"no build with ThreadSanitizer here: {made.stderr[-200:]}")
    assert made.returncode == 0, made.stderr[-3000:]
    # a fork of a process with threads that starts threads is beyond ThreadSanitizer
    done = run(program, CALLS, *(["fork"] if build == "plain" else []))
    assert done.returncode == 0, done.stderr[-6000:]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_threads_of_torch_do_not_spin_beside_the_pool() -> None:
    """OpenMP reads it once, when torch is loaded; what the user has said holds."""
    program = "import os, ossia; print(os.environ['OMP_WAIT_POLICY'])"
    found = []
    for said in ({}, {"OMP_WAIT_POLICY": "ACTIVE"}):
        environment = {
            name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"
        } | said
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(done.stdout.strip())
    assert found == ["PASSIVE", "ACTIVE"]
