"""Where the commands of our shell run: in the sandbox and the container of the tool python, each in
a process of its own.

    Shell(InContainers(python))
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from ossia.tools.containers import Container
from ossia.tools.protocol import SessionKey
from ossia.tools.python import ENTRIES, HARD, Python, PythonSession
from ossia.tools.sandbox.limits import Job
from ossia.tools.sandbox.run import TIME_LIMIT, Finished, run
from ossia.tools.shell import Ran

LOOK_SECONDS = 0.25  # between two looks at the files
FULL = "[ended: /mnt/data was full; the files that were written last were deleted]"


class InContainers:
    """`python`: whose sandbox, limits and containers these are."""

    def __init__(self, python: Python) -> None:
        self.python = python

    def __call__(self, key: SessionKey) -> InContainer:
        return InContainer(self.python, self.python.session(key))


class InContainer:
    def __init__(self, python: Python, session: PythonSession) -> None:
        self._python = python
        self._session = session

    @property
    def container_id(self) -> str | None:
        """See `shell.Placed`."""
        found = self._session.action("", "")
        return None if found is None else str(found["container_id"])

    async def __call__(self, argv: Sequence[str], cwd: str, seconds: float, limit: int) -> Ran:
        """A call that is given up ends the command."""
        if not self._python.prepared:
            await asyncio.to_thread(self._python.prepare)
        container = self._session.container
        watch = _Watch(self._python, container)
        try:
            return await asyncio.to_thread(self._run, tuple(argv), container, watch, seconds, limit)
        finally:
            watch.given_up.set()

    def _run(
        self,
        argv: tuple[str, ...],
        container: Container,
        watch: _Watch,
        seconds: float,
        limit: int,
    ) -> Ran:
        limits = self._python.limits
        if container.memory is not None:
            limits = replace(limits, memory=min(limits.memory, container.memory))
        job = Job(argv, (), container.area.path, limits)
        finished = run(
            self._python.rung, job, seconds=seconds, most=limit, interrupted=watch.is_over
        )
        self._python.containers.touch(container, container.lost)
        return _ran(finished, is_full=watch.tidied())


class _Watch:
    """Over what a container may hold, nothing goes on in it."""

    def __init__(self, python: Python, container: Container) -> None:
        self.given_up = threading.Event()
        self._rules = python.containers.rules
        self._container = container
        self._looked = time.monotonic()

    def is_over(self) -> bool:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return self.given_up.is_set()
        self._looked = now
        return self.given_up.is_set() or self._is_full(HARD)

    def _is_full(self, times: int) -> bool:
        used = self._container.area.usage(ENTRIES * self._rules.files)
        is_large = used.bytes > times * self._rules.quota
        return is_large or used.entries > ENTRIES * self._rules.files

    def tidied(self) -> bool:
        """Whether files had to be deleted."""
        if not self._is_full(1):
            return False
        self._container.area.remove_newest(self._rules.quota)
        return True


def _ran(finished: Finished, *, is_full: bool) -> Ran:
    """A command that we ended for another reason than time failed."""
    notes = [FULL] if is_full else []
    if finished.reason not in (None, TIME_LIMIT) and not is_full:
        notes.append(f"[ended: {finished.reason}]")
    errors = "\n".join(filter(None, [finished.err, *notes]))
    if finished.reason == TIME_LIMIT:
        return Ran(finished.out, errors, None)
    return Ran(finished.out, errors, finished.status or int(finished.reason is not None))
