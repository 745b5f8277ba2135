"""The `python` tool that gpt-oss was trained with: a notebook that keeps its variables, in a
sandbox, with files in /mnt/data.

    llm.chat("What is 2**100?", tools=[Python()])

A session belongs to a caller and a container. Its process ends when it is idle or others need its
place; the files stay until the container expires, and the next call says what is gone. Knows
kernels, containers and sandboxes; the texts for the model are here and nowhere else.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import os
import threading
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ossia.errors import ContainerError, ToolError
from ossia.harmony import ToolNamespace
from ossia.harmony.content import builtin_tools
from ossia.tools.containers import MOVED, Container, Containers
from ossia.tools.kernel_process import DISK_LIMIT, KernelProcess, Ran, Space
from ossia.tools.kinds import PYTHON, ToolKind
from ossia.tools.protocol import SessionKey, ToolResult
from ossia.tools.sandbox import Limits, Rung, choose
from ossia.tools.sandbox.rung import new_uid

SECONDS = 120.0  # the model was told so
CLOSING_SECONDS = 3.0  # before a deadline, to interrupt the code and to end it
CPU_TIMES = 10  # processor seconds of a process, in time limits
END_SECONDS = 10.0
NOTHING_PRINTED = (
    "[WARN] No output available. Use print() to output anything to stdout to receive the output"
)
INTERRUPTED = "[ERROR] The code was interrupted after {:.1f} seconds; variables are kept."
STOPPED = "[ERROR] The code was interrupted by the user; variables are kept."
EMPTIED = "[ERROR] The session was restarted ({}): variables, imports and files are gone."
RESTARTED = (
    "[ERROR] The session was restarted ({}): variables and imports are gone, files in /mnt/data "
    "are kept."
)
DISK_FULL = (
    "[ERROR] The session was restarted (disk limit): variables and imports are gone; of the files "
    "in /mnt/data those written last were deleted."
)
OVER_QUOTA = (
    "[ERROR] /mnt/data holds {} MB in {} files; at most {} MB in {} files may stay: delete some."
)
IDLE = "it was not used for {:g} minutes"
EVICTED = "its place was needed"
SERVER = "the server was restarted"
HARD = 2  # times the quota: what the files may take while code runs
ENTRIES = 2  # times the number of files that may stay: folders count here, too


@dataclass(frozen=True)
class PythonSettings:
    """`seconds`: of a call. `idle_seconds`: without a call, after which a process ends. `most`,
    `most_per_caller`: processes at the same time. `interpreter`: the Python to run code with; None:
    ours. `unsafe`: without a sandbox.
    """

    seconds: float = SECONDS
    idle_seconds: float = 1200.0
    most: int = 16
    most_per_caller: int = 4
    interpreter: str | None = None
    unsafe: bool = False


class Python:
    """May be used by many threads and event loops. `containers`: where files are kept; None: in a
    temporary folder. `rung`: the sandbox; None: the best that there is, looked for when it is first
    needed, or by `prepare`.
    """

    kind: ToolKind = PYTHON

    def __init__(
        self,
        settings: PythonSettings | None = None,
        *,
        limits: Limits | None = None,
        containers: Containers | None = None,
        rung: Rung | None = None,
    ) -> None:
        self.settings = settings or PythonSettings()
        self.limits = limits or Limits(cpu_seconds=int(CPU_TIMES * self.settings.seconds))
        self.containers = containers or Containers(new_owner=self.new_owner)
        self.containers.before_removal.append(self._end_in)
        self._rung = rung
        self._live: dict[str, tuple[Container, KernelProcess]] = {}
        self._lock = threading.Lock()
        self._choosing = threading.Lock()
        _TOOLS.add(self)

    @cached_property
    def namespace(self) -> ToolNamespace:
        return builtin_tools("python")

    @property
    def rung(self) -> Rung:
        """Raises `SandboxError` if code cannot be confined here."""
        with self._choosing:
            if self._rung is None:
                wanted = self.settings
                self._rung = choose(wanted.interpreter, unsafe=wanted.unsafe)
            return self._rung

    def prepare(self) -> Rung:
        """Find the sandbox and prove it, before anybody waits for it. Raises `SandboxError`."""
        return self.rung

    @property
    def prepared(self) -> bool:
        return self._rung is not None

    def new_owner(self) -> int | None:
        """Whom a new container's files belong to. As root, code runs as a user that is nobody
        else's; otherwise as we.
        """
        return new_uid() if os.geteuid() == 0 and not self.settings.unsafe else None

    def session(self, key: SessionKey) -> PythonSession:
        return PythonSession(self, key)

    def end(self, key: SessionKey) -> None:
        """The conversation is over: its process and its files go."""
        for container in self.containers.of_caller(key.caller):
            if key.conversation and container.conversation == key.conversation:
                self.containers.delete(key.caller, container.id)

    def interrupt(self, caller: str | None = None) -> bool:
        """Ctrl-C: every cell that runs, or those of one caller. Whether there was any."""
        with self._lock:
            running = [
                kernel
                for container, kernel in self._live.values()
                if caller is None or container.caller == caller
            ]
        return any([kernel.interrupt() for kernel in running])

    def close(self) -> None:
        """End all processes. Files stay."""
        with self._lock:
            ending = [kernel for _, kernel in self._live.values()]
            self._live.clear()
        for kernel in ending:
            kernel.end()
        for kernel in ending:
            kernel.wait(END_SECONDS)

    @property
    def sessions(self) -> int:
        """Processes that there are."""
        return len(self._live)

    # ---- running ----

    def submit(self, container: Container, code: str, seconds: float) -> Submitted:
        """Start a cell. Raises `ToolError` if it cannot be."""
        rung = self.rung
        while True:
            with self._lock:
                lost, kernel = self._kernel(container, rung)
                future = kernel.submit(code, seconds)
            if future is not None:
                return Submitted(future, kernel, lost)

    def _kernel(self, container: Container, rung: Rung) -> tuple[str | None, KernelProcess]:
        """The one of a container, and why variables of an earlier one are gone."""
        found = self._live.get(container.id)
        if found is not None and not found[1].over:
            self.containers.touch(container, SERVER)
            return None, found[1]
        if found is not None:
            self._forget(*found)
        self._make_room(container.caller)
        limits = self.limits
        if container.memory is not None:
            limits = replace(limits, memory=min(limits.memory, container.memory))
        rules = self.containers.rules
        made = KernelProcess(
            rung,
            Space(container.area, HARD * rules.quota, ENTRIES * rules.files),
            limits,
            idle_seconds=self.settings.idle_seconds,
            on_end=lambda: self._ended(container, made),
        )
        self._live[container.id] = (container, made)
        lost = container.lost
        self.containers.touch(container, SERVER)
        return lost, made

    def _make_room(self, caller: str) -> None:
        """The processes that were used least recently give way. Raises `ToolError` if all run."""
        own = {id: pair for id, pair in self._live.items() if pair[0].caller == caller}
        for group, most in ((own, self.settings.most_per_caller), (self._live, self.settings.most)):
            if len(group) < most:
                continue
            idle = [(kernel.used, id) for id, (_, kernel) in group.items() if not kernel.waiting]
            if not idle:
                raise ToolError("all Python sessions are in use: try again later")
            container, kernel = self._live.pop(min(idle)[1])
            self.containers.touch(container, EVICTED)
            kernel.end()

    def _ended(self, container: Container, kernel: KernelProcess) -> None:
        """In the kernel's thread."""
        with self._lock:
            mine = self._live.get(container.id)
            if mine is not None and mine[1] is kernel:
                self._forget(container, kernel)

    def _forget(self, container: Container, kernel: KernelProcess) -> None:
        """A process that has ended: because of a cell, which says so, or without one."""
        del self._live[container.id]
        idle = IDLE.format(self.settings.idle_seconds / 60)
        self.containers.touch(container, None if kernel.told else idle)

    def _end_in(self, id: str) -> None:
        """Before a container's files are deleted."""
        with self._lock:
            found = self._live.pop(id, None)
        if found is not None:
            found[1].end()
            found[1].wait(END_SECONDS)


