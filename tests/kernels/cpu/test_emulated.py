"""The kernels of ARM under an emulator: the tests of this folder once more, in a Python that shares
its memory with it.

By default what is multiplied, in the best row's way, for that differs most from x86-64; with --slow
everything, and the older rows on a CPU that has no more.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from emulated_kernels import ARM, Emulated, build, environment
from shared_folders import kept

from ossia.kernels.cpu.build import sources_name

HERE = Path(__file__).parent
FILES = (
    "test_linear.py",
    "test_experts.py",
    "test_attention.py",
    "test_attention_training.py",
    "test_training.py",
    "test_sampling.py",
)
PRODUCTS = FILES[:2]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """Kept from run to run where pytest keeps things, for as long as the sources are the same."""
    if missing := ARM.missing():
        pytest.skip(f"no kernels for ARM here: {missing}")
    folder = kept(pytestconfig, "arm", sources_name(), lambda folder: build(ARM, folder))
    return build(ARM, folder or tmp_path_factory.mktemp("arm"))


def test_each_cpu_is_offered_what_it_has(program: Path) -> None:
    for cpu, expected in {
        "cortex-a53": ["neon", "generic"],
        "neoverse-n1": ["neon_dot", "neon", "generic"],
        "max": ["neon_mmla", "neon_dot", "neon", "generic"],
    }.items():
        with Emulated([ARM.emulator, "-cpu", cpu, str(program)]) as kernels:
            offered = [kernels.ossia_offered(n) for n in range(len(expected) + 1)]
        assert offered == [*(name.encode() for name in expected), None]


@pytest.mark.long
def test_kernel_tests_pass(program: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    run_kernel_tests(program, "max", "neon_mmla", tmp_path, pytestconfig, PRODUCTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cpu", "selected"),
    [("max", "neon_mmla"), ("neoverse-n1", "neon_dot"), ("cortex-a53", "neon or generic")],
)
def test_all_kernel_tests_pass(
    program: Path, cpu: str, selected: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    run_kernel_tests(program, cpu, selected, tmp_path, pytestconfig)


def run_kernel_tests(
    program: Path,
    cpu: str,
    selected: str,
    folder: Path,
    config: pytest.Config,
    files: tuple[str, ...] = FILES,
) -> None:
    variables, memory = environment(folder)
    command = [sys.executable, "-m", "pytest", *(str(HERE / name) for name in files), "-q", "-x"]
    command += ["-p", "no:cacheprovider", "-k", selected, "--limit=inf"]
    command += [f"--kernel-program={ARM.emulator} -cpu {cpu} {program}"]
    done = subprocess.run(
        command,
        cwd=config.rootpath,
        env=os.environ | variables,
        pass_fds=[memory],
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(memory)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert re.search(r"\b\d+ passed", done.stdout), "every test was skipped"
