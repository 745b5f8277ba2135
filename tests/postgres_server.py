"""A PostgreSQL of the distribution's own packages, started for tests and gone after them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
UNPRIVILEGED = ("postgres", "nobody")  # it does not start as root


def binaries() -> Path | None:
    """The folder of the newest one; None where there is none."""
    found = [path for place in PLACES for path in Path("/").glob(place.lstrip("/"))]
    found = [path for path in found if (path / "initdb").exists()]
    return max(found, default=None)


class Postgres:
    """A server in `folder`, which listens on a socket there and nowhere else."""

    def __init__(self, bin: Path, folder: Path) -> None:
        self.bin = bin
        self.folder = folder
        self.data = folder / "data"
        self.user: str | None = None
        if os.geteuid() == 0:
            known = {entry.pw_name for entry in pwd.getpwall()}
            self.user = next(name for name in UNPRIVILEGED if name in known)
            shutil.chown(folder, self.user)
        options = ["--auth=trust", "--username=ossia", "--no-sync", "--encoding=UTF8"]
        self._run("initdb", "-D", str(self.data), *options)

    def url(self, database: str) -> str:
        return f"postgresql://ossia@/{database}?host={self.folder}"

    def start(self) -> None:
        cheap = f"-c listen_addresses='' -k {self.folder} -c fsync=off -c shared_buffers=16MB"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.data), "-l", log, "-w", "-o", cheap, "start")

    def stop(self, how: str = "immediate") -> None:
        self._run("pg_ctl", "-D", str(self.data), "-m", how, "-w", "stop")

    def make(self, database: str) -> str:
        """A new, empty database. Returns its URL."""
        self._run("createdb", "-h", str(self.folder), "-U", "ossia", database)
        return self.url(database)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.bin / program), *arguments]
        if self.user is not None:
            command = ["setpriv", f"--reuid={self.user}", "--clear-groups", *command]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr or done.stdout}")


@contextmanager
def postgres(bin: Path) -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="ossia-pg-", dir="/tmp"))  # a socket's name is short
    made = Postgres(bin, folder)
    made.start()
    try:
        yield made
    finally:
        if (made.data / "postmaster.pid").exists():
            made.stop()
        shutil.rmtree(folder)
