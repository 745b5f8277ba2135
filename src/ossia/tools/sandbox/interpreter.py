"""Which folders a Python interpreter needs to run: what a sandbox has to show of this machine.

Knows the file system; nothing of sandboxes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ossia.errors import SandboxError

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32")
# What programs look up and nobody hides: libraries, fonts, time zones, certificates.
SETTINGS = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/mime.types",
    "/etc/ssl/certs",
    "/etc/nsswitch.conf",
)
STORES = ("/nix/store", "/gnu/store")  # where some systems keep all programs
ASK = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.exec_prefix]))"


@dataclass(frozen=True)
class Interpreter:
    """`executable`: what to run. `folders`: what it needs besides `SYSTEM`, outermost first."""

    executable: str
    folders: tuple[str, ...]


@cache
def interpreter(executable: str | None = None) -> Interpreter:
    """The one that runs us, or another. Raises `SandboxError`."""
    path = executable or sys.executable
    if not path:
        raise SandboxError("this Python does not know its own path; name one: interpreter=...")
    if executable is None:
        prefixes = [sys.prefix, sys.base_prefix, sys.exec_prefix]
    else:
        prefixes = _asked(path)
    prefixes += [str(Path(path).resolve().parent)]
    folders = [os.path.realpath(prefix) for prefix in prefixes]
    # a virtual environment may be named through a symbolic link
    folders += [os.path.abspath(prefix) for prefix in prefixes]
    folders += [store for store in STORES if path_is_in(os.path.realpath(path), store)]
    return Interpreter(os.path.abspath(path), _outermost(folders))


def _asked(path: str) -> list[str]:
    try:
        ran = subprocess.run([path, "-I", "-c", ASK], capture_output=True, timeout=60, check=True)
        return list(map(str, json.loads(ran.stdout)))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise SandboxError(f"{path} is not a Python that runs: {error}") from error


def _outermost(folders: list[str]) -> tuple[str, ...]:
    """Those that no other one holds, and no system folder. Raises `SandboxError` for one that holds
    more than a Python.
    """
    home = os.path.realpath(os.path.expanduser("~"))
    kept: list[str] = []
    for folder in sorted(set(folders), key=lambda each: (each.count("/"), each)):
        if any(path_is_in(folder, other) for other in (*SYSTEM, *kept)):
            continue
        if path_is_in(home, folder) or folder == "/":
            raise SandboxError(
                f"the Python in {folder} cannot be shown without showing the folder {home}: make "
                "a virtual environment, or name another Python"
            )
        kept.append(folder)
    return tuple(kept)


def path_is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
