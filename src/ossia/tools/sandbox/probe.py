"""What a sandbox must prevent, tried from inside: prints as JSON which attempts succeeded.

    python -I -S probe.py '{"secret": path, "outside": folder, "parent": pid, "port": port}'

A file by itself, of the standard library alone. `selftest.py` reads what it prints.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import time
from typing import Any

CLONE_NEWUSER = 0x10000000
CAPABILITY_VERSION = 0x20080522
PR_GET_NO_NEW_PRIVS = 39
FORKS = 100


def processes() -> list[str]:
    """Those that are seen; at least us and whoever started us."""
    try:
        return [entry for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return ["1", str(os.getpid()), str(os.getppid())]


def reads_secret(given: dict[str, Any]) -> bool:
    """Also by the way of every process that is seen."""
    paths = [f"/proc/{pid}/root{given['secret']}" for pid in processes()]
    for path in [given["secret"], *paths]:
        try:
            with open(path) as file:
                if file.read():
                    return True
        except OSError:
            pass
    return False


def writes_outside(given: dict[str, Any]) -> bool:
    name = "written"
    for folder in (given["outside"], "/", "/usr", "/etc", sys.prefix, "/proc/sys/kernel"):
        try:
            with open(os.path.join(folder, name), "w") as file:
                file.write(name)
            return True
        except OSError:
            pass
    return False


def reaches_network(given: dict[str, Any]) -> bool:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            made = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue
        try:
            made.settimeout(1)
            made.connect((address, given["port"]))
            return True
        except OSError:
            pass
    return False


def reaches_sockets(given: dict[str, Any]) -> bool:
    """Of others, by their names in the file system and outside of it."""
    for address in (given["socket"], "\0" + given["abstract"]):
        try:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            made.connect(address)
            return True
        except OSError:
            pass
    return False


def changes_modes(given: dict[str, Any]) -> bool:
    try:
        os.chmod(given["secret"], 0o666)
    except OSError:
        return False
    return os.stat(given["secret"]).st_mode & 0o777 == 0o666


def forks_a_hundred(given: dict[str, Any]) -> bool:
    children = []
    try:
        for _ in range(FORKS):
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            children.append(child)
    except OSError:
        pass
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return len(children) == FORKS


def signals_parent(given: dict[str, Any]) -> bool:
    try:
        os.kill(given["parent"], 0)
        return True
    except OSError:
        return False


def makes_user_namespace(given: dict[str, Any]) -> bool:
    """In a child: success would change what the other attempts see."""
    child = os.fork()
    if child == 0:
        failed = ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER)
        os._exit(1 if failed else 0)
    return os.waitpid(child, 0)[1] == 0


def is_privileged(given: dict[str, Any]) -> bool:
    """Root outside of a namespace, capabilities, or a way to gain them."""
    libc = ctypes.CDLL(None)
    sets = (ctypes.c_uint32 * 6)()
    libc.capget((ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), sets)
    may_gain = libc.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1
    return any(sets) or may_gain


def sees_environment(given: dict[str, Any]) -> bool:
    """The environment of whoever started us."""
    if given["name"] in os.environ:
        return True
    for pid in processes():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if given["name"].encode() in file.read():
                    return True
        except OSError:
            pass
    return False


ATTEMPTS = (
    reads_secret,
    writes_outside,
    reaches_network,
    reaches_sockets,
    changes_modes,
    signals_parent,
    makes_user_namespace,
    is_privileged,
    sees_environment,
    forks_a_hundred,  # last: what counts processes may notice late that they are gone
)

print(json.dumps({attempt.__name__: attempt(json.loads(sys.argv[1])) for attempt in ATTEMPTS}))
