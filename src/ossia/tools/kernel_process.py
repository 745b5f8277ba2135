"""A `kernel.py` that runs in a sandbox, and the thread that owns it.

    kernel = KernelProcess(rung, area, limits, ...)
    kernel.submit("1 + 1", seconds=120.0).result()       -> Ran

The thread starts the process, talks with it, watches it and ends it; the process dies with the
thread. What the process writes is hostile: replies have a bounded length and are checked, nothing
in them is believed but that the cell is over. Knows sandboxes and areas; nothing of tools.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ossia.errors import SandboxError
from ossia.tools.area import Area
from ossia.tools.kernel import FIGURES, IMAGE_BYTES
from ossia.tools.sandbox.limits import Job, Limits
from ossia.tools.sandbox.process import (
    MEMORY_LIMIT,
    PIPE_BYTES,
    PROCESS_LIMIT,
    Confined,
)
from ossia.tools.sandbox.run import CHUNK, TICK, TIME_LIMIT
from ossia.tools.sandbox.rung import Rung
from ossia.tools.sandbox.text import HeadAndTail

KERNEL = Path(__file__).with_name("kernel.py")
START_SECONDS = 60.0
GRACE_SECONDS = 4.0  # after an interrupt; killing it loses the session
AREA_SECONDS = 1.0  # between two looks at the files
MOST_REPLY = FIGURES * (2 * IMAGE_BYTES) + 4096  # bytes of a line
MOST_TEXT = 32_768  # characters that are kept of what a cell printed
DIED = "the interpreter died"
NO_REACTION = "the code did not react to the interrupt"
DISK_LIMIT = "disk limit"
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Figure:
    number: int
    width: int
    height: int
    png: bytes


@dataclass(frozen=True)
class Ran:
    """What became of a cell. `interrupted`: by whom, "time" or "user". `ended`: why the process is
    gone; None if it goes on.
    """

    text: str
    figures: tuple[Figure, ...] = ()
    interrupted: str | None = None
    ended: str | None = None


@dataclass(frozen=True)
class Space:
    """Where a kernel works. `disk`: bytes that its files may take at any moment, `entries`: how
    many there may be.
    """

    area: Area
    disk: int
    entries: int


@dataclass
class _Cell:
    code: str
    seconds: float
    future: Future[Ran] = field(default_factory=Future)
    wanted_over: bool = False  # the user interrupted it


class KernelProcess:
    """`idle_seconds`: without a cell the process ends. `on_end`: called once, in its thread,
    when the process is gone.
    """

    def __init__(
        self,
        rung: Rung,
        space: Space,
        limits: Limits,
        *,
        idle_seconds: float,
        on_end: Callable[[], None],
    ) -> None:
        self.rung = rung
        self.space = space
        self.limits = limits
        self.idle_seconds = idle_seconds
        self.used = time.monotonic()
        self.running_pid: int | None = None  # the process that all others are below
        self.waiting = 0  # cells that run or will
        self._on_end = on_end
        self._cells: queue.Queue[_Cell | None] = queue.Queue()
        self._current: _Cell | None = None
        self._thread = threading.Thread(target=self._work, name="ossia-kernel", daemon=True)
        self._lock = threading.Lock()
        self.told = False  # a cell is answered that the process is gone
        self.over = False  # no cell is taken any more

    def submit(self, code: str, seconds: float) -> Future[Ran] | None:
        """None if the process has ended meanwhile: start another one. A cell waits for those before
        it; its time begins when it does.
        """
        with self._lock:
            if self.over:
                return None
            if not self._thread.is_alive():
                self._thread.start()
            self.used = time.monotonic()
            self.waiting += 1
            cell = _Cell(code, seconds)
            self._cells.put(cell)
            return cell.future

    def interrupt(self, future: Future[Ran] | None = None) -> bool:
        """The cell that runs, if there is one; with `future`, only if it is that of this cell."""
        cell = self._current
        if cell is None or future not in (None, cell.future):
            return False
        cell.wanted_over = True
        return True

    def end(self) -> None:
        """No cell is begun after this; `wait` for the end."""
        with self._lock:
            self.over = True
            self._cells.put(None)
        self.interrupt()

    def wait(self, seconds: float | None = None) -> None:
        if self._thread.is_alive():
            self._thread.join(seconds)

    # ---- in the thread ----

    def _work(self) -> None:
        """A cell that the process ends with is answered when the process is gone."""
        last: tuple[_Cell, Ran] | None = None
        try:
            with _Running(self) as running:
                self.running_pid = running.process.popen.pid
                while last is None and (cell := self._next()) is not None:
                    ran = self._run(running, cell)
                    if ran is not None and ran.ended:
                        self.told = True
                        last = (cell, ran)
                    elif ran is not None:
                        cell.future.set_result(ran)
        except SandboxError as error:
            self._refuse(error)
        finally:
            with self._lock:
                self.over = True
            self._on_end()
            if last is not None:
                last[0].future.set_result(last[1])
            self._refuse(None)

    def _next(self) -> _Cell | None:
        """The next cell; None after the end was asked for, or too long a time without one."""
        while True:
            try:
                return self._cells.get(timeout=self.idle_seconds)
            except queue.Empty:
                with self._lock:
                    if self._cells.empty():
                        self.over = True
                        return None

    def _run(self, running: _Running, cell: _Cell) -> Ran | None:
        """What became of a cell; None if nobody wants it any more."""
        try:
            if not cell.future.set_running_or_notify_cancel():
                return None
            self._current = cell
            return running.run(cell)
        except Exception as error:  # ours: the caller must not wait for ever
            cell.future.set_exception(error)
            raise
        finally:
            self._current = None
            self.used = time.monotonic()
            self.waiting -= 1

    def _refuse(self, error: SandboxError | None) -> None:
        """What was asked for and is not done any more."""
        with contextlib.suppress(queue.Empty):
            while True:
                cell = self._cells.get_nowait()
                if cell is None or not cell.future.set_running_or_notify_cancel():
                    continue
                if error is None:
                    cell.future.set_result(Ran("", ended=DIED))
                else:
                    cell.future.set_exception(error)


class _Running:
    """A started process, and one cell after the other in it."""

    def __init__(self, owner: KernelProcess) -> None:
        rung = owner.rung
        argv = (rung.python, "-I", "-u", rung.place(KERNEL))
        self.space = owner.space
        self.process = Confined(rung, Job(argv, (KERNEL,), owner.space.area.path, owner.limits))
        self.number = 0
        self.replies = bytearray()
        self.begun = time.monotonic()

    def __enter__(self) -> _Running:
        """Raises `SandboxError` if it does not start."""
        try:
            assert self.process.popen.stdin is not None
            os.set_blocking(self.process.popen.stdin.fileno(), False)
            talk = _Talk(self, _Cell("", START_SECONDS), {"ready": True})
            ran = talk.until_over(b"")
            if ran.ended or ran.interrupted:
                said = " ".join(ran.text.split())[-300:]
                raise SandboxError(f"Python does not start in the sandbox: {said}")
            self.process.stop()
        except BaseException:
            self.process.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.end()

    def run(self, cell: _Cell) -> Ran:
        self.number += 1
        request = {"id": self.number, "code": cell.code}
        self.process.go_on()
        try:
            talk = _Talk(self, cell, {"id": self.number})
            return talk.until_over(json.dumps(request).encode() + b"\n")
        finally:
            self.process.stop()


class _Talk:
    """One request and its reply. `expected`: what the reply has to hold."""

    def __init__(self, running: _Running, cell: _Cell, expected: dict[str, Any]) -> None:
        self.running = running
        self.process = running.process
        self.cell = cell
        self.expected = expected
        self.text = HeadAndTail(MOST_TEXT)
        self.unsent = b""
        self.readable = [running.process.out, running.process.err]
        self.interrupted: str | None = None
        self.until = time.monotonic() + cell.seconds
        self.looked = 0.0
        self.measured = time.monotonic()

    def until_over(self, request: bytes) -> Ran:
        self.unsent = request
        while True:
            reply = self._exchange()
            if reply is not None:
                self._drain()
                return self._finished(reply)
            ended = self._reason()
            if ended is not None:
                self._drain()
                return Ran(self.text.text(), interrupted=self.interrupted, ended=ended)

    def _exchange(self) -> bytes | None:
        """Write and read what can be without waiting for long; the reply, if it is whole."""
        process = self.process
        assert process.popen.stdin is not None
        stdin = process.popen.stdin.fileno()
        ready, writable, _ = select.select(self.readable, [stdin] if self.unsent else [], [], TICK)
        if writable:
            self._send(stdin)
        if process.err in ready:
            self._take(process.err)
        if process.out in ready:
            self._take(process.out)
            line, found, rest = self.running.replies.partition(b"\n")
            if found:
                self.running.replies = rest
                return bytes(line)
        return None

    def _send(self, stdin: int) -> None:
        try:
            self.unsent = self.unsent[os.write(stdin, self.unsent) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.unsent = b""

    def _take(self, stream: int) -> None:
        """Read once. A stream that has ended would be ready for ever."""
        data = _read(stream)
        if data == b"":
            self.readable.remove(stream)
        elif data and stream == self.process.err:
            self.text.feed(data)
        elif data:
            self.running.replies += data

    def _finished(self, line: bytes) -> Ran:
        """A reply that is not what was asked for ends the process: it is no longer our program."""
        figures = None
        if not self.running.replies and len(line) <= MOST_REPLY:
            figures = _figures(line, self.expected)
        ended = DIED if figures is None else self._disk()
        if ended is None and self.interrupted is not None and self.process.is_crowded():
            ended = PROCESS_LIMIT  # what it started without end would go on with the next cell
        return Ran(self.text.text(), figures or (), self.interrupted, ended)

    def _reason(self) -> str | None:
        """Why the process has to end now. Past the time limit, the cell is interrupted first."""
        now = time.monotonic()
        if self.process.popen.poll() is not None or self.process.out not in self.readable:
            return MEMORY_LIMIT if self.process.is_full() else DIED
        if len(self.running.replies) > MOST_REPLY:
            return DIED
        if self.interrupted is None and (now >= self.until or self.cell.wanted_over):
            self.interrupted = "user" if self.cell.wanted_over else "time"
            self.until = now + GRACE_SECONDS
            self.unsent += json.dumps({"interrupt": self.expected.get("id")}).encode() + b"\n"
        elif self.interrupted is not None and now >= self.until:
            return TIME_LIMIT if self.interrupted == "time" else NO_REACTION
        if now - self.looked >= TICK:
            self.looked = now
            if (passed := self.process.over()) is not None:
                return passed
        if now - self.measured >= AREA_SECONDS:
            self.measured = now
            return self._disk()
        return None

    def _disk(self) -> str | None:
        space = self.running.space
        used = space.area.usage(space.entries)
        if used.bytes <= space.disk and used.entries <= space.entries:
            return None
        return DISK_LIMIT

    def _drain(self) -> None:
        """What was printed before the cell was over. What others print meanwhile has a bound."""
        left = 2 * PIPE_BYTES
        while left > 0 and (data := _read(self.process.err)):
            self.text.feed(data)
            left -= len(data)


def _read(descriptor: int) -> bytes | None:
    """What is there, b"" at the end of the stream; None if there is nothing now."""
    try:
        return os.read(descriptor, CHUNK)
    except BlockingIOError:
        return None


def _figures(line: bytes, expected: dict[str, Any]) -> tuple[Figure, ...] | None:
    """Those of a reply; None if it is not the reply to what was asked."""
    try:
        reply = json.loads(line)
        if any(reply[key] != value for key, value in expected.items()):
            return None
        given = reply.get("figures", [])[:FIGURES]
        return tuple(_figure(each["number"], base64.b64decode(each["png"])) for each in given)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _figure(number: int, png: bytes) -> Figure:
    """Raises ValueError for anything but a PNG of bounded size."""
    if not png.startswith(PNG) or not 24 <= len(png) <= IMAGE_BYTES:
        raise ValueError("not a PNG of the expected size")
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    return Figure(int(number), width, height, png)
