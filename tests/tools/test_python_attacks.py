"""Cells that mean harm: what they reach, what they leave behind, and what they cost us. After each,
the next cell works.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from python_tools import Notebook, python_tool

from ossia.errors import ContainerError
from ossia.tools import SessionKey, kernel_process
from ossia.tools.python import NOTHING_PRINTED, Python, PythonSettings
from ossia.tools.sandbox import tree

DIED = "(the interpreter died)"
TIME = "(time limit)"
REPLIES = 201  # the kernel's descriptor
HASTY = PythonSettings(seconds=1.0)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    monkeypatch.setattr(kernel_process, "GRACE_SECONDS", 0.3)
    with python_tool(HASTY) as tool:
        yield Notebook(tool)


def works(cell: Notebook) -> bool:
    return cell("6 * 7").endswith("42\n")


def processes_of(pid: int) -> list[int]:
    return tree.descendants(pid)[1:]


def reply(value: str) -> str:
    """A cell that writes what the kernel would reply with."""
    return f"import os; os.write({REPLIES}, {value})"


NO_PICTURE = """b'{"id": 1, "figures": [{"number": 1, "png": "aGk="}]}\\n'"""
DEADLY = {
    "exit at once": "import os; os._exit(0)",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "abort": "import os; os.abort()",
    "kill itself": "import os; os.kill(os.getpid(), 9)",
    "close everything": "import os; os.closerange(0, 4096); print(1)",
    "close what replies": f"import os; os.close({REPLIES})",
    "no JSON": reply("b'garbage\\n'"),
    "no UTF-8": reply("b'\\xff\\xfe\\n'"),
    "a list": reply("b'[]\\n'"),
    "another id": reply("""b'{"id": 99}\\n'"""),
    "deep JSON": reply("b'[' * 200_000 + b'\\n'"),
    "large number": reply("""b'{"id": ' + b'9' * 5000 + b'}\\n'"""),
    "two replies": reply("""b'{"id": 1}\\n{"id": 1}\\n{}\\n'"""),
    "figures that are none": reply("""b'{"id": 1, "figures": 7}\\n'"""),
    "pictures that are none": reply(NO_PICTURE),
    "a line without an end": f"import os\nwhile True: os.write({REPLIES}, b'x' * 100_000)",
}


@pytest.mark.parametrize("name", DEADLY)
def test_a_cell_that_ends_its_process(shared: Python, name: str) -> None:
    cell = Notebook(shared, SessionKey("alice", name))
    result = cell.result(DEADLY[name])
    if not result.ended:  # the true reply comes behind the false one
        result = cell.result("1")
    assert DIED in result.text and result.ended
    assert works(cell)


def test_a_false_reply_deceives_nobody_but_its_own_session(cell: Notebook) -> None:
    """It is taken for the end of its own cell; the true one behind it ends the process."""
    other = Notebook(cell.tool, SessionKey("bob", "c"))
    other("x = 5")
    cell.tool.containers.delete("alice", cell.container.id)
    cell.tool.containers.settle()
    cell(f'import os; os.write({REPLIES}, b\'{{"id": 1, "figures": []}}\\n\')')
    cell("1")
    assert works(cell) and other("x") == "5\n"


STUBBORN = {
    "C": "sum(range(10**12))",
    "regular expression": "import re; re.match('(a*)*b', 'a' * 64)",
    "stop itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "ignore interrupts":
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
    "block interrupts":
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
    "processes without end": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "thread that keeps the interpreter":
        "import threading\nthreading.Thread(target=sum, args=(range(10**12),)).start()\n"
        "sum(range(10**12))",
}  # fmt: skip


@pytest.mark.parametrize("name", STUBBORN)
def test_a_cell_that_does_not_end(hasty: Notebook, name: str) -> None:
    result = hasty.result(STUBBORN[name])
    assert (TIME in result.text or "(process limit)" in result.text) and result.ended
    assert works(hasty)


def test_many_processes_do_not_outlive_their_session() -> None:
    with python_tool() as tool:
        cell = Notebook(tool)
        code = """
import os, time
try:
    while True:
        if os.fork() == 0:
            os.setsid()
            time.sleep(1000)
except BlockingIOError:
    print("no more")
"""
        assert cell(code) == "no more\n"
        ((_, kernel),) = tool._live.values()
        pid = kernel.running_pid
        assert pid is not None
        below = processes_of(pid)
        assert 40 < len(below) < 80
        tool.close()
        assert not [each for each in below if _is_alive(each)]


def _is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_nothing_runs_between_two_cells(cell: Notebook) -> None:
    """A thread and a process go on when the next cell runs, not before."""
    code = """
import os, subprocess, threading, time
def count(name):
    while True:
        with open(name, "a") as file: file.write("x")
        time.sleep(0.001)
threading.Thread(target=count, args=("thread",), daemon=True).start()
if os.fork() == 0: count("process")
while not (os.path.exists("thread") and os.path.exists("process")): time.sleep(0.01)
"""
    cell(code)
    time.sleep(0.1)  # a processor takes a moment to notice that its process is stopped
    sizes = [_sizes(cell)]
    time.sleep(0.2)
    sizes.append(_sizes(cell))
    assert sizes[0] == sizes[1] and set(sizes[0]) == {"thread", "process"}
    cell("time.sleep(0.1)")
    after = _sizes(cell)
    assert all(after[name] > sizes[0][name] for name in after)
    cell("os._exit(0)")


def _sizes(cell: Notebook) -> dict[str, int]:
    found = {file.path: file.bytes for file in cell.container.area.files()}
    return {name: size for name, size in found.items() if name in ("thread", "process")}


def test_what_a_thread_prints_late_costs_nothing(cell: Notebook) -> None:
    code = """
