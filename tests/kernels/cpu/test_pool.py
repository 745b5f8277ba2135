"""The thread pool under stress: calls from several threads, more threads than cores, other numbers
of them, forks.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from shared_folders import kept

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
def test_every_task_is_done_once(build: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    cxx = compiler()
    if cxx is None:
        pytest.skip("no C++ compiler")

    def make(folder: Path) -> None:
        """Kept from run to run for as long as the sources are the same."""
        flags = [*COMMON, "-O1", *BUILDS[build], f"-I{HERE}"]
        made = run(cxx, *flags, str(HERE / "pool.cpp"), str(STRESS), "-o", str(folder / "stress"))
        if made.returncode and build != "plain":
            pytest.skip(f"no build with ThreadSanitizer here: {made.stderr[-200:]}")
        assert made.returncode == 0, made.stderr[-3000:]

    sources = (HERE / "pool.cpp", HERE / "pool.h", STRESS, Path(__file__))
    version = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    folder = kept(pytestconfig, f"pool-{build.replace(' ', '-')}", version, make)
    if folder is None:
        folder = tmp_path
        make(folder)
    program = str(folder / "stress")
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
