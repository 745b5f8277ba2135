"""The AVX-VNNI row on CPUs that have the instruction in another coding only.

`vpdpbusd` on 32-byte vectors is AVX-VNNI's in one coding and AVX-512 VNNI's in the other; results
are the same. So the row's unit is compiled to assembly, its instructions get the other coding, and
the linears' tests run against that.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shared_folders import kept

from ossia.kernels.cpu.build import COMMON, HERE, ISA_FLAGS, compiler, sources_name
from ossia.kernels.cpu.library import offered

TESTS = ("test_linear.py", "test_experts.py")


def run(*command: str, **options: object) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


def recode(cxx: str, folder: Path) -> None:
    """`library.so` in it: only the row's code, as the row `avx2`, which this CPU offers; the others
    are missing.
    """
    flags = (*COMMON, "-O1", "-w", *ISA_FLAGS["x86_64"]["avxvnni"])  # what is tested is no speed
    assembly, library = folder / "row.s", folder / "library.so"
    run(cxx, *flags, "-S", str(HERE / "isa_avx2.cpp"), "-o", str(assembly))
    text, count = re.subn(r"\{vex3?\}(\s+vpdpbusd\b)", r"{evex}\1", assembly.read_text())
    assert count > 50, "the unit has none of the instructions that make the row"
    assembly.write_text(text)
    units = (
        *(str(HERE / name) for name in ("api.cpp", "pool.cpp", "maps.cpp", "ceilings.cpp")),
        str(assembly),
    )
    run(cxx, *COMMON, "-w", "-shared", *units, "-o", str(library))


@pytest.fixture(scope="module")
def recoded(
    kernels: ctypes.CDLL, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The library, kept from run to run for as long as the sources and this file are the same."""
    cxx = compiler()
    if cxx is None or platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("no compiler for x86-64")
    if "avx512_vnni" not in offered(kernels):
        pytest.skip("this CPU has no vpdpbusd on 32-byte vectors in AVX-512's coding")
    version = f"{sources_name()}-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}"
    folder = kept(pytestconfig, "avxvnni", version, lambda folder: recode(cxx, folder))
    if folder is None:
        folder = tmp_path_factory.mktemp("avxvnni")
        recode(cxx, folder)
    return folder / "library.so"


@pytest.mark.slow
def test_row_passes_the_linears_tests(recoded: Path, pytestconfig: pytest.Config) -> None:
    tests = [str(Path(__file__).parent / name) for name in TESTS]
    options = ["-q", "-x", "-k", "avx2", f"--kernel-library={recoded}", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *tests, *options, "--limit=inf"]
    run(*command, cwd=pytestconfig.rootpath, env=dict(os.environ))
