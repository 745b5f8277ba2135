"""The seccomp filter of confined code: a small assembler for the kernel's BPF, and the program.

    program(platform.machine())    bytes for `bwrap --seccomp`

Knows `syscalls.ARCHITECTURES`. Denied calls fail with EPERM, as for a user who may not, so that
programs say so; `clone3`, whose arguments a filter cannot read, is ENOSYS, and the C library uses
`clone` then. A system call of another architecture ends the process.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ossia.tools.sandbox.syscalls import ARCHITECTURES, Architecture

# include/uapi/linux/bpf_common.h
LOAD = 0x20  # the 32-bit word at k
RETURN = 0x06
EQUAL = 0x15
AT_LEAST = 0x35
ANY_BIT = 0x45
# struct seccomp_data
NUMBER = 0
ARCHITECTURE = 4
ARGUMENT_0 = 16  # its low word, on little-endian machines
ARGUMENT_1 = 24

ALLOW = 0x7FFF0000
KILL = 0x80000000
ERRNO = 0x00050000

AF_UNIX = 1
NEW_NAMESPACES = 0x7E020000  # CLONE_NEW*: cgroup, uts, ipc, user, pid, net; and NEWNS
TIOCSTI = 0x5412  # types into a terminal
TIOCLINUX = 0x541C
FURTHEST = 255  # instructions that a jump can pass


@dataclass(frozen=True)
class Step:
    """An instruction. `then` and `otherwise` name labels; None is the next instruction."""

    code: int
    k: int
    then: str | None = None
    otherwise: str | None = None


def assemble(steps: Sequence[Step | str]) -> bytes:
    """The program; a string is a label, and stands for the instruction after it."""
    places: dict[str, int] = {}
    instructions: list[Step] = []
    for step in steps:
        if isinstance(step, str):
            places[step] = len(instructions)
        else:
            instructions.append(step)
    made = b""
    for here, step in enumerate(instructions):
        jumps = []
        for label in (step.then, step.otherwise):
            jump = 0 if label is None else places[label] - here - 1
            assert 0 <= jump <= FURTHEST, f"{label} is {jump} instructions away"
            jumps.append(jump)
        made += struct.pack("<HBBI", step.code, *jumps, step.k)
    return made


def program(machine: str, *, sees_files: bool = False) -> bytes | None:
    """The filter for this architecture; None where we know none. `sees_files`: for a sandbox that
    shows the machine's files, where others' sockets and the modes of others' files must be kept.
    """
    known = ARCHITECTURES.get(machine)
    return None if known is None else assemble(steps(known, sees_files=sees_files))


def steps(of: Architecture, *, sees_files: bool = False) -> list[Step | str]:
    made: list[Step | str] = [
        Step(LOAD, ARCHITECTURE),
        Step(EQUAL, of.audit, otherwise="kill"),
        Step(LOAD, NUMBER),
    ]
    if of.foreign is not None:
        made.append(Step(AT_LEAST, of.foreign, then="deny"))
    made += [
        Step(EQUAL, of.clone3, then="absent"),
        Step(EQUAL, of.clone, then="clone"),
        Step(EQUAL, of.socket, then="deny" if sees_files else "socket"),
        Step(EQUAL, of.socketpair, then="socket"),
        Step(EQUAL, of.ioctl, then="ioctl"),
    ]
    made += [Step(EQUAL, number, then="deny") for number in of.denied]
    if sees_files:  # programs that copy files change modes, and need not know that nothing happens
        made += [Step(EQUAL, number, then="ignore") for number in of.changes]
    made += [
        "allow",
        Step(RETURN, ALLOW),
        "clone",
        Step(LOAD, ARGUMENT_0),
        Step(ANY_BIT, NEW_NAMESPACES, then="deny", otherwise="pass"),
        "socket",
        Step(LOAD, ARGUMENT_0),
        Step(EQUAL, AF_UNIX, then="pass", otherwise="deny"),
        "ioctl",
        Step(LOAD, ARGUMENT_1),
        Step(EQUAL, TIOCSTI, then="deny"),
        Step(EQUAL, TIOCLINUX, then="deny", otherwise="pass"),
        "pass",
        Step(RETURN, ALLOW),
        "deny",
        Step(RETURN, ERRNO | errno.EPERM),
        "ignore",
        Step(RETURN, ERRNO),
        "absent",
        Step(RETURN, ERRNO | errno.ENOSYS),
        "kill",
        Step(RETURN, KILL),
    ]
    return made
