"""The tool `python`: what the model reads, what clients are shown, whose state is whose."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from python_tools import ALICE, Notebook, python_tool
from tiny_model import final, scripted, write_tiny

from ossia.errors import SandboxError
from ossia.tools import SessionKey, kernel_process
from ossia.tools.containers import Containers, Rules
from ossia.tools.kernel_process import Ran
from ossia.tools.python import NOTHING_PRINTED, Python, PythonSettings, _joined
from ossia.tools.sandbox.best import Found
from ossia.tools.sandbox.rung import new_uid

BOB = SessionKey("bob", "conversation")
HASTY = PythonSettings(seconds=0.5)
GONE = "variables and imports are gone, files in /mnt/data are kept."


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_process, "GRACE_SECONDS", 0.3)


# ---- cells ----


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("x = 20\nx + 1", "21\n"),
        ("print('a'); 'b'", "a\n'b'\n"),
        ("5;", NOTHING_PRINTED),
        ("None", NOTHING_PRINTED),
        ("", NOTHING_PRINTED),
        ("# only a comment", NOTHING_PRINTED),
        ("exit()", NOTHING_PRINTED),
        ("import sys; sys.exit('bye')", "bye\n"),
        ("print('no newline', end='')", "no newline"),
        ("'ü語'", "'ü語'\n"),
        ("print('\\udc80')", "\\udc80\n"),
        ("input()", "EOFError: EOF when reading a line\n"),
        ("%matplotlib inline\nprint(1)", "1\n"),
        ("!echo hi", "hi\n"),
        ("if True:\n    !echo $((1+1))\nprint('''\n!no\n''')", "2\n\n!no\n\n"),
        ("import os; os.getcwd()", "'/mnt/data'\n"),
        ("1 +", "  File \"<cell N>\", line 1\n    1 +\n       ^\nSyntaxError: invalid syntax\n"),
        ("return 1", "SyntaxError: 'return' outside function\n"),
    ],
)  # fmt: skip
def test_what_the_model_reads(cell: Notebook, code: str, text: str) -> None:
    found = cell(code)
    if text.endswith(("Error: EOF when reading a line\n", "outside function\n")):
        assert found.endswith(text)
    else:
        assert text.replace("<cell N>", "") == found.replace(_cell_name(found), "")


def _cell_name(text: str) -> str:
    start = text.find("<cell ")
    return text[start : text.find(">", start) + 1] if start >= 0 else "<cell N>"


def test_variables_stay(cell: Notebook) -> None:
    cell("import math\nradius = 2")
    assert cell("math.pi * radius") == "6.283185307179586\n"
    assert cell("_ * 0") == "0.0\n"


def test_a_traceback_shows_cells_and_nothing_of_ours(cell: Notebook) -> None:
    cell("def divide(a):\n    return a / 0")
    found = cell(
        "try:\n    divide(1)\nexcept ZeroDivisionError as e:\n    raise ValueError('no') from e"
    )
    assert "    return a / 0\n" in found and "direct cause" in found
    assert found.endswith("ValueError: no\n")
    assert "kernel.py" not in found and "\x1b" not in found
    result = cell.result("1/0")
    assert not result.failed and not result.ended, "the tool did what it was asked for"


def test_everything_is_printed_in_order(cell: Notebook) -> None:
    code = """
import os, subprocess, sys
print("1", end="")
print("2", file=sys.stderr, end="")
os.write(1, b"3")
subprocess.run("echo 4; echo 5 >&2", shell=True)
sys.__stderr__.write("6");
"""
    assert cell(code) == "1234\n5\n6"


def test_an_error_that_cannot_be_written(cell: Notebook) -> None:
    code = "class Odd(Exception):\n    def __str__(self): raise KeyError\nraise Odd"
    assert "Odd" in cell(code)
    assert "RecursionError" in cell("def f(): f()\nf()")


def test_long_outputs_are_cut_in_the_middle(cell: Notebook) -> None:
    found = cell("print('a' * 50_000 + 'b' * 50_000)")
    assert found.startswith("aaa") and found.endswith("bbb\n")
    left_out = 100_001 - kernel_process.MOST_TEXT
    assert f"\n[... {left_out} characters left out ...]\n" in found
    assert len(found) < kernel_process.MOST_TEXT + 100


def test_files_are_seen_outside(cell: Notebook) -> None:
    cell("open('/mnt/data/out.txt', 'w').write('from inside')")
    containers = cell.tool.containers
    with containers.files(cell.container)[0:1] and cell.container.area.open("out.txt") as file:
        assert file.read() == b"from inside"


def test_outputs_are_those_of_the_wire(cell: Notebook) -> None:
    result = cell.result("print(1)")
    assert result.outputs == ({"type": "logs", "logs": "1\n"},)
    assert cell.result("x = 1").outputs == ()
    action = cell.tool.session(ALICE).action("", "print(1)")
    assert action == {"container_id": cell.container.id}


FIGURE = """
import sys, types
made = {PNG!r}
class Figure:
    def savefig(self, file, format, dpi):
        file.write(made)
