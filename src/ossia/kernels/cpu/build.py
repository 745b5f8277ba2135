"""Compiles the C++ kernels into one shared library, named after the sources it was made from.

Used by the package's own build (`hatch_build.py`), and at first use if the sources have changed
since, or no library came with the package. Does not know torch, or what the kernels compute.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
COMMON: tuple[str, ...] = ("-std=c++20", "-O3", "-fPIC", "-pthread", "-fvisibility=hidden")
COMMON += ("-ffp-contract=off", "-fno-math-errno")  # the same bits wherever a line is inlined
WARNINGS: tuple[str, ...] = (
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-Wno-ignored-attributes",
    "-Wno-unused-function",
)
# GCC 12 finds some in its own AVX-512 header; clang knows no warning of the first name
WARNINGS += ("-Wno-maybe-uninitialized", "-Wno-uninitialized", "-Wno-unknown-warning-option")
AVX2 = ("-mavx2", "-mfma")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512")
# Scheduled before registers are given out, the unrolled loops of GCC need far more of them than
# there are.
ARM = ("-fno-schedule-insns", "-Wno-ignored-optimization-argument")  # clang has no such pass
# A row of isa_*.cpp each; api.cpp says which CPU has what, and which is best.
ISA_FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx2": AVX2,
        "avxvnni": (*AVX2, "-mavxvnni"),
        "avx512_bw": AVX512,
        "avx512_vnni": (*AVX512, "-mavx512vnni"),
        "avx512": (*AVX512, "-mavx512vnni", "-mavx512bf16"),
    },
    "aarch64": {
        "neon": ("-march=armv8-a", *ARM),
        "neon_dot": ("-march=armv8.2-a+dotprod", *ARM),
        "neon_mmla": ("-march=armv8.2-a+dotprod+i8mm+bf16", *ARM),
    },
}


class BuildError(Exception):
    """The kernels could not be compiled; the text says why. Without them the package is slow."""


def sources() -> list[Path]:
    return sorted(path for path in HERE.iterdir() if path.suffix in (".cpp", ".h", ".inc"))


def isa_flags(machine: str | None = None) -> dict[str, tuple[str, ...]]:
    """Instruction set -> flags of its unit, for that architecture or this machine's."""
    machine = (machine or platform.machine()).lower()
    return {
        "generic": (),
        **ISA_FLAGS.get({"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine), {}),
    }


def sources_name() -> str:
    """`_kernels-<hash of the sources and of how they are compiled>`, what every build of them is
    called.
    """
    digest = hashlib.sha256(repr((COMMON, ISA_FLAGS, platform.machine())).encode())
    for path in sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"_kernels-{digest.hexdigest()[:16]}"


def library_name() -> str:
    """The name of this build: with $CXX set, another compiler's libraries are not it."""
    wanted = os.environ.get("CXX")
    return (
        sources_name()
        + (f"-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}" if wanted else "")
        + ".so"
    )


def compiler() -> str | None:
    """What $CXX names, or else g++, clang++ or c++."""
    wanted = os.environ.get("CXX")
    return wanted or next(
        (path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))), None
    )


def build(folder: Path, extra: Sequence[str] = (), name: str | None = None) -> Path:
    """Compile into `folder` and return the library's path. `extra` flags are for sanitizers. An
    instruction set whose unit this compiler cannot make is left out, and the reason printed to
    stderr. Raises `BuildError`.
    """
    cxx = compiler()
    if cxx is None:
        raise BuildError("no C++ compiler was found: install g++ or clang++, or name one in CXX")
    target = folder / (name or library_name())
    with tempfile.TemporaryDirectory(dir=folder) as work:
        objects = _compile(cxx, Path(work), extra)
        made = Path(work, "library.so")
        _run([cxx, "-shared", "-pthread", *extra, *objects, "-o", str(made)])
        made.replace(target)
    if name is None and folder == HERE:  # a cache is shared with other versions
        for old in folder.glob("_kernels-*.so"):
            if not old.name.startswith(sources_name()):
                old.unlink(missing_ok=True)
    return target


def _compile(cxx: str, work: Path, extra: Sequence[str]) -> list[str]:
    """Every unit on a core of its own; the objects that were made."""
    isas = {f"isa_{isa}.cpp": flags for isa, flags in isa_flags().items()}
    needed: dict[str, tuple[str, ...]] = {
        "pool.cpp": (),
        "api.cpp": (),
        "maps.cpp": (),
        "ceilings.cpp": (),
        "isa_generic.cpp": (),
    }

    def compile_one(unit: str) -> str | None:
        made = str((work / unit).with_suffix(".o"))
        flags = isas.get(unit, ())
        try:
            _run([cxx, *COMMON, *WARNINGS, *flags, *extra, "-c", str(HERE / unit), "-o", made])
        except BuildError as error:
            if unit in needed:
                raise
            print(
                f"ossia: no kernels of {unit}, which {cxx} does not compile: {error}",
                file=sys.stderr,
            )
            return None
        return made

    with ThreadPoolExecutor(os.cpu_count()) as workers:
        return [made for made in workers.map(compile_one, needed | isas) if made is not None]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{_errors(done.stderr)}")


def _errors(text: str) -> str:
    """The lines with errors, which warnings would hide."""
    lines = text.strip().splitlines()
    wrong = [line for line in lines if "error" in line.lower()]
    return "\n".join(wrong or lines)[:4000]