import os, threading
def talk():
    while True: os.write(1, b"late " * 1000)
threading.Thread(target=talk, daemon=True).start()
print("now")
"""
    assert len(cell(code)) < kernel_process.MOST_TEXT + 100
    assert len(cell("import time; time.sleep(0.2)")) < kernel_process.MOST_TEXT + 100
    cell("os._exit(0)")


def test_closed_descriptors_are_given_back(cell: Notebook) -> None:
    for code in ("import os; os.closerange(0, 10)", "import sys; sys.stdout = sys.stderr = None"):
        cell(code)
        assert works(cell)
    cell("import sys; sys.stdout.close()")
    assert works(cell)
    cell("import builtins; builtins.print = None; import sys; sys.displayhook = None")
    assert "TypeError" in cell("1")
    cell("import os; os._exit(0)")


def test_links_and_pipes_in_the_files(cell: Notebook, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    cell(
        f"import os\nos.symlink({str(secret)!r}, 'link')\nos.symlink('/', 'root')\n"
        "os.mkfifo('pipe')\nos.symlink('loop', 'loop')\nos.makedirs('a/b')\nopen('a/b/c', 'w')"
    )
    container = cell.container
    assert "a/b/c" in [file.path for file in cell.tool.containers.files(container)]
    for path in ("link", f"root{secret}", "pipe", "loop", "a/../link"):
        with pytest.raises(ContainerError):
            container.area.open(path)
    assert "No such file" in cell("open('link').read()"), "inside, it leads nowhere"
    cell("[os.remove(name) for name in ('link', 'root', 'pipe', 'loop')]")


def test_limits_cannot_be_raised(cell: Notebook) -> None:
    code = """
import resource
for name in ("NPROC", "FSIZE", "CPU", "NOFILE", "AS", "DATA"):
    kind = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(kind)[1]
    try:
        resource.setrlimit(kind, (hard, hard + 1))
        print(name, "raised")
    except (ValueError, OSError):
        pass
"""
    assert "raised" not in cell(code)


MEMORY_WITHOUT_A_PROCESS = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
made = []
for name, call in {
    "memfd": lambda: libc.memfd_create(b"x", 0),
    "shm": lambda: libc.shmget(0, 1 << 30, 0o1600),
    "queue": lambda: libc.msgget(0, 0o1600),
    "semaphores": lambda: libc.semget(0, 1000, 0o1600),
}.items():
    if call() != -1: made.append(name)
print(made)
"""


def test_memory_that_belongs_to_no_process(cell: Notebook) -> None:
    assert cell(MEMORY_WITHOUT_A_PROCESS) == "[]\n"


def test_empty_files_in_memory_are_counted(hasty: Notebook) -> None:
    """Each takes the kernel's memory, and none of a process."""
    code = "n = 0\nwhile True:\n    open(f'/tmp/{n}', 'w').close(); n += 1"
    hasty(code)
    assert int(hasty("import os; len(os.listdir('/tmp'))").split()[-1]) < 60_000


def test_what_hides_its_memory_is_counted() -> None:
    from ossia.tools.sandbox import Limits

    with python_tool(limits=Limits(memory=150 << 20)) as tool:
        code = (
            "import ctypes, time; ctypes.CDLL(None).prctl(4, 0)\n"  # not dumpable
            "x = bytearray(200 << 20); time.sleep(60)"
        )
        assert "(memory limit)" in Notebook(tool)(code)
        # tables of pages, of a map that takes no page
        code = """
import mmap
made = []
while True:
    x = mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
    made.append(x)
    for at in range(0, 1 << 30, 1 << 21): x[at]
"""
        found = Notebook(tool)(code)
        assert "(memory limit)" in found or "Cannot allocate memory" in found


def test_process_1_is_filtered_too(cell: Notebook) -> None:
    """Where it is of our user, its memory can be written: it must be able to do no more than we."""
    found = cell("print([l for l in open('/proc/1/status') if l.startswith('Seccomp:')])")
    assert "Seccomp:\\t2" in found


def test_signals_reach_nobody_else(cell: Notebook) -> None:
    found = cell("import os, signal\nos.kill(-1, signal.SIGKILL)\nos.kill(1, signal.SIGKILL)")
    assert found == NOTHING_PRINTED or "Error" in found
    assert works(cell)


def test_setuid_programs_gain_nothing(cell: Notebook) -> None:
    found = cell("!su -c id root < /dev/null; cat /etc/shadow; mount -t tmpfs x /tmp; id -u")
    assert "uid=0" not in found and "root:" not in found


def test_the_servers_memory_stays_flat(cell: Notebook) -> None:
    """Also of 100 MB in one line, and of a gigabyte with `--slow` below."""
    cell("1")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = cell("print('x' * (100 << 20))")
    assert f"[... {(100 << 20) + 1 - kernel_process.MOST_TEXT} characters left out ...]" in found
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.slow
def test_a_gigabyte_is_printed(cell: Notebook) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cell("for _ in range(1024): print('x' * (1 << 20))")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.slow
def test_a_hundred_hostile_cells(hasty: Notebook) -> None:
    """Interleaved, in two sessions; the memory of this process does not grow, nor its descriptors
    or threads.
    """
    cells = [*DEADLY.values(), *STUBBORN.values(), "print('x' * (50 << 20))"]
    notebooks = [Notebook(hasty.tool, SessionKey(name, "c")) for name in ("alice", "bob")]
    hasty("1")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for n in range(100):
        notebooks[n % 2](cells[n % len(cells)])
    assert all(map(works, notebooks))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    hasty.tool.close()
    assert len(os.listdir("/proc/self/fd")) < 200
