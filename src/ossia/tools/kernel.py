"""A Python that keeps its variables between cells: the program that runs inside every sandbox.

A file by itself, of the standard library alone. It reads requests and writes replies, one JSON
object a line, on what were its standard input and output:

    {"id": 1, "code": "x = 1\\nx"}            run a cell
    {"interrupt": 1}                         interrupt that cell, if it is not over
    {"ready": true}                          a reply: it has started
    {"id": 1, "figures": [...]}              a reply: the cell is over, and all of it is printed

Everything that code prints goes to what was standard error: Python's streams, those of other
programs, and tracebacks, in order. Whoever reads the replies must not trust them: a cell can write
there.
"""

from __future__ import annotations

import ast
import base64
import builtins
import fcntl
import io
import json
import linecache
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
import types
import warnings
from typing import Any

FAR = 200  # descriptors from here on are ours: cells tend to close small ones
IMAGE_BYTES = 1 << 20
FIGURES = 8  # a cell
DPI = 100.0
SHELL = "__run_in_shell__"


class Kernel:
    """`pid`: ours. A process that a cell forks is none of ours, and must not answer for us."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.requests = _far(0)
        self.replies = _far(1)
        self.printed = _far(2)
        self.cells: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.main = threading.get_ident()
        self.running: int | None = None  # the id of the cell that runs
        self.unwanted: int | None = None  # of the last one that was interrupted
        module = types.ModuleType("__main__")
        self.names = vars(module)
        self.names |= {"__builtins__": builtins, SHELL: run_in_shell}
        sys.modules["__main__"] = module
        sys.argv = [""]
        sys.path.insert(0, "")
        warnings.filterwarnings("ignore", message=".*is non-interactive")

    def serve(self) -> None:
        self.restore()
        threading.Thread(target=self.listen, daemon=True).start()
        self.reply({"ready": True})
        while True:
            try:
                self.answer(self.cells.get())
            except KeyboardInterrupt:  # came too late for its cell
                continue

    def listen(self) -> None:
        """In a thread of its own, so that it hears of interrupts while a cell runs."""
        with open(self.requests, encoding="utf-8", closefd=False) as lines:
            for line in lines:
                request = json.loads(line)
                if "interrupt" not in request:
                    self.cells.put(request)
                    continue
                self.unwanted = request["interrupt"]  # the cell may not have begun yet
                if self.unwanted == self.running:
                    signal.pthread_kill(self.main, signal.SIGINT)
        os._exit(0)  # nobody can ask us anything any more

    def answer(self, request: dict[str, Any]) -> None:
        """Run a cell and reply, whatever it does."""
        figures: list[dict[str, Any]] = []
        number = request["id"]
        try:
            self.restore()
            self.running = number
            if self.unwanted == number:
                self.running = None  # a signal besides would come too late
                raise KeyboardInterrupt
            figures = self.run_and_draw(request["code"], f"<cell {number}>")
        except BaseException as error:
            self.write(report(error))
        finally:
            self.running = None
            if os.getpid() != self.pid:  # a child that a cell forked, and that came to its end
                os._exit(0)
            self.reply({"id": number, "figures": figures})

    def run_and_draw(self, code: str, name: str) -> list[dict[str, Any]]:
        """Figures count even if the cell fails after it drew them."""
        try:
            self.run(code, name)
        except KeyboardInterrupt:  # there may be no time left to draw
            close_figures()
            raise
        except BaseException as error:
            self.write(report(error))
        return take_figures()

    def run(self, code: str, name: str) -> None:
        try:
            tree, code = parse(code, name)
        except SyntaxError as error:
            raise error.with_traceback(None) from None  # the frames are those of a parser
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        shown = None
        if tree.body and isinstance(tree.body[-1], ast.Expr) and not code.rstrip().endswith(";"):
            shown = tree.body.pop()
        exec(compile(tree, name, "exec"), self.names)
        if isinstance(shown, ast.Expr):
            sys.displayhook(eval(compile(ast.Expression(shown.value), name, "eval"), self.names))

    def restore(self) -> None:
        """What a cell may have closed, replaced or changed, and the next one relies on."""
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        if nowhere > 0:
            os.close(nowhere)
        for descriptor in (1, 2):
            os.dup2(self.printed, descriptor)
        # not buffered: programs that a cell starts write to the same place
        out = io.TextIOWrapper(_Unclosed(1), "utf-8", "backslashreplace", write_through=True)
        for name in ("stdout", "__stdout__", "stderr", "__stderr__"):
            setattr(sys, name, out)
        nothing = open(os.devnull, encoding="utf-8")  # noqa: SIM115
        for name in ("stdin", "__stdin__"):
            setattr(sys, name, nothing)
        signal.signal(signal.SIGINT, self.interrupted)

    def interrupted(self, number: int, frame: Any) -> None:
        if self.running is not None:
            raise KeyboardInterrupt

    def write(self, text: str) -> None:
        write_all(self.printed, text.encode("utf-8", "backslashreplace"))

    def reply(self, value: dict[str, Any]) -> None:
        write_all(self.replies, json.dumps(value).encode() + b"\n")


class _Unclosed(io.FileIO):
    """A descriptor that stays open when streams over it are thrown away."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)


