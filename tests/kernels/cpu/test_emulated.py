"""The kernels of ARM under an emulator: the tests of this folder once more, in a Python that shares its memory with it.

Each row runs on the oldest CPU that has it. By default a selection runs, with --slow everything.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulated_kernels import ARM, Emulated, build, environment

HERE = Path(__file__).parent
FILES = ("test_linear.py", "test_experts.py", "test_attention.py", "test_attention_training.py", "test_training.py")
ROWS = {"neon": "cortex-a53", "generic": "cortex-a53", "neon_dot": "neoverse-n1"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if missing := ARM.missing():
        pytest.skip(f"no kernels for ARM here: {missing}")
    return build(ARM, tmp_path_factory.mktemp("arm"))


def test_each_cpu_is_offered_what_it_has(program: Path) -> None:
    for cpu, expected in {"cortex-a53": ["neon", "generic"], "max": ["neon_dot", "neon", "generic"]}.items():
        with Emulated([ARM.emulator, "-cpu", cpu, str(program)]) as kernels:
            offered = [kernels.ossia_offered(n) for n in range(len(expected) + 1)]
        assert offered == [*(name.encode() for name in expected), None]


@pytest.mark.parametrize("row", ROWS)
def test_kernel_tests_pass(program: Path, row: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    variables, memory = environment(tmp_path)
    selected = f"[{row}" 
    command = [sys.executable, "-m", "pytest", *(str(HERE / name) for name in FILES), "-q", "-x", "-k", selected]
    command += ["-p", "no:cacheprovider", f"--kernel-program={ARM.emulator} -cpu {ROWS[row]} {program}"]
    done = subprocess.run(
        command,
        cwd=pytestconfig.rootpath,
        env=os.environ | variables,
        pass_fds=[memory],
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(memory)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