pyplot = types.ModuleType("matplotlib.pyplot")
pyplot.open = [1, 2]
pyplot.get_fignums = lambda: list(pyplot.open)
pyplot.figure = lambda number: Figure()
pyplot.close = lambda which: pyplot.open.clear()
sys.modules["matplotlib.pyplot"] = pyplot
print("drawn")
"""


def png(width: int, height: int, size: int = 0) -> bytes:
    head = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR"
    return head + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\0" * size


def test_figures_become_images(cell: Notebook) -> None:
    """The plotting library is another's: here one with its face."""
    result = cell.result(FIGURE.replace("{PNG!r}", repr(png(640, 480))))
    images = "[image: figure 1, 640x480]\n[image: figure 2, 640x480]"
    assert result.text == f"drawn\n{images}"
    logs, first, _ = result.outputs
    assert logs["logs"] == "drawn\n" and first["type"] == "image"
    data = first["url"].removeprefix("data:image/png;base64,")
    assert base64.b64decode(data) == png(640, 480)
    assert cell("1") == "1\n", "they are closed"
    shown = cell("pyplot.open.append(3)\n1/0")
    assert shown.endswith("division by zero\n[image: figure 3, 640x480]")
    large = f"made = {png(1, 1, 10)!r} + b'0' * (1 << 20)\npyplot.open.append(4)"
    assert cell(large) == NOTHING_PRINTED, "too large, whatever the dots"
    cell("del sys.modules['matplotlib.pyplot']")


@pytest.mark.slow
def test_figures_of_matplotlib(cell: Notebook) -> None:
    pytest.importorskip("matplotlib")
    found = cell("import matplotlib.pyplot as plt\nplt.plot([1, 2]);\nplt.show()")
    assert found.endswith("[image: figure 1, 640x480]")


# ---- limits ----


def test_at_the_time_limit_the_code_is_interrupted() -> None:
    with python_tool(HASTY) as tool:
        cell = Notebook(tool)
        assert "kept" not in cell("x = 1\nprint('begun')")
        for code in (
            "print('begun')\nwhile True: pass",
            "print('begun')\nimport time; time.sleep(99)",
        ):
            result = cell.result(code)
            assert result.text.startswith("begun\nTraceback")
            told = "[ERROR] The code was interrupted after 0.5 seconds; variables are kept."
            assert result.text.endswith(f"KeyboardInterrupt\n{told}")
            assert (result.failed, result.ended) == (True, False)
        assert cell("x") == "1\n"


def test_code_that_does_not_stop_is_ended(quick: None) -> None:
    with python_tool(HASTY) as tool:
        cell = Notebook(tool)
        cell("open('kept', 'w').write('1')")
        result = cell.result(
            "import time\nprint('begun')\nwhile True:\n    try: time.sleep(99)\n"
            "    except BaseException: pass"
        )
        told = f"[ERROR] The session was restarted (time limit): {GONE}"
        assert result.text == f"begun\n{told}"
        assert (result.failed, result.ended) == (True, True)
        assert cell("import os; os.listdir()") == "['kept']\n"
        assert cell("sum(range(10**12))") == told, "C code does not look for signals"


def test_the_answers_deadline_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with python_tool() as tool:
        Notebook(tool)("0")  # started
        until = time.monotonic() + 1.5
        result = asyncio.run(tool.session(ALICE).call("", "while True: pass", until))  # type: ignore[arg-type]
        assert "after 1.0 seconds; variables are kept" in result.text