def _far(descriptor: int) -> int:
    """A copy of a descriptor, which no other program inherits."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FAR)


def write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def parse(code: str, name: str) -> tuple[ast.Module, str]:
    """The code's tree, and the code with its `!command` and `%matplotlib` lines made Python. Raises
    SyntaxError.
    """
    while True:
        try:
            return ast.parse(code, name), code
        except SyntaxError as error:
            lines = code.split("\n")
            at = (error.lineno or 0) - 1
            if not 0 <= at < len(lines):
                raise
            changed = as_python(lines[at])
            if changed is None:
                raise
            lines[at] = changed
            code = "\n".join(lines)


def as_python(line: str) -> str | None:
    """A line that is a notebook's and not Python's, as Python; None if it is neither."""
    text = line.lstrip()
    before = line[: len(line) - len(text)]
    if text.startswith("!"):
        return f"{before}{SHELL}({text[1:]!r})"
    if text.startswith("%matplotlib"):
        return f"{before}pass"
    return None


def run_in_shell(command: str) -> None:
    subprocess.run(command, shell=True, stdin=subprocess.DEVNULL)


def report(error: BaseException) -> str:
    """The traceback, without our own frames. `exit()` is no error: it ends the cell."""
    if isinstance(error, SystemExit):
        return f"{error.code}\n" if isinstance(error.code, str) else ""
    try:
        told = traceback.TracebackException.from_exception(error)
        _without_our_frames(told)
        return "".join(told.format())
    except BaseException as worse:  # of an exception that cannot be written
        shown = type(worse).__name__
        return f"{type(error).__name__} (its traceback cannot be shown: {shown})\n"


def _without_our_frames(told: traceback.TracebackException) -> None:
    """Nor those of the exceptions before it."""
    left: list[traceback.TracebackException | None] = [told]
    seen: set[int] = set()
    for each in left:  # grows while it is walked
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        frames = [frame for frame in each.stack if frame.filename != __file__]
        each.stack = traceback.StackSummary.from_list(frames)
        left += [each.__cause__, each.__context__, *(getattr(each, "exceptions", None) or ())]


def take_figures() -> list[dict[str, Any]]:
    """The figures that matplotlib has open, as PNG; they are closed."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return []
    made = []
    try:
        for number in pyplot.get_fignums()[:FIGURES]:
            png = as_png(pyplot.figure(number))
            if png is not None:
                made.append({"number": number, "png": png})
    finally:
        close_figures()
    return made


def close_figures() -> None:
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
        pyplot.close("all")


def as_png(figure: Any) -> str | None:
    """In base64; with fewer dots if it is too large, None if it still is."""
    for dots in (DPI, DPI / 2, DPI / 4, DPI / 8):
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=dots)
        if file.tell() <= IMAGE_BYTES:
            return base64.b64encode(file.getvalue()).decode()
    return None


if __name__ == "__main__":
    Kernel().serve()
