"""Processes of Python that begin with the package and torch loaded: two thirds of what a command
costs is to load these.

One process for each worker of xdist's loads them once (warm_process.py) and forks for each command.
A fork is a child of the worker: it can be waited for and killed, its processor time is counted,
and arguments, variables, folder, streams, signals and exit codes are those of a process that was
started. What can differ is whatever depends on what is loaded already: tests of imports, of memory,
and of what is read when something is loaded start Python themselves.

So that no test leans on it, everything is started cold without xdist and with --thorough.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import amounts

PROGRAM = Path(__file__).with_name("warm_process.py")
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
# Variables that libraries or Python itself read when they are loaded.
READ_WHEN_LOADED = (
    "PYTHON", "LD_", "LC_", "LANG", "TZ", "OMP_", "KMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_",
    "TORCH_", "PYTORCH_", "TRITON_", "CUDA_", "HF_", "TOKENIZERS_", "MALLOC_", "GLIBC_",
)  # fmt: skip
# Of these only its imports are done: a fork reads it again.
READ_AGAIN = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")

_forkers: list[Forker] = []  # none or one
_one_at_a_time = threading.Lock()


class Popen(subprocess.Popen):
    """`subprocess.Popen` of a command that starts Python; warm if that makes no difference."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        # in the order of its parameters
        executable, preexec_fn, close_fds, pass_fds, cwd, env, _, _, shell = rest[:9]
        pipes = rest[9:15]
        restore_signals, gid, gids, uid, umask, start_new_session, process_group = rest[15:]
        own = (executable, preexec_fn, gid, gids, uid)
        usual = close_fds and restore_signals and (umask, process_group) == (-1, -1)
        usual = usual and not shell and not pass_fds and all(one is None for one in own)
        environment = dict(os.environ if env is None else env)
        if not usual or not _can_be_warm(args, environment):
            super()._execute_child(args, *rest)
            return
        streams = [theirs if theirs != -1 else number for number, theirs in _theirs(pipes)]
        self.pid = _fork(
            {
                "command": list(map(os.fspath, args[1:])),
                "environment": environment,
                "folder": os.fspath(cwd or os.getcwd()),
                "session": bool(start_new_session),
            },
            streams,
        )
        self._child_created = True
        self._close_pipe_fds(*pipes)


def run(command: Sequence[Any], **options: Any) -> subprocess.CompletedProcess[Any]:
    """As `subprocess.run`."""
    given, timeout = options.pop("input", None), options.pop("timeout", None)
    check = options.pop("check", False)
    if given is not None:
        options["stdin"] = subprocess.PIPE
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **options) as process:
        try:
            out, err = process.communicate(given, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _theirs(pipes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The child's three streams: the number, and the descriptor if it is not this process's."""
    p2cread, _, _, c2pwrite, _, errwrite = pipes
    return iter(enumerate((p2cread, c2pwrite, errwrite)))


def _can_be_warm(args: Any, environment: Mapping[str, str]) -> bool:
    if sys.platform != "linux" or "PYTEST_XDIST_WORKER" not in os.environ or amounts.thorough():
        return False
    if isinstance(args, str | bytes) or len(args) < 2 or args[0] != sys.executable:
        return False
    is_option = str(args[1]).startswith("-")
    known = args[1] in ("-m", "-c") or not is_option
    return known and _when_loaded(environment) == _when_loaded(os.environ)


def _when_loaded(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_WHEN_LOADED) and name not in READ_AGAIN
    }


def _fork(request: Mapping[str, Any], streams: Sequence[int]) -> int:
    with _one_at_a_time:
        if not _forkers:
            _forkers.append(Forker())
        return _forkers[0].fork(request, streams)


def end() -> None:
    """No more of them; the processor time of loading is counted now."""
    while _forkers:
        _forkers.pop().end()


class Forker:
    """The process that has everything loaded. It ends with this one."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        source = str(PROGRAM.parents[1] / "src")
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(theirs.fileno()), source],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def fork(self, request: Mapping[str, Any], streams: Sequence[int]) -> int:
        """The number of a new child of this process, which has these streams."""
        with _adopting():
            socket.send_fds(self._socket, [json.dumps(request).encode()], list(streams))
            answer = self._socket.recv(64)
        if not answer:
            raise RuntimeError(f"{PROGRAM.name} has ended; what it printed says why")
        return int(answer)

    def end(self) -> None:
        self._socket.close()
        self.process.wait()


@contextmanager
def _adopting() -> Iterator[None]:
    """Who loses his parent meanwhile, below this process, becomes a child of it."""
    libc = ctypes.CDLL(None, use_errno=True)

    def switch(on: int) -> None:
        if libc.prctl(SUBREAPER, on, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")

    switch(1)
    try:
        yield
    finally:
        switch(0)