def test_ctrl_c() -> None:
    with python_tool() as tool:
        cell = Notebook(tool)
        cell("x = 1")
        assert not tool.interrupt()
        results: list[str] = []
        running = threading.Thread(target=lambda: results.append(cell("while True: pass")))
        running.start()
        while not tool.interrupt("alice"):
            time.sleep(0.01)
        running.join()
        assert not tool.interrupt("bob")
        told = "[ERROR] The code was interrupted by the user; variables are kept."
        assert results[0].endswith(f"KeyboardInterrupt\n{told}")
        assert cell("x") == "1\n"


def test_an_interrupt_that_comes_before_its_cell_has_begun() -> None:
    """Both lines are read at once: the cell is over, and the next one runs."""
    cell = {"id": 1, "code": "import time\nfor _ in range(600): time.sleep(0.1)"}
    lines = [cell, {"interrupt": 1}, {"id": 2, "code": "3"}]
    pipe = subprocess.PIPE
    command = [sys.executable, kernel_process.KERNEL]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as kernel:
        assert kernel.stdin is not None and kernel.stdout is not None
        assert json.loads(kernel.stdout.readline()) == {"ready": True}
        kernel.stdin.write("".join(json.dumps(line) + "\n" for line in lines))
        kernel.stdin.flush()
        replies = [json.loads(kernel.stdout.readline())["id"] for _ in range(2)]
        _, printed = kernel.communicate(timeout=60)
    assert replies == [1, 2]
    assert printed == "KeyboardInterrupt\n3\n"


def test_a_caller_that_goes_away_interrupts_its_cell() -> None:
    with python_tool() as tool:
        cell = Notebook(tool)
        cell("x = 1")

        async def run() -> None:
            session = tool.session(ALICE)
            task = asyncio.create_task(session.call("", "while True: pass", None))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(run())
        assert cell("x") == "1\n", "the next cell need not wait for the time limit"


def test_memory() -> None:
    from ossia.tools.sandbox import Limits

    with python_tool(limits=Limits(memory=150 << 20)) as tool:
        cell = Notebook(tool)
        told = f"[ERROR] The session was restarted (memory limit): {GONE}"
        assert (
            cell("print(1)\nx = bytearray(250 << 20)\nimport time; time.sleep(99)") == f"1\n{told}"
        )
        # in files without a disk
        half = "open('{}/x', 'wb').write(bytes(60 << 20))\n"
        code = half.format("/tmp") + half.format("/dev/shm")
        assert cell(f"{code}x = bytearray(60 << 20)\nimport time; time.sleep(99)") == told
        # pages that are shared count once
        code = """
import os, time
x = bytearray(80 << 20)
children = [os.fork() for _ in range(4) if os.getpid() == os.getpid()]
time.sleep(0.3)
if 0 in children: os._exit(0)
for child in children: os.waitpid(child, 0)
"""
        assert cell(code) == NOTHING_PRINTED


def test_files_have_a_quota(quick: None) -> None:
    containers = Containers(None, Rules(quota=10 << 20, files=20), new_owner=owner)
    with python_tool(containers=containers) as tool:
        cell = Notebook(tool)
        cell("open('first', 'w').write('1')")
        over = cell("x = 1; open('over', 'wb').write(bytes(15 << 20))")
        assert (
            "[ERROR] /mnt/data holds 15 MB in 2 files; at most 10 MB in 20 files may stay" in over
        )
        assert cell("import os; os.remove('over'); x") == "1\n"
        full = cell("open('over', 'wb').write(bytes(25 << 20))")
        assert "(disk limit)" in full and "written last were deleted" in full
        assert cell("import os; os.listdir()") == "['first']\n"
        many = cell("for n in range(100): open(str(n), 'w')")
        assert "(disk limit)" in many


def owner() -> int | None:
    import os

    return new_uid() if os.geteuid() == 0 else None


# ---- sessions ----


def test_callers_share_nothing(shared: Python) -> None:
    hers, his = Notebook(shared), Notebook(shared, BOB)
    hers("secret = 42\nopen('hers', 'w').write('x')")
    assert "NameError" in his("secret")
    assert "hers" not in his("import os; os.listdir('/mnt/data')")
    assert hers("secret") == "42\n"


