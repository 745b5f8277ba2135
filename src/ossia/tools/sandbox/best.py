"""The best way of confining code that there is on this machine: the ladder, climbed down until a
rung proves that it holds.

    found = find()
    found.rung            None: nothing here confines
    found.refused         (name, why) of the rungs above it
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ossia.errors import SandboxError
from ossia.tools.sandbox import selftest
from ossia.tools.sandbox.bubblewrap import Bubblewrap
from ossia.tools.sandbox.engines import Engine
from ossia.tools.sandbox.interpreter import interpreter
from ossia.tools.sandbox.landlock import Sandlock
from ossia.tools.sandbox.rung import Rung
from ossia.tools.sandbox.unsafe import Unsafe

log = logging.getLogger("ossia.tools")


@dataclass(frozen=True)
class Found:
    rung: Rung | None
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def described(self) -> str:
        """For people, in lines."""
        rows = [f"{name}: {why}" for name, why in self.refused]
        if self.rung is None:
            return "\n".join(["none: code is not run", *rows])
        return "\n".join([f"{self.rung.name}: {self.rung.about}", *rows])


def ladder(executable: str | None = None) -> Sequence[Rung]:
    """Best first. Raises `SandboxError` for an interpreter that cannot be used."""
    python = interpreter(executable)
    return (Bubblewrap(python), Sandlock(python), Engine("docker"), Engine("podman"))


@cache
def find(executable: str | None = None) -> Found:
    """Looks once a process; the self-test takes half a second. `executable`: the Python to use."""
    refused: list[tuple[str, str]] = []
    try:
        rungs = ladder(executable)
    except SandboxError as error:
        return Found(None, (("interpreter", str(error)),))
    for rung in rungs:
        why = rung.missing() or selftest.broken(rung)
        if why is None:
            return Found(rung, tuple(refused))
        refused.append((rung.name, why))
    return Found(None, tuple(refused))


def choose(executable: str | None = None, *, unsafe: bool = False) -> Rung:
    """`unsafe`: no sandbox, at the user's word. Raises `SandboxError` if nothing confines."""
    if unsafe:
        log.warning("code runs WITHOUT a sandbox: it can read and change whatever you can")
        return Unsafe(interpreter(executable))
    found = find(executable)
    if found.rung is None:
        reasons = "\n".join(f"  {name}: {why}" for name, why in found.refused)
        raise SandboxError(
            f"nothing on this machine confines code, so none is run:\n{reasons}\nThe package "
            "bubblewrap is the simplest remedy; `--python-unsafe` runs code without a sandbox."
        )
    return found.rung
