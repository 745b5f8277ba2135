"""The tests of the CPU kernels once more, against a build with AddressSanitizer and
UndefinedBehaviorSanitizer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ossia.kernels.cpu.build import BuildError, build, compiler

HERE = Path(__file__).parent
# the tests of what kernels compute; others read the code, or build libraries of their own
NUMBERS = ("linear", "experts", "attention", "attention_training", "training", "sampling")
FLAGS = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
    "-O1",
    "-g",
)


@pytest.mark.slow
def test_kernel_tests_run_clean(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    cxx = compiler()
    runtime = cxx and subprocess.run(
        [cxx, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    if not runtime or not Path(runtime.stdout.strip()).is_absolute():
        pytest.skip("no compiler with AddressSanitizer's run-time library")
    try:
        library = build(tmp_path, extra=FLAGS, name="sanitized.so")
    except BuildError as error:
        pytest.skip(f"no sanitized build here: {str(error)[:200]}")
    options = {
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    tests = [str(HERE / f"test_{name}.py") for name in NUMBERS]
    command = [sys.executable, "-m", "pytest", *tests, "-q", "-x", f"--kernel-library={library}"]
    command += ["-p", "no:cacheprovider", "--limit=inf"]
    done = subprocess.run(
        command,
        cwd=pytestconfig.rootpath,
        env=os.environ | options,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