def test_without_a_conversation_nothing_stays(shared: Python) -> None:
    first = Notebook(shared, SessionKey("carol"))
    first("x = 1")
    first.sessions.close_now()
    shared.containers.settle()
    assert shared.containers.of_caller("carol") == []
    assert "NameError" in Notebook(shared, SessionKey("carol"))("x")


def test_the_least_recently_used_gives_way() -> None:
    settings = PythonSettings(most=3, most_per_caller=2)
    with python_tool(settings) as tool:
        first, second, third = (Notebook(tool, SessionKey("alice", name)) for name in "abc")
        for cell in (first, second, first, third):
            cell("x = 1")
        assert first("x") == "1\n"
        evicted = second.result("x")
        told = f"[ERROR] The session was restarted (its place was needed): {GONE}\n"
        assert evicted.text.startswith(told + "Traceback") and not evicted.ended
        others = [Notebook(tool, SessionKey(name, "c")) for name in ("bob", "carol")]
        for cell in others:
            cell("1")
        assert tool.sessions <= 3


def test_when_all_are_busy(shared: Python) -> None:
    with python_tool(PythonSettings(most=1)) as tool:
        cell = Notebook(tool)
        cell("1")
        running = threading.Thread(target=lambda: cell("while True: pass"))
        running.start()
        while not any(kernel._current for _, kernel in tool._live.values()):
            time.sleep(0.01)
        assert Notebook(tool, BOB)("1") == "error: all Python sessions are in use: try again later"
        tool.interrupt()
        running.join()


def test_an_idle_session_ends_and_says_so() -> None:
    with python_tool(PythonSettings(idle_seconds=0.2)) as tool:
        cell = Notebook(tool)
        cell("open('kept', 'w').write('1')")
        while tool.sessions:
            time.sleep(0.01)
        told = cell("import os; os.listdir()")
        assert told.startswith("[ERROR] The session was restarted (it was not used for ")
        assert told.endswith("['kept']\n")


def test_a_restarted_server_says_so(tmp_path: Path) -> None:
    def containers() -> Containers:
        return Containers(tmp_path, new_owner=owner)

    with python_tool(containers=containers()) as tool:
        Notebook(tool)("open('kept', 'w').write('1')")
    with python_tool(containers=containers()) as tool:
        told = Notebook(tool)("import os; os.listdir()")
    first = f"[ERROR] The session was restarted (the server was restarted): {GONE}\n"
    assert told == first + "['kept']\n"


def test_a_container_that_is_deleted_takes_its_process_along() -> None:
    with python_tool() as tool:
        cell = Notebook(tool)
        cell("x = 1")
        tool.containers.delete("alice", cell.container.id)
        tool.containers.settle()
        assert tool.sessions == 0
        assert "NameError" in cell("x")


def test_nothing_confines(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Found(None, (("docker", "docker is not installed"),))
    monkeypatch.setattr("ossia.tools.sandbox.best.find", lambda _: nothing)
    tool = Python()
    with pytest.raises(SandboxError):
        tool.prepare()
    assert Notebook(tool)("1").startswith("error: nothing on this machine confines code")


def test_notes_stand_on_lines_of_their_own() -> None:
    assert _joined(["before"], "x", ["after"]) == "before\nx\nafter"
    assert _joined([], "x\n", ["a", "b"]) == "x\na\nb"
    assert _joined([], "x", []) == "x"
    assert Ran("x").figures == ()


def test_a_chat_runs_code(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Through the protocol, with a scripted model."""
    tiny = write_tiny(tmp_path_factory.mktemp("models") / "tiny")
    run = "<|channel|>analysis to=python code<|message|>{}<|call|>"
    samples = [run.format("x = 6"), run.format("x * 7"), final("It is 42.")]
    llm, script = scripted(tiny, *samples)
    with python_tool() as tool:
        chat = llm.chat("What is 6 * 7?", tools=[tool])
        assert chat.result().text == "It is 42."
    assert "<|start|>python to=assistant<|channel|>analysis<|message|>42" in script.prompts[-1]
    assert script.prompts[0].count("## python") == 1
