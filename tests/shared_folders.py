"""Folders that are filled once in a run of the tests, whichever of xdist's workers comes first."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name, filled by `make`; the other worker waits for it. If `make` fails,
    the other tries it again, in what is there.
    """
    base = factory.getbasetemp()
    if base.name.startswith("popen-"):
        base = base.parent  # the run's own, in which each worker has one
    return _made(base, name, make)


def kept(
    config: pytest.Config, kind: str, version: str, make: Callable[[Path], None]
) -> Path | None:
    """A folder filled once for as long as the version is the same, where pytest keeps things from
    run to run; older versions of its kind are deleted. None where pytest keeps nothing.
    """
    cache = getattr(config, "cache", None)
    if cache is None:
        return None
    base: Path = cache.mkdir(kind)
    folder = _made(base, version, make)
    for old in base.glob("*"):
        if not old.name.startswith(version):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    return folder


def _made(base: Path, name: str, make: Callable[[Path], None]) -> Path:
    folder, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            done.touch()
    return folder
