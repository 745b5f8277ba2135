"""The proof that a rung confines: everything that `probe.py` tries must fail."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path

from ossia.errors import SandboxError
from ossia.tools.sandbox.limits import Job, Limits
from ossia.tools.sandbox.run import run
from ossia.tools.sandbox.rung import HERE, Rung

PROBE = HERE / "probe.py"
ATTEMPTS = (
    "reads_secret",
    "writes_outside",
    "reaches_network",
    "reaches_sockets",
    "changes_modes",
    "forks_a_hundred",
    "signals_parent",
    "makes_user_namespace",
    "is_privileged",
    "sees_environment",
)
SECONDS = 60.0
SECRET_NAME = "OSSIA_SELF_TEST"


def broken(rung: Rung) -> str | None:
    """What a process in it can do and must not, or that none can be started; None if all is
    well.
    """
    try:
        found = attempts(rung)
    except SandboxError as error:
        return str(error)
    done = [name.replace("_", " ") for name in ATTEMPTS if found[name] is not False]
    return f"confined code {', '.join(done)}" if done else None


def attempts(rung: Rung, limits: Limits | None = None) -> dict[str, bool]:
    """By name, whether it succeeded. Raises `SandboxError` if the probe did not run."""
    # in a folder that anybody may pass, so that the sandbox alone is what keeps it out
    with tempfile.TemporaryDirectory(prefix="ossia-probe-") as folder, ExitStack() as listeners:
        os.chmod(folder, 0o777)
        hidden = f"ossia-probe-{os.urandom(8).hex()}"
        port = listeners.enter_context(_listener(("127.0.0.1", 0))).getsockname()[1]
        listeners.enter_context(_listener(f"{folder}/socket"))
        listeners.enter_context(_listener("\0" + hidden))
        os.chmod(f"{folder}/socket", 0o777)
        secret = Path(folder) / "secret"
        secret.write_text("secret")
        secret.chmod(0o644)
        given = {
            "secret": str(secret),
            "outside": folder,
            "parent": os.getpid(),
            "port": port,
            "socket": f"{folder}/socket",
            "abstract": hidden,
            "name": SECRET_NAME,
        }
        argv = (rung.python, "-I", "-S", rung.place(PROBE), json.dumps(given))
        os.environ[SECRET_NAME] = "1"
        try:
            job = Job(argv, (PROBE,), limits=limits or Limits())
            ran = run(rung, job, seconds=SECONDS)
        finally:
            del os.environ[SECRET_NAME]
    try:
        found = json.loads(ran.out)
        return {name: bool(found[name]) for name in ATTEMPTS}
    except (ValueError, KeyError, TypeError) as error:
        said = " ".join((ran.err or ran.out).split())[-300:]
        raise SandboxError(
            f"the self-test did not run ({ran.reason or f'status {ran.status}'}): {said}"
        ) from error


def _listener(address: str | tuple[str, int]) -> socket.socket:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    made = socket.socket(family)
    made.bind(address)
    made.listen(1)
    return made
