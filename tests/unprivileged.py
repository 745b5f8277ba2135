"""Running a Python program as a user without privileges, from tests that run as root.

That user must see the interpreter, which may lie in root's home: in a mount namespace of its own,
the home is replaced by the folders that lead to the interpreter.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ossia

SHOW = """
set -e
case "$BASE" in "$ROOT"/*)
    mount -t tmpfs none /mnt
    mkdir /mnt/parked
    mount --bind "$BASE" /mnt/parked
    mount -t tmpfs -o mode=755 none "$ROOT"
    mkdir -p "$BASE"
    mount --move /mnt/parked "$BASE"
    umount /mnt
esac
exec "$@"
"""
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--")


def run_python(program: str, *arguments: str, as_nobody: bool = True) -> str:
    """What it prints. `as_nobody` False: as root, with an interpreter that everybody can read.
    Skips the test where that cannot be arranged.
    """
    argv = [sys.executable, "-c", program, *arguments]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(ossia.__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BASE": sys.base_prefix,
        "ROOT": str(Path.home()),
    }
    if os.geteuid() == 0:
        for name in ("unshare", "setpriv"):
            if shutil.which(name) is None:
                pytest.skip(f"{name} is not installed")
        user = NOBODY if as_nobody else ()
        argv = ["unshare", "-m", "sh", "-c", SHOW, "sh", *user, *argv]
    elif not as_nobody:
        pytest.skip("the tests do not run as root")
    ran = subprocess.run(argv, capture_output=True, text=True, env=environment, cwd="/")
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout
