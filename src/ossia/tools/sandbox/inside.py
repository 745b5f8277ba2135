"""The first program in a sandbox: sets limits, gives up what it may do, becomes the command.

    python -I -S inside.py '{"uid": 1000, "limits": {"NPROC": 64}}' command argument...

A file by itself, of the standard library alone: it is run by whatever interpreter there is. Limits
are set here and not before: what counts processes must count those of the sandbox.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
INSTRUCTION = 8  # bytes of a filter's
PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
CAPABILITY_VERSION = 0x20080522
MOST_CAPABILITIES = 64


def limit(limits: dict[str, int]) -> None:
    """No soft limit above the hard one that there was."""
    for name, value in limits.items():
        kind = getattr(resource, "RLIMIT_" + name, None)
        if kind is None:
            continue
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(kind, (value, value))


def give_up(uid: int) -> None:
    """From root to an unprivileged user, for good."""
    import ctypes  # late: it takes a while

    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(MOST_CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def call_prctl(option: int, value: int = 1) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def forbid(program: bytes) -> None:
    """System calls, for us and all that come after us."""
    import ctypes

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    given = Program(len(program) // INSTRUCTION, program)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(given), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def main() -> None:
    spec = json.loads(sys.argv[1])
    os.closerange(3, 4096)
    os.umask(0o077)
    if spec.get("subreaper"):
        call_prctl(PR_SET_CHILD_SUBREAPER)
    if spec.get("uid") is not None:
        give_up(spec["uid"])
    if spec.get("no_new_privs"):
        call_prctl(PR_SET_NO_NEW_PRIVS)
    if spec.get("dies_with_parent"):  # after the change of user, which forgets it
        call_prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    limit(spec["limits"])
    if "folder" in spec:
        os.chdir(spec["folder"])
    if "filter" in spec:
        forbid(bytes.fromhex(spec["filter"]))
    os.execv(sys.argv[2], sys.argv[2:])


main()