@dataclass(frozen=True)
class Submitted:
    """`lost`: why the variables of an earlier process are gone; None if there was none."""

    future: Future[Ran]
    kernel: KernelProcess
    lost: str | None

    def interrupt(self) -> bool:
        return self.kernel.interrupt(self.future)


class PythonSession:
    """The tool in one answer. Without a conversation nobody can come back: then the files are
    removed when the answer is over.
    """

    def __init__(self, tool: Python, key: SessionKey) -> None:
        self.tool = tool
        self.key = key
        self._container: Container | None = None
        self._sent: list[Submitted] = []  # cells without a result

    @property
    def container(self) -> Container:
        """Made when it is first asked for. Raises `ContainerError`."""
        known = self._container
        if known is None or not self.tool.containers.lives(known):
            wanted = self.key.container or self.key.conversation
            known = self.tool.containers.of(self.key.caller, wanted)
            self._container = known
        return known

    def action(self, function: str, text: str) -> dict[str, Any] | None:
        """Where the code runs."""
        try:
            return {"container_id": self.container.id}
        except (ContainerError, OSError):  # the call will say so
            return None

    def filed(self, path: str) -> Mapping[str, str] | None:
        """See `protocol.Filing`."""
        if self._container is None and not self.key.container:
            return None  # no code has run
        try:
            container = self.container
            container.area.open(path).close()
        except ContainerError:
            return None
        return {
            "container_id": container.id,
            "file_id": container.file_id(path),
            "filename": path.rpartition("/")[2],
        }

    async def call(self, function: str, text: str, deadline: float | None) -> ToolResult:
        seconds = self.tool.settings.seconds
        if deadline is not None:
            seconds = max(1.0, min(seconds, deadline - time.monotonic() - CLOSING_SECONDS))
        if not self.tool.prepared:
            await asyncio.to_thread(self.tool.prepare)
        container = self.container
        sent = self.tool.submit(container, text, seconds)
        self._sent.append(sent)
        try:
            ran = await asyncio.wrap_future(sent.future)
        except asyncio.CancelledError:
            sent.interrupt()
            raise
        finally:
            self._sent.remove(sent)
        return self._result(container, ran, seconds, sent.lost)

    def interrupt(self) -> bool:
        """See `protocol.Interruptible`."""
        return any([sent.interrupt() for sent in self._sent])

    def _result(
        self, container: Container, ran: Ran, seconds: float, lost: str | None
    ) -> ToolResult:
        notes = [f"[image: figure {f.number}, {f.width}x{f.height}]" for f in ran.figures]
        notes += _endings(ran, seconds)
        if ran.ended == DISK_LIMIT:
            container.area.remove_newest(self.tool.containers.rules.quota)
        elif (full := self._over_quota(container)) is not None:
            notes.append(full)
        text = _joined([_restarted(lost)] if lost else [], ran.text, notes)
        outputs: list[dict[str, Any]] = []
        if ran.text:
            outputs.append({"type": "logs", "logs": ran.text})
        for figure in ran.figures:
            data = base64.b64encode(figure.png).decode()
            outputs.append({"type": "image", "url": f"data:image/png;base64,{data}"})
        failed = ran.ended is not None or ran.interrupted is not None
        return ToolResult(
            text or NOTHING_PRINTED, tuple(outputs), failed=failed, ended=ran.ended is not None
        )

    def _over_quota(self, container: Container) -> str | None:
        rules = self.tool.containers.rules
        used = container.area.usage(ENTRIES * rules.files)
        if used.bytes <= rules.quota and used.entries <= rules.files:
            return None
        megabyte = 1 << 20
        return OVER_QUOTA.format(
            used.bytes // megabyte, used.entries, rules.quota // megabyte, rules.files
        )

    def close(self) -> None:
        if self._container is None or self.key.conversation or self.key.container:
            return
        try:
            self.tool.containers.delete(self.key.caller, self._container.id)
        except ContainerError:  # it has expired
            return


def _endings(ran: Ran, seconds: float) -> list[str]:
    """How a cell ended that did not come to its end."""
    if ran.ended == DISK_LIMIT:
        return [DISK_FULL]
    if ran.ended is not None:
        return [RESTARTED.format(ran.ended)]
    if ran.interrupted == "time":
        return [INTERRUPTED.format(seconds)]
    return [STOPPED] if ran.interrupted else []


def _joined(before: list[str], text: str, after: list[str]) -> str:
    """Notes on lines of their own around what was printed, which stays as it is."""
    if text and after and not text.endswith("\n"):
        text += "\n"
    return "".join(f"{note}\n" for note in before) + text + "\n".join(after)


_TOOLS: weakref.WeakSet[Python] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for tool in list(_TOOLS):
        tool.close()


def _restarted(why: str) -> str:
    return (EMPTIED if why == MOVED else RESTARTED).format(why)
