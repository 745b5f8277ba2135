"""The system call filter, run by an interpreter of its instructions: every architecture is tested
on every machine.
"""

from __future__ import annotations

import errno
import struct

import pytest

from ossia.tools.sandbox import bpf
from ossia.tools.sandbox.syscalls import AARCH64, ARCHITECTURES, CHANGES, DENIED, X86_64

ALLOW = "allow"
CLONE_NEWUSER = 0x10000000
CLONE_OF_THREADS = 0x3D0F00  # as the C library makes them
AF_INET = 2
AF_NETLINK = 16
BOTH = pytest.mark.parametrize("machine", [X86_64, AARCH64])


def decide(program: bytes, audit: int, number: int, *arguments: int) -> object:
    """What the kernel would do: "allow", "kill" or an error number."""
    data = struct.pack("<iIQ6Q", number, audit, 0, *(*arguments, *[0] * (6 - len(arguments))))
    accumulator = at = 0
    while True:
        code, then, otherwise, k = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        if code == bpf.LOAD:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif code == bpf.RETURN:
            break
        else:
            held = {
                bpf.EQUAL: accumulator == k,
                bpf.AT_LEAST: accumulator >= k,
                bpf.ANY_BIT: accumulator & k != 0,
            }[code]
            at += then if held else otherwise
    if k == bpf.ALLOW:
        return ALLOW
    return "kill" if k == bpf.KILL else k & 0xFFFF


def decided(machine: str, number: int, *arguments: int, sees_files: bool = False) -> object:
    made = bpf.program(machine, sees_files=sees_files)
    assert made is not None
    return decide(made, ARCHITECTURES[machine].audit, number, *arguments)


@BOTH
def test_what_is_denied(machine: str) -> None:
    column = [X86_64, AARCH64].index(machine)
    numbers = {name: row[column] for name, row in DENIED.items() if row[column] is not None}
    assert len(set(numbers.values())) == len(numbers) > 50
    for number in numbers.values():
        assert number is not None and decided(machine, number) == errno.EPERM


@BOTH
def test_what_is_looked_into(machine: str) -> None:
    known = ARCHITECTURES[machine]
    assert decided(machine, known.clone, CLONE_OF_THREADS) == ALLOW
    assert decided(machine, known.clone, CLONE_NEWUSER | 17) == errno.EPERM
    assert decided(machine, known.clone3) == errno.ENOSYS
    for number in (known.socket, known.socketpair):
        assert decided(machine, number, bpf.AF_UNIX) == ALLOW
        assert decided(machine, number, AF_INET) == errno.EPERM
        assert decided(machine, number, AF_NETLINK) == errno.EPERM
    # the kernel looks at 32 bits of it
    assert decided(machine, known.socket, 1 << 32 | AF_INET) == errno.EPERM
    assert decided(machine, known.ioctl, 0, bpf.TIOCSTI) == errno.EPERM
    assert decided(machine, known.ioctl, 0, 0x5401) == ALLOW


@BOTH
def test_other_calls_are_allowed(machine: str) -> None:
    known = ARCHITECTURES[machine]
    special = {known.clone, known.clone3, known.socket, known.socketpair, known.ioctl}
    others = set(range(480)) - special - set(known.denied)
    assert {decided(machine, number) for number in others} == {ALLOW}


@BOTH
def test_where_files_are_seen_nothing_of_others_is_changed(machine: str) -> None:
    known = ARCHITECTURES[machine]
    column = [X86_64, AARCH64].index(machine)
    for row in CHANGES.values():
        if (number := row[column]) is not None:
            assert decided(machine, number) == ALLOW
            assert decided(machine, number, sees_files=True) == 0, "it is said to have succeeded"
    assert decided(machine, known.socket, bpf.AF_UNIX, sees_files=True) == errno.EPERM
    assert decided(machine, known.socketpair, bpf.AF_UNIX, sees_files=True) == ALLOW


def test_other_architectures() -> None:
    made = bpf.program(X86_64)
    assert made is not None
    i386 = 0x40000003
    assert decide(made, i386, 1) == "kill"
    assert decided(X86_64, 0x40000000 | 39) == errno.EPERM, "x32"
    assert bpf.program("riscv64") is None


def test_the_kernel_takes_the_program() -> None:
    """No jump leaves it, and it is short enough."""
    for machine in ARCHITECTURES:
        made = bpf.program(machine, sees_files=True)
        assert made is not None and len(made) % 8 == 0 and len(made) // 8 < 4096
