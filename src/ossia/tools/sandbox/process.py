"""A confined process with everything below it: started, watched, stopped, ended.

    with Confined(rung, job) as process: ...        its three streams are pipes

A process dies with the thread that started it: the kernel sees to that, also if we are killed.
Knows rungs and jobs; nothing of what the process does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import time
from types import TracebackType
from typing import IO

from ossia.errors import SandboxError
from ossia.tools.sandbox import cgroup, tree
from ossia.tools.sandbox.limits import SCRATCH, SHARED_MEMORY, Job
from ossia.tools.sandbox.rung import Launch, Rung

MEMORY_LIMIT = "memory limit"
PROCESS_LIMIT = "process limit"
OUR_PROCESSES = 4  # that a rung itself may have in a tree
DEATH_SECONDS = 5.0  # that processes may take to be gone after they were killed
PIPE_BYTES = 1 << 20
F_SETPIPE_SZ = 1031


class Confined:
    """A job that runs. `stdin`: a file to read instead of a pipe. Raises `SandboxError`."""

    def __init__(self, rung: Rung, job: Job, stdin: IO[bytes] | int = subprocess.PIPE) -> None:
        self.rung = rung
        self.limits = job.limits
        self.launch = rung.launch(job)
        self.group = cgroup.make(job.limits.memory) if rung.is_watched else None
        if self.group is not None:
            self.launch.argv = self.group.entering(self.launch.argv)
        try:
            self.popen = _popen(self.launch, stdin)
        except OSError as error:
            self._end_group()
            raise SandboxError(f"{rung.name} cannot be started: {error}") from error
        finally:
            for descriptor in self.launch.descriptors:
                os.close(descriptor)
        assert self.popen.stdout is not None and self.popen.stderr is not None
        self.out = self.popen.stdout.fileno()
        self.err = self.popen.stderr.fileno()

    def __enter__(self) -> Confined:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def over(self) -> str | None:
        """Which limit is passed now; None if none is, or somebody else watches."""
        if not self.rung.is_watched:
            return None
        if self.is_full():
            return MEMORY_LIMIT
        pids = tree.descendants(self.popen.pid)
        if len(pids) > self.limits.processes + OUR_PROCESSES:
            return PROCESS_LIMIT
        return MEMORY_LIMIT if self._memory(pids) > self.limits.memory else None

    def is_crowded(self) -> bool:
        """Whether no more processes can be started in it."""
        return self.rung.is_watched and (
            len(tree.descendants(self.popen.pid)) >= self.limits.processes
        )

    def is_full(self) -> bool:
        """Whether the kernel has ended some of it because of the memory limit."""
        return self.group is not None and self.group.is_exceeded()

    def _memory(self, pids: list[int]) -> int:
        """Bytes, those of temporary files too. Infinitely many for too many files. In a control
        group the kernel counts the rest.
        """
        held = tree.memory(pids) if self.group is None else 0
        if self.rung.own_scratch:
            for folder in (SCRATCH, SHARED_MEMORY):
                size, files = tree.scratch(pids[-1], folder, self.limits.scratch)
                held += size
                if files > self.limits.scratch_files:
                    return 1 << 62
        return held

    def stop(self) -> None:
        """Nothing in it runs until `go_on`. Its processes may try to escape by starting others."""
        if self.rung.is_watched:
            tree.stop(self.popen.pid)

    def go_on(self) -> None:
        if self.rung.is_watched:
            tree.go_on(self.popen.pid)

    def end(self) -> None:
        """Kill it and everything below it; returns when they are gone."""
        below = self._handles() if self.rung.is_watched else []
        try:
            if self.launch.end is not None:
                _run_quietly(self.launch.end)
            for _ in range(3):  # what is started meanwhile has a parent that is killed next
                pids = tree.descendants(self.popen.pid) if self.rung.is_watched else []
                tree.send(pids, signal.SIGKILL)
            self.popen.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(DEATH_SECONDS)
            _wait_for(below)
            self._end_group()
        finally:
            for handle in below:
                os.close(handle)
            for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()

    def _end_group(self) -> None:
        if self.group is not None:
            self.group.end()

    def _handles(self) -> list[int]:
        made = []
        for pid in tree.descendants(self.popen.pid)[1:]:
            with contextlib.suppress(OSError):
                made.append(os.pidfd_open(pid))
        return made


def _popen(launch: Launch, stdin: IO[bytes] | int) -> subprocess.Popen[bytes]:
    made = subprocess.Popen(
        launch.argv,
        bufsize=0,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=launch.descriptors,
        env=launch.variables,
        start_new_session=True,  # Ctrl-C in our terminal is not theirs
        cwd="/",
    )
    for stream in (made.stdout, made.stderr):
        assert stream is not None
        os.set_blocking(stream.fileno(), False)
        with contextlib.suppress(OSError):  # a user's pipes together have a limit
            fcntl.fcntl(stream, F_SETPIPE_SZ, PIPE_BYTES)
    return made


def _run_quietly(argv: list[str]) -> None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(argv, capture_output=True, timeout=DEATH_SECONDS)


def _wait_for(handles: list[int]) -> None:
    """Until the processes are gone. A handle can be read once its process has ended."""
    until = time.monotonic() + DEATH_SECONDS
    left = set(handles)
    while left and time.monotonic() < until:
        left -= set(select.select(list(left), [], [], 0.05)[0])
