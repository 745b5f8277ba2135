"""The compiled kernels of another architecture, run by an emulator: built, started, and called like
a ctypes library.

The emulated program (`kernels/cpu/emulated.cpp`) does a call for each line it reads. Arguments are
numbers and addresses; these it can follow only where Python's memory is shared with it: in a
process that `environment` was given to. Knows the names of the kernels' functions, nothing of what
they do.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ossia.kernels.cpu.build import COMMON, HERE, WARNINGS, compiler, isa_flags
from ossia.kernels.cpu.library import SIGNATURES

SOURCES = Path(__file__).parent / "kernels" / "cpu"
SHARED_BYTES = 2 << 30  # of shared_memory.h
MEMORY = "EMULATED_MEMORY"  # number of the shared memory's file


@dataclass(frozen=True)
class Machine:
    name: str  # as `platform.machine` has it
    compiler: str
    emulator: str

    def missing(self) -> str | None:
        """Why nothing can be built or run here."""
        if not sys.platform.startswith("linux") or compiler() is None:
            return "emulation is for Linux with a C++ compiler"
        lacking = [tool for tool in (self.compiler, self.emulator) if shutil.which(tool) is None]
        return f"{' and '.join(lacking)} not found" if lacking else None


ARM = Machine("aarch64", "aarch64-linux-gnu-g++", "qemu-aarch64")


def build(machine: Machine, folder: Path) -> Path:
    """The kernels as a program for that machine, made in `folder` unless it is there."""
    version = hashlib.sha256((SOURCES / "emulated.cpp").read_bytes()).hexdigest()[:8]
    program = folder / f"{machine.name}-{version}"
    if program.exists():
        return program
    folder.joinpath("functions.inc").write_text(
        "".join(f"FUNCTION({name})\n" for name in SIGNATURES)
    )
    units = {HERE / f"isa_{isa}.cpp": flags for isa, flags in isa_flags(machine.name).items()}
    units |= {HERE / "pool.cpp": (), SOURCES / "emulated.cpp": (f"-I{HERE}", f"-I{folder}")}
    objects = [folder / unit.with_suffix(".o").name for unit in units]
    running = [
        subprocess.Popen(
            [machine.compiler, *COMMON, *WARNINGS, "-O2", "-Werror", *flags, "-c", unit, "-o", made]
        )
        for (unit, flags), made in zip(units.items(), objects, strict=True)
    ]
    assert [one.wait() for one in running] == [0] * len(running), "a unit does not compile"
    made = program.with_suffix(".made")
    subprocess.run([machine.compiler, "-static", "-pthread", *objects, "-o", made], check=True)
    return made.replace(program)


def environment(folder: Path) -> tuple[dict[str, str], int]:
    """What a process has to be started with so that all its memory is shared: variables, and a file
    to be passed on.
    """
    library = folder / "shared_malloc.so"
    command = [
        str(compiler()),
        "-std=c++20",
        "-O2",
        "-shared",
        "-fPIC",
        str(SOURCES / "shared_malloc.cpp"),
    ]
    subprocess.run([*command, "-o", str(library)], check=True)
    memory = os.memfd_create("shared")
    os.ftruncate(memory, SHARED_BYTES)
    return {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc", MEMORY: str(memory)}, memory


class Emulated:
    """Looks like the `ctypes.CDLL` of `ossia.kernels.cpu.library`. `command` starts the emulated
    program.
    """

    def __init__(self, command: list[str]) -> None:
        memory = os.environ.get(MEMORY)
        variables = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        self._process = subprocess.Popen(
            command + ([memory] if memory else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=variables,
            text=True,
            pass_fds=[int(memory)] if memory else [],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # ends its input

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name not in SIGNATURES:
            raise AttributeError(name)
        return lambda *arguments: self._call(name, arguments)

    def _call(self, name: str, arguments: tuple[object, ...]) -> object:
        process = self._process
        assert process.stdin and process.stdout
        process.stdin.write(" ".join([name, *map(_word, arguments)]) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{name}: the emulated program ended with {process.wait()}")
        result = SIGNATURES[name][0]
        if result is ctypes.c_char_p:
            return answer.strip().encode() or None
        if result is ctypes.c_double:
            return float(answer)
        return None if result is None else int(answer)


def _word(argument: object) -> str:
    """A number as C reads it; of what `ctypes.byref` made, the address."""
    if argument is None:
        return "0"
    if isinstance(argument, bytes):
        return str(ctypes.cast(ctypes.c_char_p(argument), ctypes.c_void_p).value)
    if isinstance(argument, float):
        return argument.hex()
    if hasattr(argument, "_obj"):
        return str(ctypes.addressof(argument._obj))
    return str(int(argument))  # type: ignore[call-overload]


__all__ = ["ARM", "Emulated", "Machine", "build", "environment"]
