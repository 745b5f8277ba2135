"""A process that was forked from one that had everything loaded is as one that was started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amounts
import pytest
import warm_python

pytestmark = pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" not in os.environ or amounts.thorough(),
    reason="everything is started cold without workers and with --thorough",
)

SAYS = """
import os, signal, sys, tempfile, threading
print(sys.argv, sys.path, sys.orig_argv[1:], __name__, __file__ if len(sys.argv) > 3 else "")
print(sorted(os.environ.items()), os.getcwd(), tempfile.gettempdir())
print(sorted(map(int, os.listdir("/proc/self/fd")))[:-1])
print(os.getpid() == os.getsid(0), os.getppid(), threading.active_count(), os.isatty(0))
print([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)])
for stream in (sys.stdin, sys.stdout, sys.stderr):
    print(stream.encoding, stream.errors, stream.line_buffering, stream.fileno())
print(sys.stdin.read(), file=sys.stderr)
"""


def both(*words: object, **options: Any) -> Iterator[tuple[int, str, str]]:
    """How the same command ends, warm and cold."""
    command = [sys.executable, *map(str, words)]
    for run in (warm_python.run, subprocess.run):
        options = {"capture_output": True, "text": True, "timeout": 120} | options
        done = run(command, **options)
        yield done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("session", [False, True])
def test_what_it_is_given(tmp_path: Path, session: bool) -> None:
    own = {"PYTHONPATH": "/one:/two", "OWN": "é", "TMPDIR": str(tmp_path)}
    environment = {name: value for name, value in os.environ.items() if name != "HOME"} | own
    given = {"cwd": tmp_path, "env": environment, "input": "ü\n", "start_new_session": session}
    warm, cold = both("-c", SAYS, "a", "", **given)
    assert warm == cold and "é" in warm[1] and warm[2] == "ü\n\n"


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("print('beside it', __name__)\n")
    file = tmp_path / "program.py"
    file.write_text("import neighbour\n" + SAYS)
    warm, cold = both(file, "a", "b", "c", input="")
    assert warm == cold and "beside it" in warm[1]


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit('words')", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import atexit; atexit.register(print, 'at the end')", 0),
        ("from threading import Timer; Timer(0.01, print, ['later']).start()", 0),
    ],
)
def test_how_it_ends(code: str, ended: int) -> None:
    warm, cold = both("-c", code)
    assert warm[:2] == cold[:2] and warm[0] == ended
    if "KeyboardInterrupt" not in code:  # says where it was
        assert warm[2] == cold[2]


def test_it_is_a_child_that_signals_reach() -> None:
    code = "import time; print('ready', flush=True); time.sleep(60)"
    with warm_python.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert process.poll() is None
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert f"PPid:\t{os.getpid()}\n" in status
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM


def test_only_what_is_forked_is_adopted() -> None:
    """What a test leaves behind is init's, as ever."""
    warm_python.run([sys.executable, "-c", "pass"], check=True)
    code = "import os, time; os.fork() or (print(os.getpid(), flush=True), time.sleep(60))"
    # the parent ends at once; the child holds the pipe, so its line is read, not its end
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        left = int(process.stdout.readline())
        assert process.wait(60) == 0
        status = Path(f"/proc/{left}/status").read_text()
        os.kill(left, signal.SIGKILL)
    assert f"PPid:\t{os.getpid()}\n" not in status


def test_other_options_are_started_cold() -> None:
    code = "import sys; print('torch' in sys.modules)"
    for words in (["-S", "-c", code], ["-I", "-c", code]):
        assert warm_python.run([sys.executable, *words], capture_output=True).stdout == b"False\n"
    other = os.environ | {"OMP_NUM_THREADS": "3"}
    cold = warm_python.run([sys.executable, "-c", code], env=other, capture_output=True)
    assert cold.stdout == b"False\n"
    warm = warm_python.run([sys.executable, "-c", code], capture_output=True)
    assert warm.stdout == b"True\n"
