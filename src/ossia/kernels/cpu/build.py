"""Compiles the C++ kernels into one shared library, named after the sources it was made from.

Used by the package's own build (`hatch_build.py`), and at first use where the sources have changed since, or no library
came with the package. Knows no torch and nothing of what the kernels do.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
COMMON = ("-std=c++20", "-O3", "-fPIC", "-pthread", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden")
WARNINGS: tuple[str, ...] = ("-Wall", "-Wextra", "-Wno-psabi", "-Wno-ignored-attributes", "-Wno-unused-function")
WARNINGS += ("-Wno-maybe-uninitialized",)  # GCC 12 finds some in its own AVX-512 header
ISA_FLAGS: dict[str, tuple[str, ...]] = {
    "generic": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": (
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx512bf16"),
        *("-mfma", "-mprefer-vector-width=512"),
    ),
}


class BuildError(Exception):
    """The kernels could not be compiled; the text says why. The package works without them, slowly."""


def sources() -> list[Path]:
    return sorted(path for path in HERE.iterdir() if path.suffix in (".cpp", ".h", ".inc"))


def library_name() -> str:
    """`_kernels-<hash of the sources and of how they are compiled>.so`"""
    digest = hashlib.sha256(repr((COMMON, ISA_FLAGS, platform.machine())).encode())
    for path in sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"_kernels-{digest.hexdigest()[:16]}.so"


def compiler() -> str | None:
    """What $CXX names, or else g++, clang++ or c++."""
    wanted = os.environ.get("CXX")
    return wanted or next((path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))), None)


def build(folder: Path, extra: Sequence[str] = (), name: str | None = None) -> Path:
    """Compile into `folder` and return the library's path. `extra` flags are for sanitizers. Raises `BuildError`."""
    cxx = compiler()
    if cxx is None:
        raise BuildError("no C++ compiler was found: install g++ or clang++, or name one in CXX")
    target = folder / (name or library_name())
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    units = [("pool.cpp", ISA_FLAGS["generic"]), ("api.cpp", ISA_FLAGS["generic"])]
    units += [("ceilings.cpp", ISA_FLAGS["generic"]), ("isa_generic.cpp", ISA_FLAGS["generic"])]
    if is_x86:
        units += [(f"isa_{isa}.cpp", ISA_FLAGS[isa]) for isa in ("avx2", "avx512")]
    with tempfile.TemporaryDirectory(dir=folder) as work:
        objects = [str(Path(work, unit).with_suffix(".o")) for unit, _ in units]

        def compile_one(n: int) -> None:
            unit, flags = units[n]
            _run([cxx, *COMMON, *WARNINGS, *flags, *extra, "-c", str(HERE / unit), "-o", objects[n]])

        with ThreadPoolExecutor(os.cpu_count()) as workers:
            list(workers.map(compile_one, range(len(units))))
        made = Path(work, "library.so")
        _run([cxx, "-shared", "-pthread", *extra, *objects, "-o", str(made)])
        made.replace(target)
    if name is None and folder == HERE:  # a cache is shared with other versions
        for old in folder.glob("_kernels-*.so"):  # of other sources
            if old != target:
                old.unlink(missing_ok=True)
    return target


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stderr.strip()[-4000:]}")
