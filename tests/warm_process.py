"""The process behind warm_python.py: loads what commands load, then forks for each that is asked
for.

The fork leaves this file's loop and goes on as a fresh Python would: what it runs is the last thing
that this file does, so it ends as any program ends.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import socket
import sys
import tempfile
import types
from typing import Any

STREAMS = 3
# What the package loads late, when a command needs it.
LATE = ("uvicorn", "fastapi", "httpx", "torch.distributed")
LONGEST = 1 << 20  # bytes of a request


def load(source: str) -> None:
    sys.path.insert(0, source)
    import ossia.commands

    for found in pkgutil.walk_packages(ossia.commands.__path__, "ossia.commands."):
        importlib.import_module(found.name)
    for name in LATE:
        importlib.import_module(name)
    # or every fork would look for garbage among all of it as it ends: most of a second
    gc.collect()
    gc.freeze()
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("what was loaded has started a thread, which a fork would not have")


def forked(asked: socket.socket) -> dict[str, Any]:
    """Returns in each fork, with what it is to run; never here."""
    while True:
        message, streams, _, _ = socket.recv_fds(asked, LONGEST, STREAMS)
        if not message:
            os._exit(0)
        request = json.loads(message)
        reading, writing = os.pipe()
        waiting, adopted = os.pipe()
        between = os.fork()
        if between == 0:
            if os.fork():
                os._exit(0)
            take(streams)
            os.chdir(request["folder"])
            if request["session"]:
                os.setsid()
            os.write(writing, str(os.getpid()).encode())
            for handle in (reading, writing, adopted, asked.detach()):
                os.close(handle)
            os.read(waiting, 1)  # ends when nobody can write any more
            os.close(waiting)
            return request
        for handle in (writing, waiting, *streams):
            os.close(handle)
        # when this one is gone, the worker is the parent of its child
        os.waitpid(between, 0)
        child = os.read(reading, 64)
        for handle in (reading, adopted):
            os.close(handle)
        asked.send(child)


def take(streams: list[int]) -> None:
    """Make them this process's own three."""
    # none of them is below 3, so none is overwritten before it is copied
    for number, handle in enumerate(streams):
        os.dup2(handle, number)
    for handle in streams:
        os.close(handle)
    sys.stdin = sys.__stdin__ = opened(0, sys.stdin)
    sys.stdout = sys.__stdout__ = opened(1, sys.stdout)
    sys.stderr = sys.__stderr__ = opened(2, sys.stderr)


def opened(number: int, like: Any) -> Any:
    """As Python opens them when it starts: by lines at a terminal and on stderr, else by blocks;
    without any buffer if the environment says so.
    """
    at_once = like.write_through
    raw: Any = io.FileIO(number, "r" if number == 0 else "w", closefd=False)
    by_lines = not at_once and (number == 2 or raw.isatty())
    if number == 0:
        raw = io.BufferedReader(raw)
    elif not at_once:
        raw = io.BufferedWriter(raw)
    return io.TextIOWrapper(
        raw, like.encoding, like.errors, line_buffering=by_lines, write_through=at_once
    )


def become(request: dict[str, Any]) -> list[str]:
    """The words of the command, of which the first says what they are."""
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # it remembers where it was sent by those before
    after = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    rest = [path for path in BASE if path not in before]
    sys.path[:] = ["", *filter(None, after), *rest]
    sys.orig_argv = [sys.executable, *request["command"]]
    return request["command"]


def fresh_main() -> dict[str, Any]:
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    return main.__dict__


if __name__ == "__main__":
    load(sys.argv[2])
    BASE = sys.path[2:]  # behind the folder of this file, and that of the package
    words = become(forked(socket.socket(fileno=int(sys.argv[1]))))
    if words[0] == "-c":
        sys.argv[:] = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), fresh_main())
    elif words[0] == "-m":
        sys.argv[:] = ["-m", *words[2:]]
        sys.path[0] = os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = words
        sys.path[0] = os.path.dirname(os.path.realpath(words[0]))
        runpy.run_path(words[0], run_name="__main__")
